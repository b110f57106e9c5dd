-- What a run asks of its groups or candidates before it goes on, one row each.
--
-- Smallest and largest score: of the output of pref_groups (its ranks are keys), or of that of
-- pref_candidates.
CREATE OR REPLACE MACRO pref_group_scale(groups) AS TABLE (
  SELECT min(pref_key_score(_ranks[1])) AS _low, max(pref_key_score(_ranks[-1])) AS _high
  FROM query_table(groups)
);
CREATE OR REPLACE MACRO pref_score_scale(candidates) AS TABLE (
  SELECT min(_score) AS _low, max(_score) AS _high
  FROM query_table(candidates) WHERE _reason IS NULL
);
-- How many pairs the strategies all and threshold make, and the candidates of the largest group of
-- which all are made: those of a hot one are drawn, where there is a cap.
CREATE OR REPLACE MACRO pref_proposals(
  groups, strategy := 'all', max_pairs_per_prompt := NULL, top_k := NULL, bottom_k := NULL
) AS TABLE (
  WITH sides AS NOT MATERIALIZED (
    SELECT _n, _n::HUGEINT * (_n - 1) // 2 AS _most,
           least(_n, coalesce(top_k::BIGINT, _n))::HUGEINT
           * least(_n, coalesce(bottom_k::BIGINT, _n))::HUGEINT AS _both
    FROM query_table(groups)
    WHERE NOT (pref_is_capped(strategy, max_pairs_per_prompt) AND pref_is_hot(_n, top_k, bottom_k)))
  SELECT coalesce(sum(least(_both, _most)), 0) AS proposals, max(_n) AS largest FROM sides
);
