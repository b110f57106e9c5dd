-- Whether a prompt of n answers proposes few enough pairs under the strategies all and threshold;
-- our error if not: they are in memory together. The number is that of prefmill.rules.explosion.
CREATE OR REPLACE MACRO pref_is_bounded(n, top_k, bottom_k) AS
CASE
  WHEN least(n::HUGEINT * (n - 1) // 2, least(n, coalesce(top_k::BIGINT, n))::HUGEINT
    * least(n, coalesce(bottom_k::BIGINT, n))) > 10000000
  THEN error('prefmill: preference_pairs: a prompt of ' || n
    || ' answers would propose more than 10000000 pairs; set top_k and bottom_k, or use best_rest,'
    || ' best_random or adjacent.')
  ELSE true
END;
