-- The pairs that a cap draws of hot prompts, without making all of their pairs: the rows that
-- pref_pairs makes where it makes them all. The same as prefmill.rules.draws.
--
-- In: `groups`, the output of pref_groups with _chosen_min and _rejected_below. Out, in no order:
-- the columns of pref_pairs.
--
-- The draw takes the pairs with the smallest numbers mix(mix(h xor c) xor r). As many numbers are
-- looked at (_numbers) as hold more than `cap` pairs, but for a chance below e^-50; this is checked.
-- The mix can be undone, so for a number and a rank c there is one r. Where few pairs stand it is
-- less work to look at each of them. Cost for n answers: at most about sqrt(cap * 2^32 * n) looks,
-- O(n + cap) memory.
CREATE OR REPLACE MACRO pref_drawn(
  groups, cap, min_margin := 0, top_k := NULL, bottom_k := NULL, seed := 0
) AS TABLE (
  -- A rank of any group is one number, _base + rank: a join on two would meet every rank of a group.
  WITH hot AS MATERIALIZED (
    SELECT *, row_number() OVER () * 4294967296 AS _base,
           pref_hash(_grp, seed) & 4294967295::UBIGINT AS _word
    FROM query_table(groups)),
  ranked AS MATERIALIZED (
    SELECT _base, _base + _rank AS _place, _rank, pref_key_score(key) AS _score,
           pref_key_position(key) AS _pos
    FROM (SELECT _base, unnest(_ranks) AS key, generate_subscripts(_ranks, 1) AS _rank FROM hot)),
  -- Answers of one score may beat the same ones.
  levels AS MATERIALIZED (
    SELECT *, _base + row_number() OVER (PARTITION BY _base ORDER BY _score) AS _at
    FROM (
      SELECT _base, _score, min(_rank) AS _from, max(_rank) AS _upto FROM ranked GROUP BY ALL)),
  -- Differences are rounded: what is below _sure stands, and nothing above _bound.
  bounds AS NOT MATERIALIZED (
    SELECT *, 1e-15 * (min_margin + abs(_score)) AS _slack,
           _score - greatest(0, min_margin - _slack) AS _bound,
           _score - min_margin - _slack AS _sure
    FROM levels),
  -- The last level below each, in one pass: an ASOF join of a size that is not known is a loop.
  marks AS NOT MATERIALIZED (
    SELECT _base, _at, _score AS _x, 0 AS _kind, _at AS _level FROM levels
    UNION ALL BY NAME SELECT _base, _at, _bound AS _x, 1 AS _kind FROM bounds
    UNION ALL BY NAME SELECT _base, _at, _sure AS _x, 2 AS _kind FROM bounds),
  reached AS NOT MATERIALIZED (
    SELECT _at, max(CASE WHEN _kind = 1 THEN _level END) AS _last,
           max(CASE WHEN _kind = 2 THEN _level END) AS _surely
    FROM (
      SELECT _at, _kind, max(_level) OVER (
        PARTITION BY _base ORDER BY _x, _kind ROWS UNBOUNDED PRECEDING) AS _level
      FROM marks)
    GROUP BY _at),
  loose AS MATERIALIZED (
    SELECT high.*, low._upto AS _far, _last, _surely,
           high._score - low._score >= min_margin AS _stands
    FROM levels AS high JOIN reached ON reached._at = high._at
      JOIN levels AS low ON low._at = _last),
  -- Between the two each is looked at: 0.3 - 0.2 does not reach a margin of 0.1, and may be most.
  near AS NOT MATERIALIZED (
    SELECT high._at, max(low._upto) AS _near
    FROM (
      SELECT _at, _score, unnest(range(coalesce(_surely, _base + 1), _last)) AS _low_at
      FROM loose WHERE NOT _stands) AS high
      JOIN levels AS low ON low._at = _low_at
    WHERE high._score - low._score >= min_margin GROUP BY ALL),
  far AS NOT MATERIALIZED (
    SELECT * REPLACE (CASE WHEN _stands THEN _far ELSE coalesce(_near, 0) END AS _far)
    FROM loose LEFT JOIN near USING (_at)),
  low AS NOT MATERIALIZED (
    SELECT _base, max(_upto) AS _low FROM levels JOIN hot USING (_base)
    WHERE coalesce(_score < _rejected_below, true) GROUP BY _base),
  rivals AS MATERIALIZED (
    SELECT *, least(_from - 1, _far, _low, coalesce(bottom_k::BIGINT, _n)) AS _most,
           greatest(_from, _n - coalesce(top_k::BIGINT, _n) + 1) AS _lowest
    FROM far JOIN low USING (_base) JOIN (SELECT * EXCLUDE (_ranks) FROM hot) USING (_base)
    WHERE coalesce(_score >= _chosen_min, true) AND _most > 0 AND _lowest <= _upto),
  totals AS MATERIALIZED (
    SELECT _base, sum(_upto - _lowest + 1) AS _answers,
           sum((_upto - _lowest + 1)::DOUBLE * _most) AS _total,
           ceil(least(4294967296, 4294967296 * (cap + 12 * sqrt(cap) + 100) / _total))::BIGINT
             AS _numbers
    FROM rivals GROUP BY _base),
  chosen AS NOT MATERIALIZED (
    SELECT _base, _c, _score, _most, _numbers, pref_mix(xor(_word, _c::UBIGINT)) AS _start,
           _answers * _numbers::DOUBLE < _total AS _counting,
           CASE WHEN _counting THEN 0 ELSE 1 END AS _least,
           CASE WHEN _counting THEN _numbers ELSE _most + 1 END AS _end
    FROM (SELECT *, unnest(range(_lowest, _upto + 1)) AS _c FROM rivals) JOIN totals USING (_base)),
  -- 1,024 at a time: a list of all would be in memory for each answer.
  blocks AS NOT MATERIALIZED (SELECT *, unnest(range(_least, _end, 1024)) AS _block FROM chosen),
  looks AS NOT MATERIALIZED (
    SELECT *, unnest(range(_block, least(_block + 1024, _end)))::UBIGINT AS _look FROM blocks),
  numbered AS NOT MATERIALIZED (
    SELECT _base, _c, _score, _most, _numbers,
           CASE WHEN _counting THEN _look ELSE pref_mix(xor(_start, _look)) END AS _draw,
           CASE WHEN _counting THEN xor(_start, pref_unmix(_look)) ELSE _look END AS _r
    FROM looks),
  found AS MATERIALIZED (
    SELECT * REPLACE (_r::BIGINT AS _r) FROM numbered
    WHERE _draw < _numbers AND _r BETWEEN 1 AND _most),
  standing AS MATERIALIZED (
    SELECT found.*, worse._score AS _rejected_score, worse._pos AS _rejected,
           better._pos AS _chosen
    FROM found JOIN ranked AS worse ON worse._place = found._base + found._r
      JOIN ranked AS better ON better._place = found._base + found._c
    WHERE pref_stands(found._score, worse._score, NULL, NULL, min_margin)),
  counts AS NOT MATERIALIZED (SELECT _base, count(*) AS _count FROM standing GROUP BY _base)
  SELECT _first, _grp, _c, _r, _chosen, _rejected, _score AS _chosen_score, _rejected_score
  FROM (
    FROM standing QUALIFY row_number() OVER (PARTITION BY _base ORDER BY _draw, _c, _r) <= cap)
    JOIN (SELECT _base, _first, _grp FROM hot) USING (_base)
  UNION ALL BY NAME
  SELECT _base AS _first FROM totals LEFT JOIN counts USING (_base)
  WHERE CASE WHEN _numbers < 4294967296 AND coalesce(_count, 0) < cap
    THEN error('prefmill: preference_pairs: max_pairs_per_prompt found too few pairs of a prompt of'
      || ' very many answers; set top_k and bottom_k.') ELSE false END
);
