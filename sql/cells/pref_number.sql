-- The number that a score means, or NULL if it means none. Text: ASCII white space around it is
-- ignored; digits with at most one point and an optional exponent, or nan, inf, infinity; true and
-- false are 1 and 0. An ENUM is its text. Numbers and booleans are themselves.
CREATE OR REPLACE MACRO pref_holds_no_number(kind) AS
regexp_full_match(kind,
  '(?s)DATE|TIME.*|INTERVAL|BLOB|BIT|UUID|GEOMETRY.*|(STRUCT|MAP|UNION)\(.*|.*\[[0-9]*\]');
CREATE OR REPLACE MACRO pref_number(x) AS
CASE
  WHEN typeof(x) <> 'VARCHAR' AND NOT starts_with(typeof(x), 'ENUM(') THEN TRY_CAST(x AS DOUBLE)
  WHEN regexp_full_match(x::VARCHAR,
    '(?i)[ \t-\r]*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)[ \t-\r]*')
  -- DuckDB reads a signed nan only without its sign
  THEN CASE WHEN regexp_matches(x::VARCHAR, '(?i)nan') THEN 'nan'::DOUBLE
    ELSE TRY_CAST(regexp_replace(x::VARCHAR, '[ \t-\r]', '', 'g') AS DOUBLE) END
  WHEN regexp_full_match(x::VARCHAR, '(?i)[ \t-\r]*true[ \t-\r]*') THEN 1
  WHEN regexp_full_match(x::VARCHAR, '(?i)[ \t-\r]*false[ \t-\r]*') THEN 0
END;
-- The same, and our error for a type that holds no numbers: what a plan's query calls, which no
-- macro has looked at before.
CREATE OR REPLACE MACRO pref_scored(x) AS
CASE
  WHEN pref_holds_no_number(typeof(x))
  THEN error('prefmill: the score has a type that holds no numbers; got ' || left(typeof(x), 100)
    || ', expected numbers, or text that spells them.')
  ELSE pref_number(x)
END;
