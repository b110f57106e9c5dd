-- The k best (median, worst, random) completions of every prompt: prompt, completion, score, rank (1 is the best).
--
--   FROM best_of('scored.parquet', k := 4);
--   FROM best_of(scored, prompt := question, completion := answer, score := -loss, pick := 'random', seed := 1);
--
-- Columns are prompt, completion, score; or all three are given by name, as expressions. What the arguments mean: docs/semantics.md.
CREATE OR REPLACE MACRO pref_best_refusal(k, pick, scope, seed) AS
CASE
  WHEN coalesce(k < 1 OR k <> floor(k), true) THEN error('prefmill: best_of: k is no whole number >= 1; got ' || coalesce(k::VARCHAR, 'NULL') || '.')
  WHEN coalesce(pick NOT IN ('best', 'median', 'worst', 'random'), true)
  THEN error('prefmill: best_of: unknown pick; got ' || coalesce(pick, 'NULL') || ', expected best, median, worst or random.')
  WHEN coalesce(scope NOT IN ('prompt', 'pool'), true)
  THEN error('prefmill: best_of: unknown scope; got ' || coalesce(scope, 'NULL') || ', expected prompt or pool.')
  ELSE pref_seed_refusal('best_of', seed)
END;
CREATE OR REPLACE MACRO pref_table_best(tbl, prompt, completion, score, k, pick, scope, min_score, seed) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos, prompt AS _prompt, completion AS _completion, score AS _score0 FROM query_table(tbl)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  pools AS NOT MATERIALIZED (FROM pref_pools('candidates', k := k, pick := pick, scope := scope, min_score := min_score)),
  picks AS NOT MATERIALIZED (FROM pref_picks('pools', k := k, pick := pick, scope := scope, seed := seed))
  -- names with an underscore: the bare ones are the arguments
  SELECT _prompt AS prompt, _completion AS completion, _score AS score, _rank AS rank FROM (
    SELECT told._prompt, told._completion, picks._score, picks._rank, picks._first
    FROM picks JOIN numbered AS told ON told._pos = picks._pos
    UNION ALL -- looked at whatever the table holds: a wrong argument is never an empty result
    SELECT NULL, NULL, NULL, NULL, NULL WHERE pref_best_refusal(k, pick, scope, seed) IS NOT NULL
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL FROM pref_roles_refusal(tbl, 'best_of', prompt, completion, score, NULL) WHERE _said IS NOT NULL)
  ORDER BY _first, _rank
);
CREATE OR REPLACE MACRO best_of(tbl, k := 1, pick := 'best', scope := 'prompt', min_score := NULL, seed := 0) AS TABLE (
  FROM pref_table_best(tbl, prompt, completion, score, k, pick, scope, min_score, seed)),
(tbl, prompt, completion, score, k := 1, pick := 'best', scope := 'prompt', min_score := NULL, seed := 0) AS TABLE (
  FROM pref_table_best(tbl, prompt, completion, score, k, pick, scope, min_score, seed));
