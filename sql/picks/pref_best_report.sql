-- The drop report of best-of-K. Groups are prompts, also where one pool is the whole table.
--
-- In: `counted`, `candidates`, `pools`, outputs of pref_rows, pref_candidates and pref_pools;
-- `picks`, a relation with a _pos for every row of output. Out: one row, columns as in pref_report.
CREATE OR REPLACE MACRO pref_best_report(
  counted, candidates, pools, picks, scope := 'prompt', min_score := NULL, aggregate := 'none'
) AS TABLE (
  WITH dropped AS (
    SELECT _reason AS reason, count(*) AS n
    FROM query_table(counted) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT _reason, sum(_votes)::BIGINT
    FROM query_table(candidates) WHERE _reason IS NOT NULL AND aggregate <> 'none' GROUP BY _reason
    UNION ALL
    SELECT 'below_min_score', sum(_votes)::BIGINT
    FROM query_table(candidates) WHERE _reason IS NULL AND _score < min_score HAVING count(*) > 0),
  used AS (
    SELECT count(*) AS n FROM query_table(picks) WHERE aggregate = 'none'
    UNION ALL
    SELECT coalesce(sum(_votes), 0)::BIGINT
    FROM query_table(candidates) c SEMI JOIN query_table(picks) p ON c._pos = p._pos
    WHERE aggregate <> 'none'),
  prompts AS (
    SELECT count(*) AS entered, count(_first) AS used FROM query_table(pools) WHERE scope = 'prompt'
    UNION ALL
    SELECT count(DISTINCT c._grp), count(DISTINCT c._grp) FILTER (p._pos IS NOT NULL)
    FROM query_table(candidates) c LEFT JOIN query_table(picks) p ON c._pos = p._pos
    WHERE scope = 'pool' AND c._reason IS NULL)
  SELECT (SELECT count(*) FROM query_table(counted)) AS rows_in,
         (SELECT sum(n)::BIGINT FROM used) AS rows_used,
         (SELECT coalesce(sum(_votes), 0)::BIGINT FROM query_table(candidates)
           WHERE _reason IS NULL AND coalesce(_score >= min_score, true))
           - (SELECT sum(n)::BIGINT FROM used) AS rows_not_selected,
         (SELECT coalesce(map_from_entries(list(row(reason, n) ORDER BY reason)), MAP {})
           FROM dropped) AS dropped,
         (SELECT sum(entered)::BIGINT FROM prompts) AS groups_in,
         (SELECT sum(used)::BIGINT FROM prompts) AS groups_used,
         (SELECT count(*) FROM query_table(picks)) AS pairs_out
);
