-- One row of _said: NULL, or our error if a role cannot be meant.
--
-- In: `numbered`, the output of pref_numbered over `tbl`; `needs`, a role as well as prompt,
-- completion and score; `keep`, refused if it names no column, or one of the answer's (`taken`).
-- Looks at the first 100 rows for a role that is one text in all of them, and the name of a column:
-- prompt := 'question' instead of prompt := question would make one group of the whole table. A
-- score of a type that holds no numbers is refused too, as an ENUM of words: no row would count.
CREATE OR REPLACE MACRO pref_no_column(macro, role, others, names) AS
CASE WHEN NOT list_contains(list_transform(names, lambda name: lower(name)), role) THEN
  error('prefmill: ' || macro || CASE
    WHEN len(list_filter(names, lambda name: list_contains(others, lower(name)))) > 1
    THEN ': several columns could be the role ''' || role || '''; got '
      || list_filter(names, lambda name: list_contains(others, lower(name)))::VARCHAR
      || '. Hint: ' || CASE
        -- Of a prompt in parts, each alone loses the others.
        WHEN role = 'prompt'
        THEN 'if the prompt is all of them: prompt := concat_ws(chr(10) || chr(10), '
          || array_to_string(list_transform(
            list_filter(names, lambda name: list_contains(others, lower(name))),
            lambda name: 'nullif(' || name || ', '''')'), ', ')
          || '); only if one of them is the whole prompt, name it: prompt := COLUMN.'
        ELSE 'name the one that is meant: ' || role || ' := COLUMN.' END
    ELSE ': no column for the role ''' || role || '''; got ' || names::VARCHAR
      || '. Hint: name the column: ' || role || ' := COLUMN.' END) END;
CREATE OR REPLACE MACRO pref_roles_refusal(
  numbered, tbl, macro, needs := NULL, keep := NULL, taken := NULL
) AS TABLE (
  WITH known AS NOT MATERIALIZED (
    SELECT struct_keys(_t) AS _names
    FROM (SELECT 1) LEFT JOIN (SELECT * FROM query_table(tbl) LIMIT 0) AS _t ON true),
  head AS NOT MATERIALIZED (
    SELECT typeof(_score0) AS _type, [typeof(_prompt), typeof(_completion)] AS _kinds,
           CASE WHEN typeof(_prompt) = 'VARCHAR' THEN _prompt::VARCHAR END AS _a,
           CASE WHEN typeof(_completion) = 'VARCHAR' THEN _completion::VARCHAR END AS _b,
           CASE WHEN typeof(_score0) = 'VARCHAR' THEN _score0::VARCHAR END AS _c,
           CASE WHEN typeof(_source) = 'VARCHAR' THEN _source::VARCHAR END AS _d,
           CASE WHEN typeof(_annotator) = 'VARCHAR' THEN _annotator::VARCHAR END AS _e,
           CASE WHEN typeof(_further) = 'VARCHAR' THEN _further::VARCHAR END AS _f,
           [typeof(_found.prompt) = 'BOOLEAN', typeof(_found.completion) = 'BOOLEAN',
             typeof(_found.score) = 'BOOLEAN', typeof(_found.source) = 'BOOLEAN',
             typeof(_found.annotator) = 'BOOLEAN'] AS _there
    FROM (SELECT 1) LEFT JOIN (SELECT * FROM query_table(numbered) LIMIT 100) ON true),
  texts AS NOT MATERIALIZED (
    SELECT any_value(_type) AS _type, any_value(_there) AS _there, any_value(_kinds) AS _kinds,
      list_filter([CASE WHEN min(_a) = max(_a) AND count(_a) = count(*) THEN min(_a) END,
        CASE WHEN min(_b) = max(_b) AND count(_b) = count(*) THEN min(_b) END,
        CASE WHEN min(_c) = max(_c) AND count(_c) = count(*) THEN min(_c) END,
        CASE WHEN min(_d) = max(_d) AND count(_d) = count(*) THEN min(_d) END,
        CASE WHEN min(_e) = max(_e) AND count(_e) = count(*) THEN min(_e) END,
        CASE WHEN min(_f) = max(_f) AND count(_f) = count(*) THEN min(_f) END],
        lambda t: t IS NOT NULL) AS _texts
    FROM head)
  SELECT CASE
    WHEN NOT _there[1]
      AND pref_no_column(macro, 'prompt',
        ['question', 'instruction', 'input', 'query', 'context', 'user_prompt', 'problem'],
        _names) IS NOT NULL
    THEN NULL
    WHEN NOT _there[2]
      AND pref_no_column(macro, 'completion',
        ['answer', 'response', 'output', 'generation', 'reply', 'model_output', 'generated_text'],
        _names) IS NOT NULL
    THEN NULL
    WHEN NOT _there[3]
      AND pref_no_column(macro, 'score',
        ['feedback', 'rating', 'reward', 'overall_score', 'overall_rating', 'preference_score',
          'grade', 'stars'], _names) IS NOT NULL
    THEN NULL
    WHEN coalesce(needs = 'source', false) AND NOT _there[4]
      AND pref_no_column(macro, 'source', ['source'], _names) IS NOT NULL THEN NULL
    WHEN coalesce(needs = 'annotator', false) AND NOT _there[5]
      AND pref_no_column(macro, 'annotator', ['annotator'], _names) IS NOT NULL THEN NULL
    WHEN len(list_filter(_texts, lambda text:
      list_contains(list_transform(_names, lambda name: lower(name)), lower(text)))) > 0
    THEN error('prefmill: ' || macro || ': a role is the text '''
      || list_filter(_texts, lambda text:
        list_contains(list_transform(_names, lambda name: lower(name)), lower(text)))[1]
      || ''' in every row; got a column''s name in quotes, expected the column:'
      || ' write it without quotes.')
    WHEN len(list_filter(_kinds, lambda kind: pref_is_json(kind))) > 0
    THEN error('prefmill: ' || macro || ': prompt or completion is JSON; got '
      || left(list_filter(_kinds, lambda kind: pref_is_json(kind))[1], 100)
      || ', expected text or messages. Hint: for JSON strings cast it so:'
      || ' completion := COLUMN->>''$''.')
    WHEN starts_with(_type, 'ENUM(')
      AND len(list_filter(regexp_extract_all(_type, '''([^'']*)''', 1),
        lambda v: pref_number(v) IS NOT NULL)) = 0
      OR pref_holds_no_number(_type)
    THEN error('prefmill: ' || macro || ': the score has a type that holds no numbers; got '
      || left(_type, 100) || ', expected numbers, or text that spells them.')
    WHEN len(list_filter(keep, lambda name: NOT list_contains(_names, name))) > 0
    THEN error('prefmill: ' || macro || ': keep names no column of the table; got '
      || list_filter(keep, lambda name: NOT list_contains(_names, name))::VARCHAR
      || ', expected some of ' || _names::VARCHAR || '.')
    WHEN len(list_intersect(keep, taken)) > 0
    THEN error('prefmill: ' || macro || ': the answer has a column '''
      || list_intersect(keep, taken)[1]
      || ''' of its own; got it in keep. Hint: leave it out, or rename it.')
    END AS _said
  FROM texts, known
);
