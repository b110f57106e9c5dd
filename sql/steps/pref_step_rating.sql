-- What a rating of a step means, as a number, or NULL: the word in `meanings` (a map of words to
-- numbers) that it is, the last one of several; else + and - as 1 and 0, a number, true or false.
-- Words compare without regard to case and white space around them, numbers as numbers.
CREATE OR REPLACE MACRO pref_word(x) AS
lower(trim(x::VARCHAR, E' \t\n\r' || chr(11) || chr(12)));
CREATE OR REPLACE MACRO pref_word_number(word) AS
CASE WHEN regexp_full_match(pref_word(word), '[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?')
  THEN TRY_CAST(pref_word(word) AS DOUBLE) END;
CREATE OR REPLACE MACRO pref_is_word(x, word) AS
coalesce(CASE WHEN pref_word_number(word) IS NULL THEN pref_word(x) = pref_word(word)
  ELSE pref_number(x) = pref_word_number(word) END, false);
CREATE OR REPLACE MACRO pref_known_word(x, words) AS
list_filter(words, lambda word: pref_is_word(x, word))[-1];
CREATE OR REPLACE MACRO pref_finite_or_null(x) AS CASE WHEN isfinite(x) THEN x END;
CREATE OR REPLACE MACRO pref_step_rating(x, meanings) AS
pref_finite_or_null(CASE
  WHEN pref_known_word(x, map_keys(meanings)::VARCHAR[]) IS NOT NULL
  THEN (meanings::MAP(VARCHAR, DOUBLE))[pref_known_word(x, map_keys(meanings)::VARCHAR[])]
  WHEN typeof(x) = 'VARCHAR' AND pref_word(x) = '+' THEN 1
  WHEN typeof(x) = 'VARCHAR' AND pref_word(x) = '-' THEN 0
  ELSE pref_number(x) END);
-- Whether a place of the first error says that no step is wrong.
CREATE OR REPLACE MACRO pref_no_error(x, words) AS
len(list_filter(list_concat(['-1', 'N/A'], words::VARCHAR[]), lambda word:
  CASE WHEN pref_word(word) = 'null' THEN x IS NULL ELSE pref_is_word(x, word) END)) > 0;
