-- The narrow relation that pref_rows takes, from a relation of _pos, _prompt, _completion, _score0
-- grouped by prompt. Further columns stay. Adding 0 makes -0.0 a plain zero.
CREATE OR REPLACE MACRO pref_judged(numbered) AS TABLE (
  SELECT * EXCLUDE (_prompt, _completion, _score0),
         _prompt AS _grp, NULL AS _text, NULL AS _id, NULL AS _annotator, NULL AS _aspect,
         NULL AS _refusal, _prompt IS NOT NULL AS _has_prompt,
         _completion IS NOT NULL AS _has_completion, _score0 IS NULL AS _null_score,
         pref_number(_score0) + 0 AS _value
  FROM query_table(numbered)
);
