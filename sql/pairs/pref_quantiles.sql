-- Which of `n` scores in order a quantile is. Shares are counted in billionths, so that no host
-- rounds 0.07 of 100 up to 8.
CREATE OR REPLACE MACRO pref_quantile_place(share, n) AS
CASE WHEN share IS NOT NULL
  THEN greatest(1, (floor(share::DOUBLE * 1000000000 + 0.5)::HUGEINT * n + 999999999) // 1000000000)
END;
-- Quantiles of the scores of all candidates, exact: the smallest score with at least this share of
-- all scores at or below it.
--
-- In: `candidates`, the output of pref_candidates. Out, one row: _chosen and _rejected DOUBLE, NULL
-- for one that is not asked for. Scores are counted before they are ordered: ratings are few.
CREATE OR REPLACE MACRO pref_quantiles(
  candidates, chosen_quantile := NULL, rejected_quantile := NULL
) AS TABLE (
  WITH tallied AS NOT MATERIALIZED (
    SELECT _score, count(*) AS _n FROM query_table(candidates)
    WHERE _reason IS NULL AND (chosen_quantile IS NOT NULL OR rejected_quantile IS NOT NULL)
    GROUP BY _score),
  places AS NOT MATERIALIZED (
    SELECT _score, sum(_n) OVER (ORDER BY _score)::HUGEINT AS _upto,
           sum(_n) OVER ()::HUGEINT AS _all
    FROM tallied)
  SELECT min(_score) FILTER (_upto >= pref_quantile_place(chosen_quantile, _all)) AS _chosen,
         min(_score) FILTER (_upto >= pref_quantile_place(rejected_quantile, _all)) AS _rejected
  FROM places
);
