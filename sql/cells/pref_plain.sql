-- `x`, a column of a role that is compared (group, id, annotator, aspect), or our error if its type
-- is none that every host compares alike.
CREATE OR REPLACE MACRO pref_plain(x, role) AS
CASE
  WHEN NOT regexp_full_match(typeof(x),
    '(?s)VARCHAR|BOOLEAN|DATE|U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|DECIMAL\(38,0\)'
    || '|"NULL"|ENUM\(.*')
  THEN error('prefmill: a column cannot be the role ' || role || '; got ' || left(typeof(x), 100)
    || ', expected text, whole numbers, booleans or dates. Cast it.')
  ELSE x
END;
