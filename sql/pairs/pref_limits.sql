-- The thresholds of a plan: those that were given, and for one that is 'auto' what suits the
-- scores. That is 4 where some are below 4 and some not, the larger one of two whole numbers that
-- are all scores; else our error. The rule: docs/semantics.md.
--
-- In: `candidates`, the output of pref_candidates; it is read once, and again where no score or
-- every score reaches 4. Out, one row: _chosen_min and _rejected_below DOUBLE.
CREATE OR REPLACE MACRO pref_is_auto(threshold) AS coalesce(threshold::VARCHAR = 'auto', false);
-- A threshold before the scores are known: 'auto' as 4; other text is an error of DuckDB's.
CREATE OR REPLACE MACRO pref_threshold(threshold) AS
CASE WHEN pref_is_auto(threshold) THEN 4::DOUBLE ELSE threshold::DOUBLE END;
CREATE OR REPLACE MACRO pref_limits(
  candidates, what, chosen_min := 'auto', rejected_below := 'auto'
) AS TABLE (
  WITH extremes AS MATERIALIZED (
    SELECT min(_score) AS _low, max(_score) AS _high FROM query_table(candidates)
    WHERE _reason IS NULL AND (pref_is_auto(chosen_min) OR pref_is_auto(rejected_below))),
  two AS MATERIALIZED (
    SELECT count(DISTINCT _score) = 2 AS _two FROM query_table(candidates), extremes
    WHERE _reason IS NULL AND (_high < 4 OR _low >= 4 AND _high > 5) AND _low = floor(_low)
      AND _high = floor(_high)),
  usual AS MATERIALIZED (
    SELECT _low, _high, _low IS NULL OR _low = _high AND what = 'pairs' AS _alike,
           CASE WHEN _alike OR _low < 4 AND _high >= 4 THEN 4
             WHEN (SELECT _two FROM two) THEN _high END AS _usual
    FROM extremes),
  found AS MATERIALIZED (
    SELECT *,
           CASE WHEN pref_is_auto(chosen_min) THEN _usual
             ELSE TRY_CAST(chosen_min AS DOUBLE) END AS _chosen_min,
           CASE WHEN pref_is_auto(rejected_below) THEN _usual
             ELSE TRY_CAST(rejected_below AS DOUBLE) END AS _rejected_below
    FROM usual)
  SELECT _chosen_min, _rejected_below FROM found
  WHERE CASE
    WHEN NOT _alike
      AND (_usual IS NULL OR coalesce(_high < _chosen_min, false)
        OR coalesce(_low >= _rejected_below, false))
    THEN error('prefmill: ' || what
      || ': the default thresholds, made for scores from 1 to 5, do not divide these scores;'
      || ' smallest score seen ' || _low || ', largest score seen ' || _high
      || '. Hint: name both in units of the score, chosen_min := NUMBER, rejected_below := NUMBER'
      || CASE WHEN what = 'pairs'
           THEN '; or NULL for both: any two different scores make a pair.' ELSE '.' END)
    WHEN what = 'unpaired' AND _rejected_below > _chosen_min
    THEN error('prefmill: unpaired: rejected_below must not exceed chosen_min; got '
      || _rejected_below || ' > ' || _chosen_min || '.')
    ELSE true END
);
