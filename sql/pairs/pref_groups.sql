-- Groups: the candidates of one prompt in the order (score, position), or (score, id, position).
--
-- In: `candidates`, the output of pref_candidates. Out, one row for every prompt: _grp, _first
-- BIGINT (smallest position), _n BIGINT (candidates), _votes BIGINT (rows), and _ranks HUGEINT[]:
-- the pref_key(score, position) of each, worst first; with `ends_only` just the worst and the best.
-- So count chosen ranks from the end, rejected ones from the start.
CREATE OR REPLACE MACRO pref_groups(
  candidates, tie_break := 'position', ends_only := false
) AS TABLE (
  WITH keyed AS NOT MATERIALIZED (
    SELECT _grp, _pos, _votes, _id, _score, pref_key(_score, _pos) AS key
    FROM query_table(candidates) WHERE _reason IS NULL),
  ends AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(*) AS _n, sum(_votes)::BIGINT AS _votes,
           [min(key), max(key)] AS _ranks
    FROM keyed GROUP BY _grp),
  by_position AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(*) AS _n, sum(_votes)::BIGINT AS _votes,
           list_sort(list(key)) AS _ranks
    FROM keyed GROUP BY _grp),
  by_id AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(*) AS _n, sum(_votes)::BIGINT AS _votes,
           list_transform(list_sort(list({'score': _score, 'id': _id, 'key': key})),
             lambda row: row.key) AS _ranks
    FROM keyed GROUP BY _grp)
  FROM query_table(CASE WHEN tie_break = 'id' THEN 'by_id' WHEN ends_only THEN 'ends'
    ELSE 'by_position' END)
);
