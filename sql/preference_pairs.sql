-- Preference pairs of a table, view, CTE, file or glob: prompt, chosen, rejected, chosen_score,
-- rejected_score.
--
--   FROM preference_pairs('feedback/*.parquet');
--   FROM preference_pairs(feedback, prompt := question, completion := answer, score := -rank,
--                         chosen_min := NULL, rejected_below := NULL);
--
-- Roles that are not given are found by their names (pref_numbered). keep := ['model'] adds
-- chosen_model and rejected_model. What the arguments mean: docs/semantics.md. Texts are joined to
-- ranked positions at the end, never carried through a group-by.
CREATE OR REPLACE MACRO preference_pairs(
  tbl, prompt := NULL, completion := NULL, score := NULL, strategy := 'best_worst',
  chosen_min := 'auto', rejected_below := 'auto', chosen_quantile := NULL,
  rejected_quantile := NULL, min_margin := 0, max_pairs_per_prompt := NULL, top_k := NULL,
  bottom_k := NULL, seed := 0, keep := NULL
) AS TABLE (
  WITH asked AS NOT MATERIALIZED (FROM pref_with_context(tbl)),
  numbered AS NOT MATERIALIZED (
    FROM pref_numbered('asked', prompt, completion, score, keep := pref_kept(keep, []),
      further := _context)),
  better AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion, _further AS _context, COLUMNS('^_keep_(.*)$') AS "chosen_\1"
    FROM numbered),
  worse AS NOT MATERIALIZED (
    SELECT _pos, _completion, _further AS _other, COLUMNS('^_keep_(.*)$') AS "rejected_\1"
    FROM numbered),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  limits AS MATERIALIZED (
    FROM pref_limits('candidates', 'pairs', chosen_min := chosen_min,
      rejected_below := rejected_below, chosen_quantile := chosen_quantile,
      rejected_quantile := rejected_quantile)),
  groups AS NOT MATERIALIZED (FROM pref_groups('candidates', ends_only := strategy = 'best_worst')),
  groups_once AS MATERIALIZED (FROM groups),
  pairs AS NOT MATERIALIZED (
    FROM pref_pairs(CASE WHEN max_pairs_per_prompt IS NULL THEN 'groups' ELSE 'groups_once' END,
      strategy := strategy, min_margin := min_margin,
      chosen_min := (SELECT _chosen_min FROM limits),
      rejected_below := (SELECT _rejected_below FROM limits),
      max_pairs_per_prompt := max_pairs_per_prompt, top_k := top_k, bottom_k := bottom_k,
      seed := seed)),
  told AS NOT MATERIALIZED (
    SELECT better._completion AS _chosen_text, worse._completion AS _rejected_text, _chosen_score,
           _rejected_score, _first, _c, _r,
           better.* EXCLUDE (_pos, _completion), worse.* EXCLUDE (_pos, _completion)
    FROM pairs JOIN better ON better._pos = pairs._chosen JOIN worse ON worse._pos = pairs._rejected
    WHERE CASE WHEN pref_same_text(better._completion, worse._completion) THEN false
      ELSE pref_one_context(better._context, worse._other) END
    -- looked at whatever the table holds: a wrong argument is never an empty result
    UNION ALL BY NAME
    SELECT NULL AS _first
    WHERE pref_pairs_refusal('preference_pairs', strategy, chosen_min, rejected_below,
      chosen_quantile, rejected_quantile, min_margin, max_pairs_per_prompt, top_k, bottom_k,
      seed) IS NOT NULL
    UNION ALL BY NAME
    SELECT NULL AS _first
    FROM pref_roles_refusal('numbered', tbl, 'preference_pairs', keep := keep, taken := ['score'])
    WHERE _said IS NOT NULL)
  SELECT * EXCLUDE (_mark, _first, _c, _r) FROM (
    SELECT _prompt AS prompt, _chosen_text AS chosen, _rejected_text AS rejected,
           _chosen_score AS chosen_score, _rejected_score AS rejected_score,
           COLUMNS('^chosen__own_(.*)$') AS "\1",
           COLUMNS(lambda name: name IN ('_first', '_c', '_r')
             OR regexp_matches(name, '^(chosen|rejected)_')
             AND NOT regexp_matches(name, '^[a-z]+__(own_|none$)'))
    FROM pref_conversations('told'))
  ORDER BY _first, _c DESC, _r
);
