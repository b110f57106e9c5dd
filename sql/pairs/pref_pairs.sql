-- The pairs that a strategy proposes and the thresholds, the margin and the cap let stand.
--
-- In: `groups`, the output of pref_groups. Out, in no order: _first BIGINT (of the group), _grp, _c
-- and _r BIGINT (ranks, 1 is the worst), _chosen and _rejected BIGINT (positions), _chosen_score
-- and _rejected_score DOUBLE. Texts are not looked at. Cost: the pairs proposed, O(n) or O(n^2) of
-- a group; of a hot one with a cap that of pref_drawn. A cap reads `groups` twice.
CREATE OR REPLACE MACRO pref_pairs(
  groups, strategy := 'best_worst', chosen_min := NULL, rejected_below := NULL, min_margin := 0,
  max_pairs_per_prompt := NULL, top_k := NULL, bottom_k := NULL, seed := 0
) AS TABLE (
  -- As columns, so that thresholds can be subqueries: a lambda takes none.
  WITH bounded AS NOT MATERIALIZED (
    SELECT *, chosen_min AS _chosen_min, rejected_below AS _rejected_below
    FROM query_table(groups)),
  -- A group whose best and worst candidate cannot pair proposes nothing.
  open AS NOT MATERIALIZED (
    SELECT * FROM bounded
    WHERE pref_refusal(_n, pref_key_score(_ranks[-1]), pref_key_score(_ranks[1]), _chosen_min,
      _rejected_below, min_margin) IS NULL
      AND pref_is_bounded(_n, strategy, top_k, bottom_k, max_pairs_per_prompt)),
  hot AS NOT MATERIALIZED (
    SELECT * FROM bounded
    WHERE pref_refusal(_n, pref_key_score(_ranks[-1]), pref_key_score(_ranks[1]), _chosen_min,
      _rejected_below, min_margin) IS NULL
      AND pref_is_hot(_n, top_k, bottom_k)),
  chosen AS NOT MATERIALIZED (
    SELECT *,
           unnest(range(CASE WHEN strategy IN ('best_worst', 'best_random', 'best_rest') THEN _n
             ELSE greatest(2, _n - coalesce(top_k::BIGINT, _n) + 1) END, _n + 1)) AS _c
    FROM open),
  proposed AS NOT MATERIALIZED (
    SELECT *, unnest(CASE strategy
        WHEN 'best_worst' THEN [1::BIGINT]
        WHEN 'adjacent'
        THEN CASE WHEN _c - 1 <= coalesce(bottom_k::BIGINT, _n) THEN [_c - 1] ELSE [] END
        ELSE range(1, least(_c - 1, coalesce(bottom_k::BIGINT, _n)) + 1) END) AS _r
    FROM chosen),
  drawn AS NOT MATERIALIZED (
    SELECT *,
           unnest([1 + (pref_hash(_grp, seed) % len(list_filter(
             _ranks[1:least(_n - 1, coalesce(bottom_k::BIGINT, _n))],
             lambda low: pref_stands(pref_key_score(_ranks[-1]), pref_key_score(low), _chosen_min,
               _rejected_below, min_margin)))::UBIGINT)::BIGINT]) AS _r
    FROM chosen),
  scored AS NOT MATERIALIZED (
    SELECT _first, _grp, _c, _r, _chosen_min, _rejected_below,
           pref_key_position(_ranks[_c - _n - 1]) AS _chosen,
           pref_key_position(_ranks[_r]) AS _rejected,
           pref_key_score(_ranks[_c - _n - 1]) AS _chosen_score,
           pref_key_score(_ranks[_r]) AS _rejected_score
    FROM query_table(CASE WHEN strategy = 'best_random' THEN 'drawn' ELSE 'proposed' END)),
  standing AS NOT MATERIALIZED (
    SELECT * EXCLUDE (_chosen_min, _rejected_below) FROM scored
    WHERE pref_stands(_chosen_score, _rejected_score, _chosen_min, _rejected_below, min_margin)),
  capped AS NOT MATERIALIZED (
    SELECT * FROM standing
    QUALIFY row_number() OVER (PARTITION BY _first
      ORDER BY pref_mix(xor(pref_mix(xor(pref_hash(_grp, seed) & 4294967295::UBIGINT, _c::UBIGINT)),
        _r::UBIGINT)), _c, _r)
      <= max_pairs_per_prompt),
  with_hot AS NOT MATERIALIZED (
    FROM capped
    UNION ALL BY NAME
    FROM pref_drawn('hot', max_pairs_per_prompt, min_margin := min_margin, top_k := top_k,
      bottom_k := bottom_k, seed := seed))
  FROM query_table(CASE WHEN max_pairs_per_prompt IS NULL THEN 'standing'
    WHEN pref_is_capped(strategy, max_pairs_per_prompt) THEN 'with_hot' ELSE 'capped' END)
);
