-- A computed statistic, rounded as computed scores are; NULL where it is undefined or larger than a
-- float64.
CREATE OR REPLACE MACRO pref_finite(x) AS CASE WHEN isfinite(x) THEN pref_round(x) END;
