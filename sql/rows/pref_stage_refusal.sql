-- Why a row does not count when only the last stage does; NULL if it counts.
CREATE OR REPLACE MACRO pref_stage_refusal(stage, last) AS
CASE WHEN stage IS NULL THEN 'null_stage' WHEN stage < last THEN 'earlier_stage' END;
