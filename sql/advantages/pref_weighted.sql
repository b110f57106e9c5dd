-- Candidates with the weight of their policy: _weight DOUBLE, and _log BOOLEAN (the weights are
-- log-probabilities).
--
-- In: `candidates`, the output of pref_candidates, and `numbered`, a relation of _pos and _weight
-- of all rows. Out, in no order: the columns of `candidates` with these two.
CREATE OR REPLACE MACRO pref_weighted(candidates, numbered, logs := false) AS TABLE (
  SELECT c.*, pref_number(r._weight) AS _weight, logs AS _log
  FROM query_table(candidates) AS c JOIN query_table(numbered) AS r ON r._pos = c._pos
);
