-- What preference_pairs with the same arguments uses and why it drops the rest: one row of rows_in,
-- rows_used, rows_not_selected, dropped (map of reason to rows), groups_in, groups_used, pairs_out.
-- rows_in = rows_used + rows_not_selected + all that is dropped.
--
--   FROM pair_report('feedback/*.parquet');
CREATE OR REPLACE MACRO pair_report(
  tbl, prompt := NULL, completion := NULL, score := NULL, strategy := 'best_worst',
  chosen_min := 'auto', rejected_below := 'auto', chosen_quantile := NULL,
  rejected_quantile := NULL, min_margin := 0, max_pairs_per_prompt := NULL, top_k := NULL,
  bottom_k := NULL, seed := 0
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  limits AS MATERIALIZED (
    FROM pref_limits('candidates', 'pairs', chosen_min := chosen_min,
      rejected_below := rejected_below, chosen_quantile := chosen_quantile,
      rejected_quantile := rejected_quantile)),
  groups AS MATERIALIZED (FROM pref_groups('candidates', ends_only := strategy = 'best_worst')),
  pairs AS NOT MATERIALIZED (
    FROM pref_pairs('groups', strategy := strategy, chosen_min := (SELECT _chosen_min FROM limits),
      rejected_below := (SELECT _rejected_below FROM limits), min_margin := min_margin,
      max_pairs_per_prompt := max_pairs_per_prompt, top_k := top_k, bottom_k := bottom_k,
      seed := seed)),
  paired AS MATERIALIZED (
    SELECT _first, _chosen, _rejected,
           pref_same_text(better._completion, worse._completion) AS _same_text
    FROM pairs JOIN numbered AS better ON better._pos = pairs._chosen
    JOIN numbered AS worse ON worse._pos = pairs._rejected)
  FROM pref_report('counted', 'candidates', 'groups', 'paired',
    chosen_min := (SELECT _chosen_min FROM limits),
    rejected_below := (SELECT _rejected_below FROM limits), min_margin := min_margin)
  WHERE pref_pairs_refusal('pair_report', strategy, chosen_min, rejected_below,
    chosen_quantile, rejected_quantile, min_margin, max_pairs_per_prompt, top_k, bottom_k, seed) IS NULL
    AND (SELECT _said FROM pref_roles_refusal('numbered', tbl, 'pair_report')) IS NULL
);
