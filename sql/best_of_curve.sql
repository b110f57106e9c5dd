-- What best-of-n is worth on a scored pool, for n = 1 to k: curve (the value of `by`), n, prompts,
-- best, median, mean, low, high, kl.
--
--   FROM best_of_curve('scored.parquet');
--   FROM best_of_curve(scored, prompt := question, completion := answer, score := reward,
--                      by := temperature, resamples := 1000);
--
-- best is the unbiased estimate of E[max of n], averaged over the prompts with at least n scores
-- (`prompts` counts them); low and high are its bootstrap interval over prompts, and NULL without
-- resamples. k: the largest number of scores that a prompt has, at most 128. docs/semantics.md has
-- the formulas.
CREATE OR REPLACE MACRO pref_curve_refusal(k, resamples, level, seed) AS
CASE
  WHEN k IS NOT NULL AND (k < 1 OR k <> floor(k))
  THEN error('prefmill: best_of_curve: k is no whole number >= 1; got ' || k::VARCHAR || '.')
  WHEN NOT coalesce(resamples >= 0 AND resamples = floor(resamples), false)
  THEN error('prefmill: best_of_curve: resamples is no whole number >= 0; got '
    || coalesce(resamples::VARCHAR, 'NULL') || '.')
  WHEN NOT coalesce(level > 0 AND level < 1, false)
  THEN error('prefmill: best_of_curve: level is not between 0 and 1; got '
    || coalesce(level::VARCHAR, 'NULL') || '.')
  ELSE pref_seed_refusal('best_of_curve', seed)
END;
CREATE OR REPLACE MACRO best_of_curve(
  tbl, prompt := NULL, completion := NULL, score := NULL, "by" := NULL, k := NULL, resamples := 0,
  level := 0.95, seed := 0
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score, further := "by")),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  split AS NOT MATERIALIZED (
    SELECT c._grp, c._score, n._further AS _by
    FROM candidates c JOIN numbered n ON n._pos = c._pos WHERE c._reason IS NULL),
  pools AS MATERIALIZED (
    SELECT _by, CASE WHEN resamples > 0 THEN pref_hash(_grp, seed) END AS _h,
           list_sort(list(_score)) AS _scores FROM split GROUP BY _by, _grp)
  FROM (
    FROM pref_curves('pools', k := k, resamples := resamples, level := level)
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE pref_curve_refusal(k, resamples, level, seed) IS NOT NULL
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM pref_roles_refusal('numbered', tbl, 'best_of_curve') WHERE _said IS NOT NULL)
  ORDER BY ALL NULLS LAST
);
