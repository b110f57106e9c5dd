-- Candidates with _length, the characters of their completions. `numbered` is the relation that they came from: of it only the lengths go on.
CREATE OR REPLACE MACRO pref_measured(candidates, numbered) AS TABLE (
  SELECT c.*, told._length
  FROM query_table(candidates) AS c JOIN (SELECT _pos, pref_length(_completion) AS _length FROM query_table(numbered)) AS told ON told._pos = c._pos
  WHERE c._reason IS NULL
);
