-- The drop report of labels. A group is used when one of its candidates got a label.
--
-- In: `counted`, `candidates`, `labels`, outputs of pref_rows, pref_candidates and pref_labels.
-- Out: one row, columns as in pref_report, then labels_true and labels_false BIGINT.
CREATE OR REPLACE MACRO pref_label_report(counted, candidates, labels) AS TABLE (
  WITH dropped AS (
    SELECT _reason AS reason, count(*) AS n
    FROM query_table(counted) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT _reason, sum(_votes)::BIGINT
    FROM query_table(candidates) WHERE _reason IS NOT NULL GROUP BY _reason
    UNION ALL
    SELECT 'between_thresholds', sum(_votes)::BIGINT
    FROM query_table(labels) WHERE _label IS NULL HAVING count(*) > 0)
  SELECT (SELECT count(*) FROM query_table(counted)) AS rows_in,
         (SELECT coalesce(sum(_votes), 0)::BIGINT FROM query_table(labels)
           WHERE _label IS NOT NULL) AS rows_used,
         0::BIGINT AS rows_not_selected,
         (SELECT coalesce(map_from_entries(list(row(reason, n) ORDER BY reason)), MAP {})
           FROM dropped) AS dropped,
         (SELECT count(DISTINCT _first) FROM query_table(labels)) AS groups_in,
         (SELECT count(DISTINCT _first) FROM query_table(labels)
           WHERE _label IS NOT NULL) AS groups_used,
         (SELECT count(*) FROM query_table(labels) WHERE _label IS NOT NULL) AS pairs_out,
         (SELECT count(*) FROM query_table(labels) WHERE _label) AS labels_true,
         (SELECT count(*) FROM query_table(labels) WHERE NOT _label) AS labels_false
);
