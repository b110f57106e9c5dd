-- Single completions with a label, for KTO: prompt, completion, label, score. True from chosen_min
-- on, false below rejected_below; what lies between has no label and is left out.
--
--   FROM unpaired('feedback/*.parquet', chosen_min := 4, rejected_below := 3);
CREATE OR REPLACE MACRO unpaired(
  tbl, prompt := NULL, completion := NULL, score := NULL, chosen_min := 'auto',
  rejected_below := 'auto', chosen_quantile := NULL, rejected_quantile := NULL, keep := NULL
) AS TABLE (
  WITH asked AS NOT MATERIALIZED (FROM pref_with_context(tbl)),
  numbered AS NOT MATERIALIZED (
    FROM pref_numbered('asked', prompt, completion, score, keep := pref_kept(keep, keep),
      further := _context)),
  texts AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion AS _chosen_text, _completion AS _rejected_text,
           _further AS _context, COLUMNS('^_keep_(.*)$') AS "\1" FROM numbered),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  limits AS MATERIALIZED (
    FROM pref_limits('candidates', 'unpaired', chosen_min := chosen_min,
      rejected_below := rejected_below, chosen_quantile := chosen_quantile,
      rejected_quantile := rejected_quantile)),
  labels AS NOT MATERIALIZED (
    FROM pref_labels('candidates', chosen_min := (SELECT _chosen_min FROM limits),
      rejected_below := (SELECT _rejected_below FROM limits), plain := true)),
  told AS NOT MATERIALIZED (
    SELECT texts.* EXCLUDE (_pos), _label, _score, _turn, _first
    FROM labels JOIN texts ON texts._pos = labels._pos WHERE _label IS NOT NULL
    -- looked at whatever the table holds: a wrong argument is never an empty result
    UNION ALL BY NAME
    SELECT NULL AS _first
    WHERE pref_labels_refusal(chosen_min, rejected_below, chosen_quantile, rejected_quantile)
      IS NOT NULL
    UNION ALL BY NAME
    SELECT NULL AS _first
    FROM pref_roles_refusal('numbered', tbl, 'unpaired', keep := keep,
      taken := ['prompt', 'completion', 'label', 'score'])
    WHERE _said IS NOT NULL)
  SELECT * EXCLUDE (_mark, _turn, _first) FROM (
    SELECT _prompt AS prompt, _chosen_text AS completion, _label AS label, _score AS score,
           COLUMNS('^_own_(.*)$') AS "\1",
           COLUMNS(lambda name: NOT starts_with(name, '_own_')
             AND name NOT IN ('_prompt', '_chosen_text', '_rejected_text', '_label', '_score',
               '_context', '_none'))
    FROM pref_conversations('told'))
  ORDER BY _turn, _first
);
