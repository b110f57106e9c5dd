-- One row: NULL, or our error if a role cannot be meant. `further` is one more role, or NULL. Looks at the first 100 rows for
-- a role that is one text in all of them, which is the name of a column (prompt := 'question' instead of prompt := question would make one group of
-- the whole table), and for a score of a type that holds no numbers (no row would count), as an ENUM of words does.
CREATE OR REPLACE MACRO pref_roles_refusal(tbl, macro, prompt, completion, score, further) AS TABLE (
  WITH head AS NOT MATERIALIZED (
    SELECT struct_keys(_t) AS _names, typeof(score) AS _type, CASE WHEN typeof(prompt) = 'VARCHAR' THEN prompt::VARCHAR END AS _prompt,
           CASE WHEN typeof(completion) = 'VARCHAR' THEN completion::VARCHAR END AS _completion,
           CASE WHEN typeof(score) = 'VARCHAR' THEN score::VARCHAR END AS _score,
           CASE WHEN typeof(further) = 'VARCHAR' THEN further::VARCHAR END AS _further
    FROM query_table(tbl) AS _t LIMIT 100),
  texts AS NOT MATERIALIZED (
    SELECT any_value(_names) AS _names, any_value(_type) AS _type, list_filter([
      CASE WHEN min(_prompt) = max(_prompt) AND count(_prompt) = count(*) THEN min(_prompt) END,
      CASE WHEN min(_completion) = max(_completion) AND count(_completion) = count(*) THEN min(_completion) END,
      CASE WHEN min(_score) = max(_score) AND count(_score) = count(*) THEN min(_score) END,
      CASE WHEN min(_further) = max(_further) AND count(_further) = count(*) THEN min(_further) END], lambda t: t IS NOT NULL) AS _texts
    FROM head)
  SELECT CASE
    WHEN len(list_intersect(_texts, _names)) > 0
    THEN error('prefmill: ' || macro || ': a role is the text ''' || list_intersect(_texts, _names)[1]
               || ''' in every row; got a column''s name in quotes, expected the column: write it without quotes.')
    WHEN starts_with(_type, 'ENUM(') AND len(list_filter(regexp_extract_all(_type, '''([^'']*)''', 1), lambda v: pref_number(v) IS NOT NULL)) = 0
      OR pref_holds_no_number(_type)
    THEN error('prefmill: ' || macro || ': the score has a type that holds no numbers; got ' || left(_type, 100)
               || ', expected numbers, or text that spells them.')
    END AS _said
  FROM texts
);
