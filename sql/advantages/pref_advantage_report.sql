-- The drop report of advantages. A group is used when its rows got an advantage.
--
-- In: `counted`, `candidates`, `advantages`, outputs of pref_rows, pref_candidates and
-- pref_advantages. Out: one row, columns as in pref_report.
CREATE OR REPLACE MACRO pref_advantage_report(counted, candidates, advantages) AS TABLE (
  WITH dropped AS (
    SELECT _reason AS reason, count(*) AS n
    FROM query_table(counted) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT _reason, sum(_votes)::BIGINT
    FROM query_table(candidates) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT _reason, sum(_votes)::BIGINT
    FROM query_table(advantages) WHERE _reason IS NOT NULL GROUP BY _reason)
  SELECT (SELECT count(*) FROM query_table(counted)) AS rows_in,
         (SELECT coalesce(sum(_votes), 0)::BIGINT FROM query_table(advantages)
           WHERE _reason IS NULL) AS rows_used,
         0::BIGINT AS rows_not_selected,
         (SELECT coalesce(map_from_entries(list(row(reason, n) ORDER BY reason)), MAP {})
           FROM dropped) AS dropped,
         (SELECT count(DISTINCT _first) FROM query_table(advantages)) AS groups_in,
         (SELECT count(DISTINCT _first) FROM query_table(advantages)
           WHERE _reason IS NULL) AS groups_used,
         (SELECT count(*) FROM query_table(advantages) WHERE _reason IS NULL) AS pairs_out
);
