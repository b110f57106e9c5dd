-- `x`, a column of texts or messages, or our error if it holds JSON: the text of a JSON value is
-- not the value.
CREATE OR REPLACE MACRO pref_is_json(kind) AS regexp_matches(kind, '(^|[ (])JSON([,)\[]|$)');
CREATE OR REPLACE MACRO pref_no_json(x, role) AS
CASE
  WHEN pref_is_json(typeof(x))
  THEN error('prefmill: a column cannot be the role ' || role || '; got ' || left(typeof(x), 100)
    || ', expected text or messages. Hint: for JSON strings cast it so: COLUMN->>''$''.')
  ELSE x
END;
