-- Pools: what is picked from, one row for every prompt, or one for the whole table (scope 'pool').
--
-- `candidates` is the output of pref_candidates. Gives _grp (NULL for the whole table), _first (smallest position), _n (candidates), _votes (rows), _low
-- (rows of candidates below min_score, which are in none of the others), and _keys: pref_key(score, position) in the order (score, position) or (score, id,
-- position), worst first; at least those that `pick` can pick: the last ones for 'best', the first ones for 'worst', else all.
CREATE OR REPLACE MACRO pref_pools(candidates, k := 1, pick := 'best', scope := 'prompt', min_score := NULL, tie_break := 'position') AS TABLE (
  WITH keyed AS NOT MATERIALIZED (
    SELECT CASE WHEN scope = 'prompt' THEN _grp END AS _grp, _pos, _votes, _id, _score, pref_key(_score, _pos) AS key,
           coalesce(_score >= min_score, true) AS high
    FROM query_table(candidates) WHERE _reason IS NULL),
  -- which of the ways below: the heap of max(key, k) wins over sorting all as long as it is small
  way AS NOT MATERIALIZED (
    SELECT *, CASE WHEN tie_break = 'id' THEN 'by id' WHEN pick NOT IN ('best', 'worst') OR k > 64 THEN 'all'
                   WHEN k = 1 THEN pick || ' one' ELSE pick END AS way
    FROM keyed)
  SELECT _grp, min(_pos) FILTER (high) AS _first, count(*) FILTER (high) AS _n, coalesce(sum(_votes) FILTER (high), 0)::BIGINT AS _votes,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT AS _low, [max(key) FILTER (high)] AS _keys
  FROM way WHERE way = 'best one' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos) FILTER (high), count(*) FILTER (high), coalesce(sum(_votes) FILTER (high), 0)::BIGINT,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT, [min(key) FILTER (high)]
  FROM way WHERE way = 'worst one' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos) FILTER (high), count(*) FILTER (high), coalesce(sum(_votes) FILTER (high), 0)::BIGINT,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT, list_reverse(max(key, greatest(k::BIGINT, 1)) FILTER (high))
  FROM way WHERE way = 'best' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos) FILTER (high), count(*) FILTER (high), coalesce(sum(_votes) FILTER (high), 0)::BIGINT,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT, min(key, greatest(k::BIGINT, 1)) FILTER (high)
  FROM way WHERE way = 'worst' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos) FILTER (high), count(*) FILTER (high), coalesce(sum(_votes) FILTER (high), 0)::BIGINT,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT, list_sort(list(key) FILTER (high))
  FROM way WHERE way = 'all' GROUP BY _grp
  UNION ALL
  SELECT _grp, min(_pos) FILTER (high), count(*) FILTER (high), coalesce(sum(_votes) FILTER (high), 0)::BIGINT,
         coalesce(sum(_votes) FILTER (NOT high), 0)::BIGINT,
         list_transform(list_sort(list({'score': _score, 'id': _id, 'key': key}) FILTER (high)), lambda row: row.key)
  FROM way WHERE way = 'by id' GROUP BY _grp
);
