-- Candidates with the length of their completions.
--
-- In: `candidates`, the output of pref_candidates, and `numbered`, the relation that they came
-- from. Out, in no order: the candidates that stand, with _length BIGINT, in characters. Of
-- `numbered` only the lengths go on.
CREATE OR REPLACE MACRO pref_measured(candidates, numbered) AS TABLE (
  SELECT c.*, told._length
  FROM query_table(candidates) AS c
  JOIN (SELECT _pos, pref_length(_completion) AS _length FROM query_table(numbered)) AS told
    ON told._pos = c._pos
  WHERE c._reason IS NULL
);
