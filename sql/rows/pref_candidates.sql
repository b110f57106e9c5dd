-- Candidates: the rows that count, or one for every (group, completion) whose judgements are
-- aggregated.
--
-- In: `counted`, the output of pref_rows. Out, in no order: _grp, _pos BIGINT and _id (of the first
-- row, or of the smallest id), _score DOUBLE, _votes BIGINT (rows), _reason VARCHAR (NULL: it is a
-- candidate). `weights` maps aspects to weights; without it a candidate has one aspect, NULL.
CREATE OR REPLACE MACRO pref_candidates(
  counted, aggregate := 'none', min_votes := 1, weights := NULL, tie_break := 'position'
) AS TABLE (
  WITH counting AS NOT MATERIALIZED (
    SELECT * FROM query_table(counted) WHERE _reason IS NULL),
  -- one row for every (group, completion, aspect, value): small integers are what majority and
  -- median need
  tallied AS NOT MATERIALIZED (
    SELECT _grp, _text, _aspect, list(_value) AS vals, count(*) AS votes,
           CASE WHEN tie_break = 'id' THEN min({'i': _id, 'p': _pos})
             ELSE min({'i': NULL, 'p': _pos}) END AS head
    FROM counting GROUP BY _grp, _text, _aspect),
  scored AS NOT MATERIALIZED (
    SELECT * EXCLUDE (vals), CASE aggregate
        WHEN 'mean' THEN list_sum(vals) / len(vals)
        WHEN 'median' THEN list_median(vals)
        WHEN 'max' THEN list_max(vals)
        WHEN 'min' THEN list_min(vals)
        ELSE pref_majority(vals) END AS _value
    FROM tallied),
  merged AS NOT MATERIALIZED (
    SELECT _grp, min(head) AS head, sum(votes)::BIGINT AS _votes, min(votes) AS fewest,
           count(*) AS aspects,
           sum(_value * CASE WHEN weights IS NULL THEN 1
             ELSE weights[_aspect::VARCHAR] END) AS total, count(_value) AS decided
    FROM scored GROUP BY _grp, _text),
  as_rows AS NOT MATERIALIZED (
    SELECT _grp, _pos, _id, _value AS _score, 1::BIGINT AS _votes, NULL::VARCHAR AS _reason
    FROM counting),
  as_merged AS NOT MATERIALIZED (
    SELECT _grp, head.p AS _pos, head.i AS _id,
           CASE WHEN aggregate IN ('max', 'min', 'majority') AND weights IS NULL THEN total
             ELSE pref_round(total) END AS _score, _votes,
           CASE WHEN weights IS NOT NULL AND aspects < cardinality(weights) THEN 'missing_aspect'
                WHEN fewest < min_votes THEN 'too_few_votes'
                WHEN decided < aspects THEN 'no_majority' END AS _reason
    FROM merged)
  FROM query_table(CASE WHEN aggregate = 'none' THEN 'as_rows' ELSE 'as_merged' END)
);
