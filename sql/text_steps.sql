-- Steps that are one text (Math-Shepherd), and marks in the place of their separators.
--
--   FROM step_labels(solutions,
--     prompt := text_prompt(input, 'ки', 'Step 1:'),
--     steps := text_steps(input, 'ки', steps_from := 'Step 1:'),
--     rating := text_marks(input, label, 'ки', steps_from := 'Step 1:'));
--
-- What is before steps_from (in any case) is the prompt. Steps are trimmed, and blank ones are
-- none. Marks are a text of + and - alone, or the text itself with one character in the place of
-- every separator.
CREATE OR REPLACE MACRO pref_step_space() AS E' \t\n\r' || chr(11) || chr(12);
CREATE OR REPLACE MACRO pref_text_head(text, steps_from) AS
CASE WHEN steps_from IS NULL THEN ''
  WHEN regexp_matches(text, '(?i:' || regexp_escape(steps_from) || ')')
  THEN regexp_extract(text, '^(.*?)(?i:' || regexp_escape(steps_from) || ')', 1, 's') END;
CREATE OR REPLACE MACRO pref_text_pieces(text, separator, steps_from) AS
list_transform(
  string_split(substr(text, length(pref_text_head(text, steps_from)) + 1), separator),
  lambda piece: trim(piece, pref_step_space()));
-- The marks of all separators of a text; NULL where the texts are not alike.
CREATE OR REPLACE MACRO pref_text_marks(text, marks, separator) AS
CASE
  WHEN length(replace(text, separator, ' ')) = length(marks)
  THEN list_transform(
    list_filter(
      list_zip(
        string_split(replace(replace(text, chr(57344), ' '), separator, chr(57344)), ''),
        string_split(marks, '')),
      lambda pair: pair[1] = chr(57344)),
    lambda pair: pair[2])
END;
CREATE OR REPLACE MACRO text_prompt(text, separator, steps_from) AS
trim(replace(pref_text_head(text, steps_from), separator, ''), pref_step_space());
CREATE OR REPLACE MACRO text_steps(text, separator, steps_from := NULL) AS
list_filter(pref_text_pieces(text, separator, steps_from), lambda piece: piece <> '');
CREATE OR REPLACE MACRO text_marks(text, marks, separator, steps_from := NULL) AS
CASE
  WHEN text IS NULL OR marks IS NULL THEN NULL
  WHEN regexp_full_match(marks, '[-+ \t\r\n]*')
  THEN list_filter(string_split(marks, ''), lambda mark: mark IN ('+', '-'))
  WHEN pref_text_marks(text, marks, separator) IS NULL
  THEN error('prefmill: text_marks: the marks are neither + and - alone nor the text of the steps'
    || ' with a mark (one character) for every separator; got ' || left(marks, 60) || '.')
  WHEN pref_text_head(text, steps_from) IS NOT NULL
  THEN list_transform(
    list_filter(
      list_zip(pref_text_pieces(text, separator, steps_from),
        pref_text_marks(text, marks, separator)[
          (length(pref_text_head(text, steps_from))
            - length(replace(pref_text_head(text, steps_from), separator, '')))
            // length(separator) + 1:]),
      lambda pair: pair[1] <> ''),
    lambda pair: pair[2])
END;
