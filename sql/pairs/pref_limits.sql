-- A threshold that waits for the scores.
CREATE OR REPLACE MACRO pref_is_auto(threshold) AS coalesce(threshold::VARCHAR = 'auto', false);
-- A threshold before the scores are known: 'auto' as 4; other text is an error of DuckDB's.
CREATE OR REPLACE MACRO pref_threshold(threshold) AS
CASE WHEN pref_is_auto(threshold) THEN 4::DOUBLE ELSE threshold::DOUBLE END;
-- Raises our error if quantiles cannot be meant, next to these thresholds; NULL if they can.
CREATE OR REPLACE MACRO pref_quantile_refusal(
  macro, chosen_min, rejected_below, chosen_quantile, rejected_quantile
) AS
CASE
  WHEN chosen_quantile::DOUBLE <= 0 OR chosen_quantile::DOUBLE >= 1
    OR rejected_quantile::DOUBLE <= 0 OR rejected_quantile::DOUBLE >= 1
  THEN error('prefmill: ' || macro || ': a quantile is a number above 0 and below 1, or NULL; got '
    || coalesce(chosen_quantile::VARCHAR, 'NULL') || ' and '
    || coalesce(rejected_quantile::VARCHAR, 'NULL') || '.')
  WHEN chosen_quantile IS NOT NULL AND NOT pref_is_auto(chosen_min)
  THEN error('prefmill: ' || macro || ': chosen_min and chosen_quantile are one bound; got '
    || coalesce(chosen_min::VARCHAR, 'NULL') || ' and ' || chosen_quantile
    || ', expected one of them.')
  WHEN rejected_quantile IS NOT NULL AND NOT pref_is_auto(rejected_below)
  THEN error('prefmill: ' || macro || ': rejected_below and rejected_quantile are one bound; got '
    || coalesce(rejected_below::VARCHAR, 'NULL') || ' and ' || rejected_quantile
    || ', expected one of them.')
  WHEN macro = 'unpaired' AND rejected_quantile > chosen_quantile
  THEN error('prefmill: unpaired: rejected_quantile must not exceed chosen_quantile; got '
    || rejected_quantile || ' > ' || chosen_quantile || '.')
END;
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
-- The thresholds of a plan: those that were given, quantiles of the scores, and for one that is
-- 'auto' what suits the scores. That is 4 where some are below 4 and some not, the larger one of two
-- whole numbers that are all scores, 1 and 0.5 for verdicts, and next to a quantile the same number;
-- else our error. The rule: docs/semantics.md.
--
-- In: `candidates`, the output of pref_candidates; it is read once, and again where no score or
-- every score reaches 4, or for quantiles. Out, one row: _chosen_min and _rejected_below DOUBLE.
CREATE OR REPLACE MACRO pref_limits(
  candidates, what, chosen_min := 'auto', rejected_below := 'auto', chosen_quantile := NULL,
  rejected_quantile := NULL
) AS TABLE (
  WITH extremes AS MATERIALIZED (
    SELECT min(_score) AS _low, max(_score) AS _high FROM query_table(candidates)
    WHERE _reason IS NULL AND (pref_is_auto(chosen_min) OR pref_is_auto(rejected_below))),
  quantiles AS MATERIALIZED (
    FROM pref_quantiles(candidates, chosen_quantile := chosen_quantile,
      rejected_quantile := rejected_quantile)),
  few AS MATERIALIZED (
    SELECT bool_and(_score IN (_low, _high)) AS _two,
           any_value(_low) = 0 AND any_value(_high) = 1 AND bool_and(_score IN (0, 0.5, 1))
             AS _verdicts
    FROM query_table(candidates), extremes
    WHERE _reason IS NULL AND (_high < 4 OR _low >= 4 AND _high > 5) AND _low = floor(_low)
      AND _high = floor(_high) AND _low < _high
      AND chosen_quantile IS NULL AND rejected_quantile IS NULL),
  usual AS MATERIALIZED (
    SELECT _low, _high, _low IS NULL OR _low = _high AND what = 'pairs' AS _alike,
           coalesce(_chosen, _rejected, CASE WHEN _alike OR _low < 4 AND _high >= 4 THEN 4
             WHEN _two THEN _high WHEN _verdicts THEN 1 END) AS _usual,
           CASE WHEN _verdicts AND NOT _two THEN 0.5 ELSE _usual END AS _usual_below,
           _chosen, _rejected
    FROM extremes, quantiles, few),
  found AS MATERIALIZED (
    SELECT *,
           CASE WHEN chosen_quantile IS NOT NULL THEN _chosen
             WHEN pref_is_auto(chosen_min) THEN _usual
             ELSE TRY_CAST(chosen_min AS DOUBLE) END AS _chosen_min,
           CASE WHEN rejected_quantile IS NOT NULL THEN _rejected
             WHEN pref_is_auto(rejected_below) THEN _usual_below
             ELSE TRY_CAST(rejected_below AS DOUBLE) END AS _rejected_below,
           pref_is_auto(chosen_min) AND chosen_quantile IS NULL
             OR pref_is_auto(rejected_below) AND rejected_quantile IS NULL AS _open
    FROM usual)
  SELECT _chosen_min, _rejected_below FROM found
  WHERE CASE
    -- first: what cannot be meant is no matter of the scores
    WHEN pref_quantile_refusal(CASE what WHEN 'pairs' THEN 'preference_pairs' ELSE what END,
      chosen_min, rejected_below, chosen_quantile, rejected_quantile) IS NOT NULL
    THEN false
    WHEN NOT _alike AND _open AND isfinite(coalesce(_chosen_min + _rejected_below, 0))
      AND (_usual IS NULL OR coalesce(_high < _chosen_min, false)
        OR coalesce(_low >= _rejected_below, false))
    THEN error('prefmill: ' || what || CASE
      WHEN chosen_quantile IS NULL AND rejected_quantile IS NULL
      THEN ': the default thresholds, made for scores from 1 to 5, do not divide these scores;'
      ELSE ': a quantile that is the smallest score does not divide these scores;' END
      || ' smallest score seen ' || _low || ', largest score seen ' || _high
      || '. Hint: name both in units of the score, chosen_min := NUMBER, rejected_below := NUMBER;'
      || ' or as shares of the scores, chosen_quantile := 0.7, rejected_quantile := 0.3'
      || CASE WHEN what = 'pairs'
           THEN '; or NULL for both: any two different scores make a pair.' ELSE '.' END)
    WHEN what = 'unpaired' AND _rejected_below > _chosen_min
    THEN error('prefmill: unpaired: rejected_below must not exceed chosen_min; got '
      || _rejected_below || ' > ' || _chosen_min || '.')
    ELSE true END
);
