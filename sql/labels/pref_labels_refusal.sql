-- Raises our error if the thresholds of unpaired cannot be meant; NULL if they can.
CREATE OR REPLACE MACRO pref_labels_refusal(
  chosen_min, rejected_below, chosen_quantile, rejected_quantile
) AS
CASE
  WHEN coalesce(NOT isfinite(pref_threshold(chosen_min))
    OR NOT isfinite(pref_threshold(rejected_below)), true)
  THEN error('prefmill: unpaired: labels need both chosen_min and rejected_below,'
    || ' as finite numbers; got ' || coalesce(chosen_min::VARCHAR, 'NULL')
    || ' and ' || coalesce(rejected_below::VARCHAR, 'NULL') || '.')
  WHEN chosen_quantile IS NOT NULL OR rejected_quantile IS NOT NULL
  THEN pref_quantile_refusal('unpaired', chosen_min, rejected_below, chosen_quantile,
    rejected_quantile)
  WHEN pref_threshold(rejected_below) > pref_threshold(chosen_min)
  THEN error('prefmill: unpaired: rejected_below must not exceed chosen_min; got '
    || pref_threshold(rejected_below) || ' > ' || pref_threshold(chosen_min)
    || ': a score between would be both.')
END;
