-- Whether two scores make a pair; thresholds may be NULL.
CREATE OR REPLACE MACRO pref_stands(chosen, rejected, chosen_min, rejected_below, min_margin) AS
chosen > rejected AND coalesce(chosen >= chosen_min, true)
  AND coalesce(rejected < rejected_below, true) AND chosen - rejected >= min_margin;
