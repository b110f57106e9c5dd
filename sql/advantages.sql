-- Every scored completion with its advantage over the rest of its prompt: prompt, completion,
-- score, advantage, in the order of the rows.
--
--   FROM advantages('scored.parquet', kind := 'grpo');
--   FROM advantages(rollouts, prompt := question, completion := answer, score := reward,
--                   logprob := policy_logprob);
--
-- kind: 'centered' (score - mean), 'grpo' (that over the sample deviation + epsilon),
-- 'rloo' (score - mean of the others), 'rank' (-1 to 1). With a column `weight` or `logprob` the
-- means are the policy's. Roles that are not given are found by their names (pref_numbered);
-- keep := ['model'] adds columns.
CREATE OR REPLACE MACRO pref_advantage_refusal(kind, epsilon) AS
CASE
  WHEN coalesce(kind NOT IN ('centered', 'grpo', 'rloo', 'rank'), true)
  THEN error('prefmill: advantages: unknown kind; got ' || coalesce(kind, 'NULL')
    || ', expected centered, grpo, rloo or rank.')
  WHEN NOT coalesce(isfinite(epsilon::DOUBLE) AND epsilon > 0, false)
  THEN error('prefmill: advantages: epsilon is no finite number > 0; got '
    || coalesce(epsilon::VARCHAR, 'NULL') || '.')
END;
-- The policy's weight of a row; an argument that was left out is a NULL without a type.
CREATE OR REPLACE MACRO pref_policy_weight(weight, logprob, kind) AS
CASE
  WHEN typeof(weight) <> '"NULL"' AND typeof(logprob) <> '"NULL"'
  THEN error('prefmill: advantages: one policy is asked for; got weight and logprob.')
  WHEN (typeof(weight) <> '"NULL"' OR typeof(logprob) <> '"NULL"') AND kind = 'rank'
  THEN error('prefmill: advantages: kind rank compares ranks and knows no policy; got one.')
  WHEN typeof(weight) <> '"NULL"' THEN pref_number(weight)
  ELSE pref_number(logprob)
END;
CREATE OR REPLACE MACRO advantages(
  tbl, prompt := NULL, completion := NULL, score := NULL, kind := 'centered', epsilon := 1e-4,
  weight := NULL, logprob := NULL, keep := NULL
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score, keep := keep, further := {
      'weight': pref_policy_weight(weight, logprob, kind),
      -- A type is known when the query is bound: the branch that does not run is dropped then.
      'log': struct_extract({'yes': true, 'no': NULL::BIT},
        CASE WHEN pref_there(logprob) THEN 'yes' ELSE 'no' END),
      'acts': struct_extract({'yes': true, 'no': NULL::BIT},
        CASE WHEN pref_there(weight) OR pref_there(logprob) THEN 'yes' ELSE 'no' END)})),
  acted AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion, _score0, _further.weight AS _weight,
           typeof(_further.log) = 'BOOLEAN' AS _log,
           typeof(_further.acts) = 'BOOLEAN' AS _acts
    FROM numbered),
  judged AS NOT MATERIALIZED (
    SELECT _pos, _prompt AS _grp, NULL AS _text, NULL AS _id, NULL AS _annotator, NULL AS _aspect,
           _weight, _log, _acts,
           CASE WHEN _acts THEN pref_weight_refusal(_weight, _log) END AS _refusal,
           _prompt IS NOT NULL AS _has_prompt,
           _completion IS NOT NULL AS _has_completion, _score0 IS NULL AS _null_score,
           pref_number(_score0) AS _value
    FROM acted),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  -- Nothing is merged here, so these are the candidates, with their policy.
  acting AS NOT MATERIALIZED (
    SELECT _grp, _pos, _value AS _score, 1::BIGINT AS _votes, _reason, _weight, _log, _acts
    FROM counted WHERE _reason IS NULL),
  found AS NOT MATERIALIZED (
    FROM pref_advantages('acting', kind := kind, epsilon := epsilon, plain := NOT _acts)),
  -- One row for every row of the table, in its order: so the texts are read next to it, and neither
  -- joined by number nor sorted.
  beside AS NOT MATERIALIZED (
    SELECT _pos, _score, _advantage, _reason FROM found
    UNION ALL
    SELECT _pos, NULL, NULL, _reason FROM counted WHERE _reason IS NOT NULL
    ORDER BY _pos),
  texts AS NOT MATERIALIZED (
    SELECT _prompt, _completion, COLUMNS('^_keep_.*$') FROM numbered),
  told AS NOT MATERIALIZED (
    SELECT _prompt, _completion, _score, _advantage, COLUMNS('^_keep_(.*)$') AS "\1"
    FROM texts POSITIONAL JOIN beside WHERE _reason IS NULL
    UNION ALL BY NAME
    SELECT NULL AS _score WHERE pref_advantage_refusal(kind, epsilon) IS NOT NULL
    UNION ALL BY NAME
    SELECT NULL AS _score
    FROM pref_roles_refusal('numbered', tbl, 'advantages', keep := keep,
      taken := ['prompt', 'completion', 'score', 'advantage'])
    WHERE _said IS NOT NULL)
  SELECT _prompt AS prompt, _completion AS completion, _score AS score, _advantage AS advantage,
         * EXCLUDE (_prompt, _completion, _score, _advantage, _none)
  FROM told
);
