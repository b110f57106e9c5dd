-- Why a row does not count where answers are voted on; NULL if it counts.
CREATE OR REPLACE MACRO pref_answer_refusal(answer) AS
CASE WHEN coalesce(answer::VARCHAR, '') = '' THEN 'no_answer' END;
