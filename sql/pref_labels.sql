-- Candidates with a label: true from chosen_min on, false below rejected_below, between the two none (NULL).
--
-- `candidates` is the output of pref_candidates. Gives _grp, _pos, _score, _votes, _label, and _turn, _first: order by these and no two
-- neighbours share a prompt as long as others have answers left. Turns are places in a list for each group: a window would sort the prompts.
CREATE OR REPLACE MACRO pref_labels(candidates, chosen_min := 4, rejected_below := 4) AS TABLE (
  WITH listed AS NOT MATERIALIZED (
    SELECT _grp, min(_pos) AS _first, list_sort(list({'pos': _pos, 'score': _score, 'votes': _votes})) AS _rows
    FROM query_table(candidates) WHERE _reason IS NULL GROUP BY _grp),
  unnested AS NOT MATERIALIZED (
    SELECT _grp, _first, unnest(_rows) AS _row, unnest(range(1, len(_rows) + 1)) AS _turn FROM listed)
  SELECT _grp, _row.pos AS _pos, _row.score AS _score, _row.votes AS _votes,
         CASE WHEN _row.score >= chosen_min THEN true WHEN _row.score < rejected_below THEN false END AS _label, _first, _turn
  FROM unnested
);
