-- Pools: what is picked from, one row for every prompt, or one for the whole table (scope 'pool').
--
-- `candidates` is the output of pref_candidates; those below min_score are in no pool. Gives _grp (NULL for the whole table), _first (smallest position;
-- NULL: nothing is left), and _keys: pref_key(score, position) in the order (score, position) or (score, id, position), worst first; at least those that
-- `pick` can pick: the last ones for 'best', the first ones for 'worst', else all. _n counts candidates; NULL for 'best' where _keys are the last ones only.
CREATE OR REPLACE MACRO pref_pools(candidates, k := 1, pick := 'best', scope := 'prompt', min_score := NULL, tie_break := 'position') AS TABLE (
  WITH keyed AS NOT MATERIALIZED (
    SELECT CASE WHEN scope = 'prompt' THEN _grp END AS _grp, coalesce(_score >= min_score, true) AS high,
           CASE WHEN high THEN _pos END AS _pos, CASE WHEN high THEN pref_key(_score, _pos) END AS key, _id, _score
    FROM query_table(candidates) WHERE _reason IS NULL),
  -- which of the ways below: max(key, k) keeps a heap, which wins over sorting all while it is small
  ways AS NOT MATERIALIZED (
    SELECT *, CASE WHEN tie_break = 'id' THEN 'by id' WHEN pick NOT IN ('best', 'worst') OR k > 64 THEN 'all'
                   WHEN k = 1 THEN pick || ' one' ELSE pick END AS way
    FROM keyed)
  SELECT _grp, min(_pos) AS _first, NULL::BIGINT AS _n, [max(key)] AS _keys FROM ways WHERE way = 'best one' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos), NULL, list_reverse(max(key, greatest(k::BIGINT, 1))) FROM ways WHERE way = 'best' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos), count(key), [min(key)] FROM ways WHERE way = 'worst one' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos), count(key), min(key, greatest(k::BIGINT, 1)) FROM ways WHERE way = 'worst' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos), count(key), list_sort(list(key) FILTER (high)) FROM ways WHERE way = 'all' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos), count(key), list_transform(list_sort(list({'score': _score, 'id': _id, 'key': key}) FILTER (high)), lambda row: row.key)
  FROM ways WHERE way = 'by id' GROUP BY _grp
);
