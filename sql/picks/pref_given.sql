-- Picks by adjusted scores with the scores as they were: _score, and beside it _adjusted_score. `candidates` have the first.
CREATE OR REPLACE MACRO pref_given(ranked, candidates) AS TABLE (
  SELECT r.* REPLACE (c._score AS _score), r._score AS _adjusted_score
  FROM query_table(ranked) AS r JOIN query_table(candidates) AS c ON c._pos = r._pos WHERE c._reason IS NULL
);
