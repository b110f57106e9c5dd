-- What length explains of the scores inside prompts.
--
-- In: `measured`, a relation of candidates with _grp, _score, _length. Out, one row of DOUBLE:
--   slope         the change of the score per 1,000 characters, by ordinary least squares with an
--                 intercept for every prompt; 0 where lengths vary in no prompt
--   correlation   Pearson's, of score and length, both less their prompt's mean; NULL where lengths
--                 or scores vary in no prompt
--   mean          the mean length
-- What is beyond a float64 is 0, or NULL.
CREATE OR REPLACE MACRO pref_length_fit(measured) AS TABLE (
  WITH prompts AS (
    SELECT regr_sxx(_score, _length) AS _xx, regr_sxy(_score, _length) AS _xy,
           regr_syy(_score, _length) AS _yy, sum(_length) AS _total, count(*) AS _n
    FROM query_table(measured) GROUP BY _grp),
  summed AS (
    SELECT sum(_xx) AS _xx, sum(_xy) AS _xy, sum(_yy) AS _yy, sum(_total)::DOUBLE / sum(_n) AS _mean
    FROM prompts)
  SELECT coalesce(pref_finite(CASE WHEN _xx > 0 THEN 1000 * _xy / _xx END), 0) AS slope,
         pref_finite(CASE
           WHEN _xx > 0 AND _yy > 0 THEN _xy / sqrt(_xx) / sqrt(_yy) END) AS correlation,
         pref_finite(_mean) AS mean
  FROM summed
);
