-- Why a row whose policy weight is `weight` does not count; NULL if it counts. Log-probabilities
-- may be negative.
CREATE OR REPLACE MACRO pref_weight_refusal(weight, logs) AS
CASE WHEN NOT coalesce(isfinite(weight) AND (logs OR weight >= 0), false) THEN 'bad_weight' END;
