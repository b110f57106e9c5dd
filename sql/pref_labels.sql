-- Candidates with a label: true from chosen_min on, false below rejected_below, between the two none (NULL).
--
-- `candidates` is the output of pref_candidates. Gives _pos, _score, _votes, _label, and _turn, _first: order by these and no two
-- neighbours share a prompt as long as others have answers left.
CREATE OR REPLACE MACRO pref_labels(candidates, chosen_min := 4, rejected_below := 4) AS TABLE (
  SELECT _grp, _pos, _score, _votes,
         CASE WHEN _score >= chosen_min THEN true WHEN _score < rejected_below THEN false END AS _label,
         min(_pos) OVER (PARTITION BY _grp) AS _first,
         row_number() OVER (PARTITION BY _grp ORDER BY _pos) AS _turn
  FROM query_table(candidates) WHERE _reason IS NULL
);
