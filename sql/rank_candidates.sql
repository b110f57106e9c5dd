-- Every usable row with its rank in its prompt: prompt, completion, score, rank (1 is the best), n (candidates of the prompt), gap (score of the
-- best minus this one). In no particular order: ORDER BY what you need.
--
--   FROM rank_candidates('scored.parquet') WHERE rank <= 3 AND gap < 0.5;
--   FROM rank_candidates(scored, prompt := question, completion := answer, score := -loss);
--
-- Columns are prompt, completion, score; or all three are given by name, as expressions. Ranks are those of best_of; texts are joined to them
-- at the end, never carried through a group-by or a sort.
CREATE OR REPLACE MACRO pref_table_ranks(tbl, prompt, completion, score) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos, prompt AS _prompt, completion AS _completion, score AS _score0 FROM query_table(tbl)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  groups AS NOT MATERIALIZED (FROM pref_groups('candidates')),
  keyed AS NOT MATERIALIZED (
    SELECT _n, pref_key_score(_ranks[-1]) AS _best, unnest(_ranks) AS _key, _n - unnest(range(1, _n + 1)) + 1 AS _rank FROM groups),
  ranked AS NOT MATERIALIZED (
    SELECT pref_key_position(_key) AS _pos, pref_key_score(_key) AS _score, _rank, _n, _best FROM keyed)
  SELECT told._prompt AS prompt, told._completion AS completion, ranked._score AS score, ranked._rank AS rank, ranked._n AS n,
         ranked._best - ranked._score AS gap
  FROM ranked JOIN numbered AS told ON told._pos = ranked._pos
  UNION ALL
  SELECT NULL, NULL, NULL, NULL, NULL, NULL FROM pref_roles_refusal(tbl, 'rank_candidates', prompt, completion, score, NULL) WHERE _said IS NOT NULL
);
CREATE OR REPLACE MACRO rank_candidates(tbl) AS TABLE (
  FROM pref_table_ranks(tbl, prompt, completion, score)),
(tbl, prompt, completion, score) AS TABLE (
  FROM pref_table_ranks(tbl, prompt, completion, score));
