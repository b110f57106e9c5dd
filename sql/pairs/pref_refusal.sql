-- Why no pair of a group can stand, judged by its best and worst candidate; NULL if these two could
-- pair.
CREATE OR REPLACE MACRO pref_refusal(n, best, worst, chosen_min, rejected_below, min_margin) AS
CASE
  WHEN n < 2 THEN 'single_completion'
  WHEN best = worst THEN 'tie'
  WHEN best < chosen_min THEN 'below_chosen_min'
  WHEN worst >= rejected_below THEN 'not_below_rejected'
  WHEN best - worst < min_margin THEN 'below_min_margin'
END;
