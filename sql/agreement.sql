-- How far annotators agree on the same completions: annotator, other, units (completions that both
-- judged), equal (share of equal scores), kappa (Cohen's, of the two), alpha (Krippendorff's). The
-- first row, of annotator NULL, is about all: units with two judgements or more, the share of equal
-- scores among all pairs of them, and alpha; then one row for every two annotators who share a
-- unit.
--
--   FROM agreement('judgements.parquet', level := 'interval');
--   FROM agreement(judgements, prompt := question, completion := answer, score := stars,
--                  annotator := rater, level := 'nominal');
--
-- A unit is a (prompt, completion); completion := id is faster where there is one. Of two
-- judgements of one unit by one annotator the later row counts. NULL where undefined. Roles that
-- are not given are found by their names. Formulas: docs/semantics.md.
CREATE OR REPLACE MACRO pref_level_refusal(level) AS
CASE WHEN coalesce(level NOT IN ('interval', 'nominal'), true)
     THEN error('prefmill: agreement: unknown level; got ' || coalesce(level, 'NULL')
       || ', expected interval or nominal.') END;
CREATE OR REPLACE MACRO agreement(
  tbl, prompt := NULL, completion := NULL, score := NULL, annotator := NULL, level := 'interval'
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score, annotator := annotator)),
  rated AS NOT MATERIALIZED (
    SELECT * EXCLUDE (_annotator), _completion AS _unit, _annotator AS _rater FROM numbered),
  judged AS NOT MATERIALIZED (FROM pref_judged('rated')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  gathered AS NOT MATERIALIZED (
    SELECT list_sort(list({'rater': _rater, 'pos': _pos, 'value': _value})) AS _all
    FROM counted WHERE _reason IS NULL AND _rater IS NOT NULL GROUP BY _grp, _unit
    HAVING count(*) > 1),
  latest AS NOT MATERIALIZED (
    SELECT list_filter(_all, lambda r, i: i = len(_all) OR _all[i + 1].rater <> r.rater) AS _rows
    FROM gathered),
  units AS MATERIALIZED (
    SELECT _rows, list_transform(_rows, lambda r: r.value) AS _vals, len(_rows) AS _m
    FROM latest WHERE len(_rows) > 1),
  -- of each unit: ordered pairs of equal scores, and what alpha's level takes for their
  -- disagreement
  told AS NOT MATERIALIZED (
    SELECT _m,
           list_sum(list_transform(map_values(list_aggregate(_vals, 'histogram')),
             lambda c: c * (c - 1)))::BIGINT AS _equal,
           _m * list_var_samp(_vals) AS _squares
    FROM units),
  seen AS NOT MATERIALIZED (
    SELECT count(*) AS _units, sum(_m)::DOUBLE AS _n,
           sum(_equal)::DOUBLE / sum(_m * (_m - 1)) AS _share,
           sum(_squares) / sum(_m) AS _seen_interval,
           sum((_m * (_m - 1) - _equal) / (_m - 1)) / sum(_m) AS _seen_nominal
    FROM told),
  vals AS NOT MATERIALIZED (SELECT unnest(_vals) AS _value FROM units),
  tallied AS NOT MATERIALIZED (SELECT _value, count(*) AS _c FROM vals GROUP BY _value),
  expected AS NOT MATERIALIZED (
    SELECT (SELECT var_samp(_value) FROM vals) AS _interval,
           (SELECT 1 - sum(_c::HUGEINT * (_c - 1))::DOUBLE
             / nullif(sum(_c)::DOUBLE * (sum(_c) - 1), 0) FROM tallied) AS _nominal,
           (SELECT count(*) > 1 FROM tallied) AS _varied),
  pairs AS NOT MATERIALIZED (
    SELECT _rows[_i].rater AS _a, _rows[_i].value AS _x, unnest(_rows[_i + 1:]) AS _other
    FROM (SELECT _rows, unnest(range(1, _m)) AS _i FROM units)),
  tables AS MATERIALIZED (
    SELECT _a, _other.rater AS _b, _x, _other.value AS _y, count(*) AS _c FROM pairs GROUP BY ALL),
  sums AS NOT MATERIALIZED (
    SELECT _a, _b, sum(_c)::DOUBLE AS _n, (coalesce(sum(_c) FILTER (_x = _y), 0))::DOUBLE AS _equal
    FROM tables GROUP BY _a, _b),
  chance AS NOT MATERIALIZED (
    SELECT _a, _b, sum(l._c::DOUBLE * r._c) AS _by_chance
    FROM (SELECT _a, _b, _x AS _v, sum(_c) AS _c FROM tables GROUP BY ALL) l
    JOIN (SELECT _a, _b, _y AS _v, sum(_c) AS _c FROM tables GROUP BY ALL) r
      USING (_a, _b, _v)
    GROUP BY _a, _b),
  kappas AS NOT MATERIALIZED (
    SELECT _a, _b, _n, _equal, coalesce(_by_chance, 0) AS _by_chance
    FROM sums LEFT JOIN chance USING (_a, _b)),
  answer AS NOT MATERIALIZED (
    SELECT NULL AS _a, NULL AS _b, _units, pref_round(_share) AS _equal, NULL::DOUBLE AS _kappa,
           CASE
             WHEN _varied
             THEN pref_finite(1 - CASE level WHEN 'interval' THEN _seen_interval / _interval
               ELSE _seen_nominal / _nominal END) END AS _alpha
    FROM seen, expected WHERE pref_level_refusal(level) IS NULL
    UNION ALL
    SELECT _a, _b, _n::BIGINT, pref_round(_equal / _n),
           -- (po - pe) / (1 - pe) with both over n^2: exact where counts are
           CASE
             WHEN _by_chance < _n * _n
             THEN pref_round((_equal * _n - _by_chance) / (_n * _n - _by_chance)) END, NULL
    FROM kappas
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL
    FROM pref_roles_refusal('numbered', tbl, 'agreement', needs := 'annotator')
    WHERE _said IS NOT NULL)
  SELECT _a AS annotator, _b AS other, _units AS units, _equal AS equal, _kappa AS kappa,
         _alpha AS alpha FROM answer
  ORDER BY _a NULLS FIRST, _b
);
