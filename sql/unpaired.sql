-- Single completions with a label, for KTO: prompt, completion, label, score. True from chosen_min on, false below rejected_below;
-- what lies between has no label and is left out.
--
--   FROM unpaired('feedback/*.parquet', chosen_min := 4, rejected_below := 3);
CREATE OR REPLACE MACRO pref_table_labels(tbl, prompt, completion, score, chosen_min, rejected_below) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos, prompt AS _prompt, completion AS _completion, score AS _score0 FROM query_table(tbl)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  limits AS MATERIALIZED (FROM pref_limits('candidates', 'unpaired', chosen_min := chosen_min, rejected_below := rejected_below)),
  labels AS NOT MATERIALIZED (
    FROM pref_labels('candidates', chosen_min := (SELECT _chosen_min FROM limits), rejected_below := (SELECT _rejected_below FROM limits),
                     plain := true)),
  told AS NOT MATERIALIZED (
    SELECT row._prompt, row._completion AS _chosen_text, row._completion AS _rejected_text, _label, _score, _turn, _first
    FROM labels JOIN numbered AS row ON row._pos = labels._pos WHERE _label IS NOT NULL
    UNION ALL -- looked at whatever the table holds: a wrong argument is never an empty result
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE pref_labels_refusal(chosen_min, rejected_below) IS NOT NULL
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM pref_roles_refusal(tbl, 'unpaired', prompt, completion, score, NULL) WHERE _said IS NOT NULL)
  SELECT _prompt AS prompt, _chosen_text AS completion, _label AS label, _score AS score
  FROM pref_conversations('told') ORDER BY _turn, _first
);
CREATE OR REPLACE MACRO unpaired(tbl, chosen_min := 'auto', rejected_below := 'auto') AS TABLE (
  FROM pref_table_labels(tbl, prompt, completion, score, chosen_min, rejected_below)),
(tbl, prompt, completion, score, chosen_min := 'auto', rejected_below := 'auto') AS TABLE (
  FROM pref_table_labels(tbl, prompt, completion, score, chosen_min, rejected_below));
