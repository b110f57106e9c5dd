-- Raises our error if arguments of preference_pairs or pair_report cannot be meant, as the plan
-- does; NULL if they can.
CREATE OR REPLACE MACRO pref_pairs_refusal(
  macro, strategy, chosen_min, rejected_below, chosen_quantile, rejected_quantile, min_margin,
  max_pairs_per_prompt, top_k, bottom_k, seed
) AS
CASE
  WHEN coalesce(strategy NOT IN ('best_worst', 'best_random', 'best_rest', 'adjacent', 'all',
    'threshold'), true)
  THEN error('prefmill: ' || macro || ': unknown strategy; got ' || coalesce(strategy, 'NULL')
    || ', expected best_worst, best_random, best_rest, adjacent, all or threshold.')
  WHEN strategy = 'threshold' AND (chosen_min IS NULL OR rejected_below IS NULL)
  THEN error('prefmill: ' || macro
    || ': strategy ''threshold'' needs both chosen_min and rejected_below; got NULL.')
  WHEN NOT coalesce(isfinite(pref_threshold(chosen_min)), true)
    OR NOT coalesce(isfinite(pref_threshold(rejected_below)), true)
  THEN error('prefmill: ' || macro || ': a threshold is no finite number or NULL; got '
    || coalesce(chosen_min::VARCHAR, 'NULL') || ' and ' || coalesce(rejected_below::VARCHAR, 'NULL')
    || '.')
  WHEN coalesce(NOT isfinite(min_margin::DOUBLE) OR min_margin < 0, true)
  THEN error('prefmill: ' || macro || ': min_margin is no finite number >= 0; got '
    || coalesce(min_margin::VARCHAR, 'NULL') || '.')
  WHEN max_pairs_per_prompt < 1 OR max_pairs_per_prompt <> floor(max_pairs_per_prompt)
  THEN error('prefmill: ' || macro || ': max_pairs_per_prompt is no whole number >= 1 or NULL; got '
    || max_pairs_per_prompt || '.')
  WHEN top_k < 1 OR top_k <> floor(top_k)
  THEN error('prefmill: ' || macro || ': top_k is no whole number >= 1 or NULL; got ' || top_k
    || '.')
  WHEN bottom_k < 1 OR bottom_k <> floor(bottom_k)
  THEN error('prefmill: ' || macro || ': bottom_k is no whole number >= 1 or NULL; got ' || bottom_k
    || '.')
  WHEN pref_quantile_refusal(macro, chosen_min, rejected_below, chosen_quantile,
    rejected_quantile) IS NOT NULL THEN NULL
  ELSE pref_seed_refusal(macro, seed)
END;
