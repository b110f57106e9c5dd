-- Raises our error if quantiles cannot be meant, next to these thresholds; NULL if they can.
CREATE OR REPLACE MACRO pref_quantile_refusal(
  macro, chosen_min, rejected_below, chosen_quantile, rejected_quantile
) AS
CASE
  WHEN chosen_quantile::DOUBLE <= 0 OR chosen_quantile::DOUBLE >= 1
    OR rejected_quantile::DOUBLE <= 0 OR rejected_quantile::DOUBLE >= 1
  THEN error('prefmill: ' || macro || ': a quantile is a number above 0 and below 1, or NULL; got '
    || coalesce(chosen_quantile::VARCHAR, 'NULL') || ' and '
    || coalesce(rejected_quantile::VARCHAR, 'NULL') || '.')
  WHEN chosen_quantile IS NOT NULL AND NOT pref_is_auto(chosen_min)
  THEN error('prefmill: ' || macro || ': chosen_min and chosen_quantile are one bound; got '
    || coalesce(chosen_min::VARCHAR, 'NULL') || ' and ' || chosen_quantile
    || ', expected one of them.')
  WHEN rejected_quantile IS NOT NULL AND NOT pref_is_auto(rejected_below)
  THEN error('prefmill: ' || macro || ': rejected_below and rejected_quantile are one bound; got '
    || coalesce(rejected_below::VARCHAR, 'NULL') || ' and ' || rejected_quantile
    || ', expected one of them.')
  WHEN macro = 'unpaired' AND rejected_quantile > chosen_quantile
  THEN error('prefmill: unpaired: rejected_quantile must not exceed chosen_quantile; got '
    || rejected_quantile || ' > ' || chosen_quantile || '.')
END;
