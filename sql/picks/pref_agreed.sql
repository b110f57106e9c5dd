-- Picks with _agreeing BIGINT, how many candidates of the group come to the same conclusion.
--
-- In: `ranked`, the output of pref_picks over the candidates `agreeing` of pref_agreeing. Out: the
-- columns of `ranked` and _agreeing.
CREATE OR REPLACE MACRO pref_agreed(ranked, agreeing) AS TABLE (
  SELECT r.*, a._agreeing
  FROM query_table(ranked) AS r JOIN query_table(agreeing) AS a ON a._pos = r._pos
);
