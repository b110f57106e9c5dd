-- Raises our error if a seed cannot be meant; NULL if it can.
CREATE OR REPLACE MACRO pref_seed_refusal(macro, seed) AS
CASE WHEN coalesce(NOT regexp_full_match(seed::VARCHAR, '[0-9]+'), true)
     THEN error('prefmill: ' || macro || ': seed is no whole number >= 0; got '
       || coalesce(seed::VARCHAR, 'NULL') || '.') END;
