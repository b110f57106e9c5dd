-- Best-of-n curves: for n = 1 to k, the expected best, median and mean of n of a prompt's scores,
-- averaged over the prompts that have n.
--
-- In: `pools`, one row for every prompt: _by (what a curve is drawn for), _h UBIGINT (the prompt's
-- hash, for the resamples), _scores DOUBLE[] (sorted). Out, in no order: curve (that value), n,
-- prompts BIGINT, and as DOUBLE best, median, mean, low and high (of best, by the bootstrap over
-- prompts; NULL without resamples), kl (of best-of-n from its policy, in nats).
CREATE OR REPLACE MACRO pref_curves(pools, k := NULL, resamples := 0, level := 0.95) AS TABLE (
  WITH sizes AS (
    SELECT DISTINCT len(_scores) AS m FROM query_table(pools)),
  drawn AS (
    SELECT m, unnest(range(1, least(m, coalesce(k, 128)) + 1)) AS n FROM sizes),
  weighed AS (
    SELECT m, n, list_transform(range(1, m + 1), lambda i: pref_order_weight(m, n, n, i)) AS high,
           list_transform(range(1, m + 1),
             lambda i: pref_order_weight(m, n, (n + 1) // 2, i)
               + pref_order_weight(m, n, n // 2 + 1, i)) AS middle
    FROM drawn),
  weights AS MATERIALIZED ( -- what logarithms lost is the same factor for all i
    SELECT m,
           list({'n': n, 'high': list_transform(high, lambda w: w / list_sum(high)),
             'middle': list_transform(middle, lambda w: w / list_sum(middle))} ORDER BY n) AS ways
    FROM weighed GROUP BY m),
  valued AS NOT MATERIALIZED (
    SELECT _by, _h, _scores,
           list_transform(ways, lambda w: list_dot_product(_scores, w.high)) AS bests,
           list_transform(ways, lambda w: list_dot_product(_scores, w.middle)) AS middles,
           list_avg(_scores) AS average
    FROM query_table(pools) JOIN weights ON weights.m = len(_scores)),
  points AS NOT MATERIALIZED (
    SELECT _by, average, unnest(range(1, len(bests) + 1)) AS n, unnest(bests) AS best,
           unnest(middles) AS middle FROM valued),
  curve AS (
    SELECT _by, n, count(*) AS prompts, avg(best) AS best, avg(middle) AS middle,
           avg(average) AS average FROM points GROUP BY _by, n),
  resampled AS NOT MATERIALIZED (
    SELECT _by, bests, unnest(range(1, resamples + 1)) AS resample,
           pref_poisson(_h, resample) AS times FROM valued WHERE resamples > 0),
  copies AS NOT MATERIALIZED (
    SELECT _by, resample, times, unnest(range(1, len(bests) + 1)) AS n, unnest(bests) AS best
    FROM resampled WHERE times > 0),
  means AS (
    SELECT _by, n, resample, sum(times * best) / sum(times) AS best
    FROM copies GROUP BY _by, n, resample),
  intervals AS (
    SELECT _by, n, quantile_cont(best, [(1 - level) / 2, (1 + level) / 2]) AS ends
    FROM means GROUP BY _by, n)
  SELECT c._by AS curve, c.n, c.prompts, pref_round(c.best) AS best, pref_round(c.middle) AS median,
         pref_round(c.average) AS mean,
         pref_round(ends[1]) AS low, pref_round(ends[2]) AS high,
         pref_round(ln(c.n) - (c.n - 1) / c.n) AS kl
  FROM curve c LEFT JOIN intervals i ON c._by IS NOT DISTINCT FROM i._by AND c.n = i.n
);
