-- Pairs that are made of one prompt: they are in memory together. The number is that of
-- prefmill.rules.explosion.
CREATE OR REPLACE MACRO pref_most_of_a_prompt() AS 10000000;
-- Whether a prompt of n answers proposes more under the strategies all and threshold.
CREATE OR REPLACE MACRO pref_is_hot(n, top_k, bottom_k) AS
least(n::HUGEINT * (n - 1) // 2, least(n, coalesce(top_k::BIGINT, n))::HUGEINT
  * least(n, coalesce(bottom_k::BIGINT, n))) > pref_most_of_a_prompt();
-- Whether of a hot prompt only so many pairs are made as its cap draws.
CREATE OR REPLACE MACRO pref_is_capped(strategy, cap) AS
strategy IN ('all', 'threshold') AND coalesce(cap <= pref_most_of_a_prompt(), false);
-- Whether all pairs of a prompt of n answers are made; our error if these are too many.
CREATE OR REPLACE MACRO pref_is_bounded(n, strategy, top_k, bottom_k, cap) AS
CASE
  WHEN strategy NOT IN ('all', 'threshold') OR NOT pref_is_hot(n, top_k, bottom_k) THEN true
  WHEN pref_is_capped(strategy, cap) THEN false
  ELSE error('prefmill: preference_pairs: a prompt of ' || n || ' answers would propose more than '
    || pref_most_of_a_prompt() || ' pairs; set max_pairs_per_prompt, or top_k and bottom_k, or use'
    || ' best_rest, best_random or adjacent.')
END;
