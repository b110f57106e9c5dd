-- The candidates that statistical rejection sampling accepts of every prompt.
--
-- In: `pools`, the output of pref_pools with pick 'rso' and scope 'prompt'. Out: columns as those
-- of pref_picks, which picks by rank alone.
CREATE OR REPLACE MACRO pref_rso(pools, k := 1, seed := 0, beta := 0.5) AS TABLE (
  WITH ranked AS NOT MATERIALIZED (
    SELECT _grp, _first, _n, _keys,
           unnest(pref_accepted(list_transform(_keys, lambda key: pref_key_score(key)),
             pref_hash(_grp, seed), k, beta)) AS _up
    FROM query_table(pools) WHERE _first IS NOT NULL),
  keyed AS NOT MATERIALIZED (
    SELECT _grp, _first, _n - _up + 1 AS _rank, _keys[_up] AS key FROM ranked)
  SELECT _grp, _first, _rank, pref_key_position(key) AS _pos, pref_key_score(key) AS _score
  FROM keyed
);
