-- The rows that a public macro takes, as it names them: _pos, _prompt, _completion, _score0,
-- _source, _annotator, _further, and the columns of `keep` as _keep_NAME (and always _keep__none,
-- which is NULL). The fields of _found are of type BOOLEAN for roles that have a column.
--
-- prompt, completion, score are expressions over the columns of `tbl`, or NULL: then the column of
-- the role's own name, else the one column that has another name of the field for it, without
-- regard to case (the names are those of `prefmill.table.roles.ALIASES`). source and annotator
-- likewise, by their own names. A role without a column is NULL here, and pref_roles_refusal says
-- so, by the types in _found. `further` is one expression more.
--
-- How: every name is made a column (with the type NULL where the table has none); types are known
-- when a query is bound, and so is the field that struct_extract takes. The optimizer leaves a scan
-- of the columns that are used.
CREATE OR REPLACE MACRO pref_there(x) AS typeof({'v': x}) <> 'STRUCT(v "NULL")';
-- Which of the columns is the role: the expression that was given, its own name, or the only other
-- one.
CREATE OR REPLACE MACRO pref_which(given, own, others) AS
CASE WHEN given THEN 'given' WHEN own THEN 'own'
  WHEN len(list_filter(others, lambda there: there)) = 1
  THEN 'other' || list_position(others, true) ELSE 'none' END;
CREATE OR REPLACE MACRO pref_numbered(
  tbl, prompt, completion, score, source := NULL, annotator := NULL, further := NULL, keep := NULL
) AS TABLE (
  WITH given AS NOT MATERIALIZED (
    SELECT *, prompt AS _given_prompt, completion AS _given_completion, score AS _given_score,
           source AS _given_source, annotator AS _given_annotator,
           further AS _given_further, NULL AS _none
    FROM query_table(tbl)),
  wide AS NOT MATERIALIZED (
    FROM given UNION ALL BY NAME
    SELECT NULL AS "prompt", NULL AS question, NULL AS instruction, NULL AS input, NULL AS query,
           NULL AS context, NULL AS user_prompt, NULL AS problem,
           NULL AS "completion", NULL AS answer, NULL AS response, NULL AS output,
           NULL AS generation, NULL AS reply, NULL AS model_output,
           NULL AS generated_text,
           NULL AS "score", NULL AS feedback, NULL AS rating, NULL AS reward, NULL AS overall_score,
           NULL AS overall_rating,
           NULL AS preference_score, NULL AS grade, NULL AS stars, NULL AS "source",
           NULL AS "annotator"
    WHERE false),
  found AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos,
      struct_extract({'given': _given_prompt, 'own': _t.prompt, 'other1': _t.question,
        'other2': _t.instruction, 'other3': _t.input, 'other4': _t.query, 'other5': _t.context,
        'other6': _t.user_prompt, 'other7': _t.problem, 'none': NULL},
        pref_which(pref_there(_given_prompt), pref_there(_t.prompt),
          [pref_there(_t.question), pref_there(_t.instruction), pref_there(_t.input),
            pref_there(_t.query), pref_there(_t.context), pref_there(_t.user_prompt),
            pref_there(_t.problem)])) AS _prompt,
      struct_extract({'given': _given_completion, 'own': _t.completion, 'other1': _t.answer,
        'other2': _t.response, 'other3': _t.output, 'other4': _t.generation, 'other5': _t.reply,
        'other6': _t.model_output, 'other7': _t.generated_text, 'none': NULL},
        pref_which(pref_there(_given_completion), pref_there(_t.completion),
          [pref_there(_t.answer), pref_there(_t.response), pref_there(_t.output),
            pref_there(_t.generation), pref_there(_t.reply), pref_there(_t.model_output),
            pref_there(_t.generated_text)])) AS _completion,
      struct_extract({'given': _given_score, 'own': _t.score, 'other1': _t.feedback,
        'other2': _t.rating, 'other3': _t.reward, 'other4': _t.overall_score,
        'other5': _t.overall_rating, 'other6': _t.preference_score, 'other7': _t.grade,
        'other8': _t.stars, 'none': NULL},
        pref_which(pref_there(_given_score), pref_there(_t.score),
          [pref_there(_t.feedback), pref_there(_t.rating), pref_there(_t.reward),
            pref_there(_t.overall_score), pref_there(_t.overall_rating),
            pref_there(_t.preference_score), pref_there(_t.grade),
            pref_there(_t.stars)])) AS _score0,
      struct_extract({'given': _given_source, 'own': _t.source},
        CASE WHEN pref_there(_given_source) THEN 'given' ELSE 'own' END) AS _source,
      struct_extract({'given': _given_annotator, 'own': _t.annotator},
        CASE WHEN pref_there(_given_annotator) THEN 'given' ELSE 'own' END) AS _annotator,
      _given_further AS _further,
      COLUMNS(lambda name: name = '_none'
        OR coalesce(list_contains(keep, name), false)) AS "_keep_\0"
    FROM wide AS _t)
  -- A column of nothing but NULL is text: what has no type could not be asked for its type.
  SELECT * REPLACE (
      struct_extract({'found': _prompt, 'none': NULL::VARCHAR},
        CASE WHEN pref_there(_prompt) THEN 'found' ELSE 'none' END) AS _prompt,
      struct_extract({'found': _completion, 'none': NULL::VARCHAR},
        CASE WHEN pref_there(_completion) THEN 'found' ELSE 'none' END) AS _completion,
      struct_extract({'found': _score0, 'none': NULL::VARCHAR},
        CASE WHEN pref_there(_score0) THEN 'found' ELSE 'none' END) AS _score0),
    {'prompt': struct_extract({'found': true, 'none': NULL::BIT},
      CASE WHEN pref_there(_prompt) THEN 'found' ELSE 'none' END),
     'completion': struct_extract({'found': true, 'none': NULL::BIT},
       CASE WHEN pref_there(_completion) THEN 'found' ELSE 'none' END),
     'score': struct_extract({'found': true, 'none': NULL::BIT},
       CASE WHEN pref_there(_score0) THEN 'found' ELSE 'none' END),
     'source': struct_extract({'found': true, 'none': NULL::BIT},
       CASE WHEN pref_there(_source) THEN 'found' ELSE 'none' END),
     'annotator': struct_extract({'found': true, 'none': NULL::BIT},
       CASE WHEN pref_there(_annotator) THEN 'found' ELSE 'none' END),
     'further': struct_extract({'found': true, 'none': NULL::BIT},
       CASE WHEN pref_there(_further) THEN 'found' ELSE 'none' END)} AS _found
  FROM found
);
