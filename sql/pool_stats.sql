-- One row for every prompt: prompt, n (usable candidates), mean, spread (population standard
-- deviation), best, median, worst, ties (candidates that share the best score), length_correlation
-- (Pearson, of score and length in characters; NULL where either does not vary).
--
--   FROM pool_stats('scored.parquet') WHERE spread = 0;
--   FROM pool_stats(scored, prompt := question, completion := answer, score := reward);
--
-- In no particular order. Completions are measured where they are read and never carried through
-- the group-by.
CREATE OR REPLACE MACRO pool_stats(
  tbl, prompt := NULL, completion := NULL, score := NULL
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion, _score0, pref_length(_completion) AS _length
    FROM pref_numbered(tbl, prompt, completion, score)),
  named AS NOT MATERIALIZED (FROM pref_numbered(tbl, prompt, completion, score)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  groups AS NOT MATERIALIZED (
    SELECT _grp, list(_value) AS _vals, max(_value) AS _best, min(_value) AS _worst,
           corr(_value, _length) AS _corr, min(_length) < max(_length) AS _uneven
    FROM counted WHERE _reason IS NULL GROUP BY _grp)
  SELECT _grp AS prompt, len(_vals) AS n, pref_finite(list_avg(_vals)) AS mean,
         CASE WHEN _worst = _best THEN 0 ELSE pref_finite(list_stddev_pop(_vals)) END AS spread,
         _best AS best, pref_finite(list_median(_vals)) AS median, _worst AS worst,
         len(list_filter(_vals, lambda v: v = _best)) AS ties,
         CASE WHEN _uneven AND _worst < _best THEN pref_finite(_corr) END AS length_correlation
  FROM groups
  UNION ALL
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM pref_roles_refusal('named', tbl, 'pool_stats')
  WHERE _said IS NOT NULL
);
