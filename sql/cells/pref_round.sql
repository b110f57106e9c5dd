-- x rounded to 9 decimals, half away from zero. The inner rounding takes off what float arithmetic
-- left of the thirteenth digit on, so that a decimal half is a half in whatever order it was summed
-- up. Beyond 4e6 a float has no 9 decimals left.
CREATE OR REPLACE MACRO pref_round(x) AS
CASE WHEN abs(x) < 4e6 THEN round(round(x * 1e9, 3)) / 1e9 ELSE x END;
