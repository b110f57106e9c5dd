-- The candidates that `pick` picks from every pool by their rank alone: k of them, or all where
-- there are fewer.
--
-- In: `pools`, the output of pref_pools with the same arguments. Out, in no order: _grp, _first
-- BIGINT (of the pool), _rank BIGINT (1 is the best), _pos BIGINT, _score DOUBLE.
CREATE OR REPLACE MACRO pref_picks(
  pools, k := 1, pick := 'best', scope := 'prompt', seed := 0
) AS TABLE (
  -- _up counts from the worst, 1 to _n; the best are taken from the end of _keys, whatever it
  -- begins with
  WITH ranked AS NOT MATERIALIZED (
    SELECT *, unnest(CASE pick
        WHEN 'best' THEN range(greatest(len(_keys) - k::BIGINT, 0) + 1, len(_keys) + 1)
        WHEN 'worst' THEN range(1, least(_n, k::BIGINT) + 1)
        WHEN 'median'
        THEN range(greatest(_n - k::BIGINT, 0) // 2 + 1,
          least(greatest(_n - k::BIGINT, 0) // 2 + k::BIGINT, _n) + 1)
        ELSE range(1, _n + 1) END) AS _up
    FROM query_table(pools) WHERE _first IS NOT NULL),
  drawn AS NOT MATERIALIZED (
    SELECT * FROM ranked WHERE pick <> 'random'
    UNION ALL
    SELECT * FROM ranked WHERE pick = 'random'
    QUALIFY row_number() OVER (PARTITION BY _first
      ORDER BY pref_mix(xor((CASE WHEN scope = 'prompt' THEN pref_hash(_grp, seed)
        ELSE pref_hash('', seed) END) & 4294967295::UBIGINT, _up::UBIGINT)), _up)
      <= k),
  keyed AS NOT MATERIALIZED (
    SELECT _grp, _first, CASE WHEN pick = 'best' THEN len(_keys) ELSE _n END - _up + 1 AS _rank,
           _keys[_up] AS key FROM drawn)
  SELECT _grp, _first, _rank, pref_key_position(key) AS _pos, pref_key_score(key) AS _score
  FROM keyed
);
