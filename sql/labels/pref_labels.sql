-- Candidates with a label: true from chosen_min on, false below rejected_below, between the two
-- none (NULL).
--
-- In: `candidates`, the output of pref_candidates. Out, in no order: _grp, _pos BIGINT, _score
-- DOUBLE, _votes BIGINT, _label BOOLEAN, _first and _turn BIGINT. Order by _turn, _first, and no
-- two neighbours share a prompt as long as others have answers left.
--
-- Turns are places in a list for each group: a window would sort the prompts. `plain`: every
-- candidate is one vote; then lists hold one number for (position, score), not structs, which takes
-- a third less time and half the memory.
CREATE OR REPLACE MACRO pref_labels(
  candidates, chosen_min := NULL, rejected_below := NULL, plain := false
) AS TABLE (
  WITH listed AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first,
           list_sort(list(_pos::HUGEINT * 18446744073709551616::HUGEINT
             + _score::DOUBLE::BIT::UBIGINT)) AS _keys
    FROM query_table(candidates) WHERE plain AND _reason IS NULL GROUP BY _grp),
  listed_votes AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first,
           list_sort(list({'pos': _pos, 'score': _score, 'votes': _votes})) AS _rows
    FROM query_table(candidates) WHERE NOT plain AND _reason IS NULL GROUP BY _grp),
  turns AS NOT MATERIALIZED (
    SELECT _grp, _first, (_key >> 64)::BIGINT AS _pos,
           (_key & 18446744073709551615::HUGEINT)::UBIGINT::BIT::DOUBLE AS _score,
           1::BIGINT AS _votes, _turn
    FROM (SELECT _grp, _first, unnest(_keys) AS _key, unnest(range(1, len(_keys) + 1)) AS _turn
      FROM listed)
    UNION ALL
    SELECT _grp, _first, _row.pos, _row.score, _row.votes, _turn
    FROM (SELECT _grp, _first, unnest(_rows) AS _row, unnest(range(1, len(_rows) + 1)) AS _turn
      FROM listed_votes))
  SELECT _grp, _pos, _score, _votes,
         CASE WHEN _score >= chosen_min THEN true
           WHEN _score < rejected_below THEN false END AS _label, _first, _turn
  FROM turns
);
