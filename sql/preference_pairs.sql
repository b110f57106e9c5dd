-- Preference pairs of a table, view, CTE, file or glob: prompt, chosen, rejected, chosen_score, rejected_score.
--
--   FROM preference_pairs('feedback/*.parquet');
--   FROM preference_pairs(feedback, prompt := question, completion := answer, score := -rank, chosen_min := NULL, rejected_below := NULL);
--
-- Columns are prompt, completion, score; or all three are given by name, as expressions. What the arguments mean: docs/semantics.md.
-- Texts are joined to ranked positions at the end, never carried through a group-by.
CREATE OR REPLACE MACRO pref_table_pairs(tbl, prompt, completion, score, strategy, chosen_min, rejected_below, min_margin,
                                         max_pairs_per_prompt, top_k, bottom_k, seed) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos, prompt AS _prompt, completion AS _completion, score AS _score0 FROM query_table(tbl)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  limits AS MATERIALIZED (FROM pref_limits('candidates', 'pairs', chosen_min := chosen_min, rejected_below := rejected_below)),
  groups AS NOT MATERIALIZED (FROM pref_groups('candidates', ends_only := strategy = 'best_worst')),
  pairs AS NOT MATERIALIZED (
    FROM pref_pairs('groups', strategy := strategy, min_margin := min_margin,
                    chosen_min := (SELECT _chosen_min FROM limits), rejected_below := (SELECT _rejected_below FROM limits),
                    max_pairs_per_prompt := max_pairs_per_prompt, top_k := top_k, bottom_k := bottom_k, seed := seed)),
  told AS NOT MATERIALIZED (
    SELECT better._prompt, better._completion AS _chosen_text, worse._completion AS _rejected_text, _chosen_score, _rejected_score, _first, _c, _r
    FROM pairs JOIN numbered AS better ON better._pos = pairs._chosen JOIN numbered AS worse ON worse._pos = pairs._rejected
    WHERE NOT pref_same_text(better._completion, worse._completion)
    UNION ALL -- looked at whatever the table holds: a wrong argument is never an empty result
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE pref_pairs_refusal('preference_pairs', strategy, chosen_min, rejected_below, min_margin,
      max_pairs_per_prompt, top_k, bottom_k, seed) IS NOT NULL
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM pref_roles_refusal(tbl, 'preference_pairs', prompt, completion, score, NULL)
    WHERE _said IS NOT NULL)
  SELECT _prompt AS prompt, _chosen_text AS chosen, _rejected_text AS rejected, _chosen_score AS chosen_score, _rejected_score AS rejected_score
  FROM pref_conversations('told') ORDER BY _first, _c DESC, _r
);
CREATE OR REPLACE MACRO preference_pairs(tbl, strategy := 'best_worst', chosen_min := 'auto', rejected_below := 'auto', min_margin := 0,
                                         max_pairs_per_prompt := NULL, top_k := NULL, bottom_k := NULL, seed := 0) AS TABLE (
  FROM pref_table_pairs(tbl, prompt, completion, score, strategy, chosen_min, rejected_below, min_margin, max_pairs_per_prompt, top_k, bottom_k, seed)),
(tbl, prompt, completion, score, strategy := 'best_worst', chosen_min := 'auto', rejected_below := 'auto', min_margin := 0,
 max_pairs_per_prompt := NULL, top_k := NULL, bottom_k := NULL, seed := 0) AS TABLE (
  FROM pref_table_pairs(tbl, prompt, completion, score, strategy, chosen_min, rejected_below, min_margin, max_pairs_per_prompt, top_k, bottom_k, seed));
