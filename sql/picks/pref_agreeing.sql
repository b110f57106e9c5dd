-- The candidates that come to the conclusion of most in their group; of conclusions with as many, to
-- that of the better candidate.
--
-- In: `candidates`, the output of pref_candidates, and `numbered`, the relation that they came from,
-- with _conclusion. Out, in no order: candidates with _agreeing BIGINT, how many come to theirs.
-- Those below min_score have no vote. They stay, with the others of their group or alone:
-- pref_pools leaves them out, and counts the group.
CREATE OR REPLACE MACRO pref_agreeing(
  candidates, numbered, min_score := NULL, tie_break := 'position'
) AS TABLE (
  WITH answered AS NOT MATERIALIZED (
    SELECT c.*, told._conclusion, coalesce(c._score >= min_score, true) AS high
    FROM query_table(candidates) AS c
    JOIN (SELECT _pos, _conclusion::VARCHAR AS _conclusion FROM query_table(numbered)) AS told
      ON told._pos = c._pos
    WHERE c._reason IS NULL),
  votes AS NOT MATERIALIZED (
    SELECT _grp, _conclusion, count(*) AS n,
           CASE WHEN tie_break = 'id' THEN max({'s': _score, 'i': _id, 'p': _pos})
             ELSE max({'s': _score, 'i': NULL, 'p': _pos}) END AS top
    FROM answered WHERE high GROUP BY _grp, _conclusion),
  won AS NOT MATERIALIZED (
    SELECT _grp, max({'n': n, 'top': top, 'said': _conclusion}) AS best FROM votes GROUP BY _grp)
  SELECT a.* EXCLUDE (_conclusion, high), won.best.n AS _agreeing
  FROM answered AS a LEFT JOIN won ON won._grp = a._grp
  WHERE NOT a.high OR a._conclusion = won.best.said
);
