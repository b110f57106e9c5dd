-- Why a row does not count where conclusions are voted on; NULL if it counts.
CREATE OR REPLACE MACRO pref_conclusion_refusal(conclusion) AS
CASE WHEN coalesce(conclusion::VARCHAR, '') = '' THEN 'no_conclusion' END;
