-- Picks by adjusted scores, with the scores as they were.
--
-- In: `ranked`, the output of pref_picks or pref_rso over adjusted candidates, and `candidates`, as
-- they were. Out: the columns of `ranked`, with the score as it was as _score and _adjusted_score
-- DOUBLE.
CREATE OR REPLACE MACRO pref_given(ranked, candidates) AS TABLE (
  SELECT r.* REPLACE (c._score AS _score), r._score AS _adjusted_score
  FROM query_table(ranked) AS r JOIN query_table(candidates) AS c ON c._pos = r._pos
  WHERE c._reason IS NULL
);
