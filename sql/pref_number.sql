-- The number that a score means, or NULL if it means none. Text: ASCII white space around it is ignored; digits with at most
-- one point and an optional exponent, or nan, inf, infinity; true and false are 1 and 0. An ENUM is its text. Numbers and booleans are themselves.
CREATE OR REPLACE MACRO pref_number(x) AS
CASE
  WHEN typeof(x) <> 'VARCHAR' AND NOT starts_with(typeof(x), 'ENUM(') THEN TRY_CAST(x AS DOUBLE)
  WHEN regexp_full_match(x::VARCHAR, '(?i)[ \t-\r]*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)[ \t-\r]*')
  -- DuckDB reads a signed nan only without its sign
  THEN CASE WHEN regexp_matches(x::VARCHAR, '(?i)nan') THEN 'nan'::DOUBLE
            ELSE TRY_CAST(regexp_replace(x::VARCHAR, '[ \t-\r]', '', 'g') AS DOUBLE) END
  WHEN regexp_full_match(x::VARCHAR, '(?i)[ \t-\r]*true[ \t-\r]*') THEN 1
  WHEN regexp_full_match(x::VARCHAR, '(?i)[ \t-\r]*false[ \t-\r]*') THEN 0
END;
