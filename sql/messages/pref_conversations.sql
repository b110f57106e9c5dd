-- Rows for a trainer are all text or all messages (docs/semantics.md, Conversations).
--
-- `told` is a relation of _context (pref_with_context), _prompt and of _chosen_text, _rejected_text
-- (both completions; of labels the same one twice). Where the prompt or the completion is a list of
-- messages, a text is a message of the user or of the assistant, and messages have role and
-- content, with roles that chat templates know. An ENUM is its text. Other types are refused.
-- Columns with other names stay.
--
-- A type is known when a query is bound, and so is `typeof`: the field that struct_extract takes
-- out of a struct of all forms is chosen then, and gives the column its type. DuckDB 2.0 makes
-- nothing of the other forms; for 1.5 a CASE keeps them empty.
--
-- The names of a message's fields, with their types; what is inside of these is left out.
CREATE OR REPLACE MACRO pref_without_inner(fields) AS regexp_replace(fields, '\([^()]*\)', '', 'g');
CREATE OR REPLACE MACRO pref_message_fields(kind) AS
pref_without_inner(pref_without_inner(pref_without_inner(
  pref_without_inner(pref_without_inner(pref_without_inner(
    regexp_extract(kind, '(?s)^STRUCT\((.*)\)\[[0-9]*\]$', 1)))))));
CREATE OR REPLACE MACRO pref_has_field(kind, field) AS
regexp_matches(pref_message_fields(kind), '(^|, )"?' || field || '"? ');
CREATE OR REPLACE MACRO pref_has_more_fields(kind) AS
regexp_matches(pref_message_fields(kind), ',.*,');
CREATE OR REPLACE MACRO pref_holds_messages(kind) AS
(pref_has_field(kind, 'role') AND pref_has_field(kind, 'content'))
  OR (pref_has_field(kind, 'from') AND pref_has_field(kind, 'value'));
-- Which field of a message says who speaks, and which what is said: OpenAI's names, else
-- ShareGPT's.
CREATE OR REPLACE MACRO pref_message_key(kind, openai, sharegpt) AS
CASE
  WHEN (pref_has_field(kind, 'role') AND pref_has_field(kind, 'content'))
    OR NOT pref_has_field(kind, 'from')
  THEN openai ELSE sharegpt
END;
CREATE OR REPLACE MACRO pref_role(speaker) AS
CASE speaker WHEN 'human' THEN 'user' WHEN 'prompter' THEN 'user' WHEN 'gpt' THEN 'assistant'
  ELSE speaker END;
CREATE OR REPLACE MACRO pref_form(kind, other, system) AS
CASE
  WHEN pref_holds_messages(kind) OR pref_holds_messages(other) OR system = 'VARCHAR' THEN 'messages'
  WHEN starts_with(kind, 'ENUM(') THEN 'text'
  ELSE 'as it is'
END;
CREATE OR REPLACE MACRO pref_system_refusal(kind, system) AS
CASE WHEN kind <> 'VARCHAR' AND system IS NOT NULL
  THEN error('prefmill: a system prompt cannot begin messages whose contents are '
    || left(kind, 100) || '; make it the first message of the prompt.') END;
CREATE OR REPLACE MACRO pref_text_refusal(kind) AS
CASE
  WHEN NOT (pref_holds_messages(kind) OR starts_with(kind, 'ENUM(')
    OR kind IN ('VARCHAR', '"NULL"'))
  THEN error('prefmill: the prompt or the completion holds neither text nor messages; got '
    || left(kind, 200)
    || ', expected VARCHAR or a list of STRUCT(role, content). Cast it, or name another column.')
END;
CREATE OR REPLACE MACRO pref_conversations(told) AS TABLE (
  WITH listed AS NOT MATERIALIZED (
    SELECT *,
      struct_extract({'list': _prompt, 'text': [{'role': 'user', 'content': _prompt::VARCHAR}]},
        CASE WHEN pref_holds_messages(typeof(_prompt)) THEN 'list' ELSE 'text' END) AS _asked,
      struct_extract({'list': [_chosen_text, _rejected_text],
        'text': [[{'role': 'assistant', 'content': text::VARCHAR}]
          FOR text IN [_chosen_text, _rejected_text]]},
        CASE WHEN pref_holds_messages(typeof(_chosen_text)) THEN 'list' ELSE 'text' END) AS _said
    FROM query_table(told)),
  written AS NOT MATERIALIZED (
    SELECT * EXCLUDE (_asked, _said),
      list_transform(CASE
        WHEN pref_form(typeof(_prompt), typeof(_chosen_text), typeof(_context.system)) = 'messages'
        THEN _asked END, lambda m: struct_extract(
        {'two': {
           'role': pref_role(struct_extract(m, pref_message_key(typeof(_asked), 'role', 'from'))),
           'content': struct_extract(m, pref_message_key(typeof(_asked), 'content', 'value'))},
         'more': struct_update(m,
           role := pref_role(struct_extract(m, pref_message_key(typeof(_asked), 'role', 'from'))),
           content := struct_extract(m, pref_message_key(typeof(_asked), 'content', 'value')))},
        CASE WHEN pref_has_more_fields(typeof(_asked)) THEN 'more' ELSE 'two' END)) AS _asked,
      list_transform(CASE
        WHEN pref_form(typeof(_prompt), typeof(_chosen_text), typeof(_context.system)) = 'messages'
        THEN _said END, lambda said: list_transform(said, lambda m: struct_extract(
        {'two': {
           'role': pref_role(struct_extract(m, pref_message_key(typeof(said), 'role', 'from'))),
           'content': struct_extract(m, pref_message_key(typeof(said), 'content', 'value'))},
         'more': struct_update(m,
           role := pref_role(struct_extract(m, pref_message_key(typeof(said), 'role', 'from'))),
           content := struct_extract(m, pref_message_key(typeof(said), 'content', 'value')))},
        CASE WHEN pref_has_more_fields(typeof(said)) THEN 'more' ELSE 'two' END))) AS _said
    FROM listed)
  SELECT * EXCLUDE (_asked, _said) REPLACE (
    struct_extract({'messages': CASE
        WHEN _context.system IS NULL OR coalesce(_asked[1].role IN ('system', 'developer'), false)
        THEN _asked
        ELSE list_concat([{'role': 'system',
          'content': struct_extract({'text': _context.system::VARCHAR,
            'other': CASE WHEN false THEN _asked[1].content END},
            CASE WHEN typeof(_asked[1].content) = 'VARCHAR' THEN 'text' ELSE 'other' END)}], _asked)
      END, 'text': _prompt::VARCHAR, 'as it is': _prompt},
      pref_form(typeof(_prompt), typeof(_chosen_text), typeof(_context.system))) AS _prompt,
    struct_extract({'messages': _said[1], 'text': _chosen_text::VARCHAR, 'as it is': _chosen_text},
      pref_form(typeof(_chosen_text), typeof(_prompt), typeof(_context.system))) AS _chosen_text,
    struct_extract(
      {'messages': _said[2], 'text': _rejected_text::VARCHAR, 'as it is': _rejected_text},
      pref_form(typeof(_rejected_text), typeof(_prompt), typeof(_context.system))) AS _rejected_text
    )
  FROM written
  WHERE pref_text_refusal(typeof(_prompt)) IS NULL
    AND pref_text_refusal(typeof(_chosen_text)) IS NULL
    AND pref_system_refusal(typeof(_asked[1].content), _context.system) IS NULL
);
