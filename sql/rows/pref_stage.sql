-- The whole number that a stage is, or NULL. Text counts as the number that it spells, if that is
-- whole and below 2^53.
CREATE OR REPLACE MACRO pref_stage(x) AS
CASE
  WHEN typeof(x) = 'VARCHAR'
  THEN CASE
    WHEN abs(pref_number(x)) < 9007199254740992 AND pref_number(x) = floor(pref_number(x))
    THEN TRY_CAST(pref_number(x) AS HUGEINT) END
  WHEN regexp_full_match(typeof(x), '"NULL"|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?')
  THEN TRY_CAST(x AS HUGEINT)
  WHEN x IS NOT NULL
  THEN error('prefmill: a stage is no whole number; got type ' || typeof(x)
    || ', expected whole numbers or text that holds them.')
END;
