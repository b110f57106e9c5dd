-- The drop report of pairs.
--
-- In: `counted`, `candidates`, `groups`, outputs of pref_rows, pref_candidates and pref_groups;
-- `paired`, that of pref_pairs with a column _same_text. Out, one row: rows_in, rows_used,
-- rows_not_selected BIGINT, dropped MAP(VARCHAR, BIGINT) of reason to rows, groups_in, groups_used,
-- pairs_out BIGINT. `once`: no candidate stands in two pairs (best_worst, best_random), so that
-- none has to be told apart.
CREATE OR REPLACE MACRO pref_report(
  counted, candidates, groups, paired, chosen_min := NULL, rejected_below := NULL, min_margin := 0,
  aggregate := 'none', once := false
) AS TABLE (
  WITH per_group AS (
    SELECT _first, count(*) AS standing, count(*) FILTER (NOT _same_text) AS kept
    FROM query_table(paired) GROUP BY _first),
  fates AS (
    SELECT g._votes, coalesce(p.kept, 0) AS kept,
           CASE WHEN p.kept > 0 THEN NULL
                WHEN p.standing > 0 THEN 'identical_text'
                ELSE coalesce(pref_refusal(g._n, pref_key_score(g._ranks[-1]),
                  pref_key_score(g._ranks[1]), chosen_min, rejected_below, min_margin),
                  'no_adjacent_pair') END AS reason
    FROM query_table(groups) g LEFT JOIN per_group p ON g._first = p._first),
  used AS NOT MATERIALIZED (
    SELECT DISTINCT unnest([_chosen, _rejected]) AS pos
    FROM query_table(paired) WHERE NOT _same_text),
  both_sides AS NOT MATERIALIZED (
    SELECT 2 * count(*) AS n FROM query_table(paired) WHERE NOT _same_text),
  told_apart AS NOT MATERIALIZED (
    SELECT count(*) AS n FROM used),
  by_votes AS NOT MATERIALIZED (
    SELECT coalesce(sum(_votes), 0)::BIGINT AS n
    FROM query_table(candidates) c SEMI JOIN used ON c._pos = used.pos),
  used_rows AS (
    FROM query_table(CASE WHEN aggregate <> 'none' THEN 'by_votes' WHEN once THEN 'both_sides'
      ELSE 'told_apart' END)),
  no_rows AS NOT MATERIALIZED (
    SELECT NULL::VARCHAR AS _reason, 0 AS _votes),
  dropped AS (
    SELECT _reason AS reason, count(*) AS n
    FROM query_table(counted) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT _reason, sum(_votes)::BIGINT
    FROM query_table(CASE WHEN aggregate = 'none' THEN 'no_rows' ELSE candidates END)
    WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT reason, sum(_votes)::BIGINT FROM fates WHERE reason IS NOT NULL GROUP BY reason)
  SELECT (SELECT count(*) FROM query_table(counted)) AS rows_in,
         (SELECT n FROM used_rows) AS rows_used,
         (SELECT coalesce(sum(_votes) FILTER (kept > 0), 0)::BIGINT FROM fates)
           - (SELECT n FROM used_rows) AS rows_not_selected,
         (SELECT coalesce(map_from_entries(list(row(reason, n) ORDER BY reason)), MAP {})
           FROM dropped) AS dropped,
         (SELECT count(*) FROM fates) AS groups_in,
         (SELECT count(*) FROM fates WHERE kept > 0) AS groups_used,
         (SELECT coalesce(sum(kept), 0)::BIGINT FROM fates) AS pairs_out
);
