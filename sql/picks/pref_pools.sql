-- Pools: what is picked from, one row for every prompt, or one for the whole table (scope 'pool').
--
-- In: `candidates`, the output of pref_candidates; those below min_score are in no pool. Out:
--   _grp     NULL for the whole table
--   _first   BIGINT, the smallest position; NULL: nothing is left
--   _n       BIGINT, how many candidates there are; NULL for 'best', where it does not matter
--   _keys    HUGEINT[], pref_key(score, position) of those that `pick` can pick (the k last for
--            'best', the k first for 'worst', else all), by (score, position) or (score, id,
--            position), worst first
CREATE OR REPLACE MACRO pref_pools(
  candidates, k := 1, pick := 'best', scope := 'prompt', min_score := NULL, tie_break := 'position'
) AS TABLE (
  WITH keyed AS NOT MATERIALIZED (
    SELECT CASE WHEN scope = 'prompt' THEN _grp END AS _grp,
           coalesce(_score >= min_score, true) AS high,
           CASE WHEN high THEN _pos END AS _pos,
           CASE WHEN high THEN pref_key(_score, _pos) END AS key, _id, _score
    FROM query_table(candidates) WHERE _reason IS NULL),
  best_one AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, NULL::BIGINT AS _n, [max(key)] AS _keys
    FROM keyed GROUP BY _grp),
  best_heap AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, NULL::BIGINT AS _n,
           list_reverse(max(key, greatest(k::BIGINT, 1))) AS _keys FROM keyed GROUP BY _grp),
  best_all AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, NULL::BIGINT AS _n,
           list_sort(list(key) FILTER (high))[-k::BIGINT:] AS _keys FROM keyed GROUP BY _grp),
  worst_one AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(key) AS _n, [min(key)] AS _keys
    FROM keyed GROUP BY _grp),
  worst_heap AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(key) AS _n, min(key, greatest(k::BIGINT, 1)) AS _keys
    FROM keyed GROUP BY _grp),
  worst_all AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(key) AS _n,
           list_sort(list(key) FILTER (high))[:k::BIGINT] AS _keys FROM keyed GROUP BY _grp),
  all_keys AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(key) AS _n, list_sort(list(key) FILTER (high)) AS _keys
    FROM keyed GROUP BY _grp),
  all_by_id AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, count(key) AS _n,
           list_transform(list_sort(list({'score': _score, 'id': _id, 'key': key}) FILTER (high)),
             lambda row: row.key) AS _keys
    FROM keyed GROUP BY _grp)
  -- max(key, k) keeps a heap for every group: over many groups sorted lists take a third less time,
  -- over one the heap does.
  FROM query_table(CASE
    WHEN tie_break = 'id' THEN 'all_by_id'
    WHEN coalesce(pick NOT IN ('best', 'worst'), true) THEN 'all_keys'
    WHEN k = 1 THEN pick || '_one'
    WHEN scope = 'pool' AND k <= 100000 THEN pick || '_heap'
    ELSE pick || '_all' END)
);
