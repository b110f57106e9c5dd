-- Whether the two completions of a pair are the same text. A CASE, because `a <> b` in the WHERE of
-- a join is taken for its condition: DuckDB 1.5 then compares every row with every other.
CREATE OR REPLACE MACRO pref_same_text(chosen, rejected) AS
CASE WHEN chosen = rejected THEN true ELSE false END;
