-- Every usable row with its rank in its prompt: prompt, completion, score, rank (1 is the best), n
-- (candidates of the prompt), gap (score of the best minus this one). In no particular order: ORDER
-- BY what you need.
--
--   FROM rank_candidates('scored.parquet') WHERE rank <= 3 AND gap < 0.5;
--   FROM rank_candidates(scored, prompt := question, completion := answer, score := -loss);
--
-- Roles that are not given are found by their names (pref_numbered); keep := ['model'] adds
-- columns. Ranks are those of best_of; texts are joined to them at the end, never carried through a
-- group-by or a sort.
CREATE OR REPLACE MACRO rank_candidates(
  tbl, prompt := NULL, completion := NULL, score := NULL, keep := NULL
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score, keep := keep)),
  texts AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion, COLUMNS('^_keep_(.*)$') AS "\1" FROM numbered),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  groups AS NOT MATERIALIZED (FROM pref_groups('candidates')),
  keyed AS NOT MATERIALIZED (
    SELECT _n, pref_key_score(_ranks[-1]) AS _best, unnest(_ranks) AS _key,
           _n - unnest(range(1, _n + 1)) + 1 AS _rank FROM groups),
  ranked AS NOT MATERIALIZED (
    SELECT pref_key_position(_key) AS _pos, pref_key_score(_key) AS _score, _rank, _n, _best
    FROM keyed),
  told AS NOT MATERIALIZED (
    SELECT texts.* EXCLUDE (_pos), ranked._score, ranked._rank, ranked._n,
           ranked._best - ranked._score AS _gap
    FROM ranked JOIN texts ON texts._pos = ranked._pos
    UNION ALL BY NAME
    SELECT NULL AS _rank
    FROM pref_roles_refusal('numbered', tbl, 'rank_candidates', keep := keep,
      taken := ['prompt', 'completion', 'score', 'rank', 'n', 'gap'])
    WHERE _said IS NOT NULL)
  SELECT _prompt AS prompt, _completion AS completion, _score AS score, _rank AS rank, _n AS n,
         _gap AS gap,
         * EXCLUDE (_prompt, _completion, _score, _rank, _n, _gap, _none)
  FROM told
);
