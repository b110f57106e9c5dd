-- Judgements with the reason why a row does not count, and their score on the annotators' common
-- scale.
--
-- In: `judged`, a relation of _pos BIGINT, _grp, _text, _id, _annotator, _aspect, _refusal VARCHAR
-- (a further reason, tried last), _has_prompt, _has_completion, _null_score BOOLEAN, _value DOUBLE
-- (NULL where the score is no number). Out, in no order: the same with _reason VARCHAR (NULL: the
-- row counts) and the normalised score as _value.
CREATE OR REPLACE MACRO pref_rows(
  judged, normalize := 'none', tie_break := 'position', weights := NULL, on_invalid := 'drop'
) AS TABLE (
  WITH named AS NOT MATERIALIZED (
    SELECT *, CASE
        WHEN NOT _has_prompt THEN 'null_prompt'
        WHEN NOT _has_completion THEN 'null_completion'
        WHEN _null_score THEN 'null_score'
        WHEN _value IS NULL THEN 'bad_score'
        WHEN NOT isfinite(_value) THEN 'non_finite_score'
        WHEN normalize <> 'none' AND _annotator IS NULL THEN 'null_annotator'
        WHEN weights IS NOT NULL
          AND (_aspect IS NULL OR NOT map_contains(weights, _aspect::VARCHAR))
            THEN 'unweighted_aspect'
        WHEN tie_break = 'id' AND _id IS NULL THEN 'null_id'
        ELSE _refusal
      END AS _reason
    FROM query_table(judged)),
  reasoned AS NOT MATERIALIZED (
    SELECT * REPLACE (CASE WHEN on_invalid = 'raise' AND _reason IN
        ('null_prompt', 'null_completion', 'null_score', 'bad_score', 'non_finite_score')
      THEN error('prefmill: row ' || _pos || ' cannot be used; got ' || _reason
        || ', and on_invalid is raise.') ELSE _reason END AS _reason)
    FROM named),
  zscored AS NOT MATERIALIZED (
    SELECT * FROM reasoned WHERE _reason IS NOT NULL
    UNION ALL BY NAME
    SELECT * REPLACE (CASE WHEN min(_value) OVER annotators = max(_value) OVER annotators THEN 0
        ELSE pref_round((_value - avg(_value) OVER annotators) / stddev_pop(_value) OVER annotators)
          END AS _value)
    FROM reasoned WHERE _reason IS NULL
    WINDOW annotators AS (PARTITION BY _annotator, _aspect)),
  as_ranks AS NOT MATERIALIZED (
    SELECT * FROM reasoned WHERE _reason IS NOT NULL
    UNION ALL BY NAME
    SELECT
             * REPLACE (pref_round((rank() OVER ordered + (count(*) OVER peers - 1) / 2
               - 0.5::DOUBLE) / count(*) OVER scale) AS _value)
    FROM reasoned WHERE _reason IS NULL
    WINDOW scale AS (PARTITION BY _annotator, _aspect),
           ordered AS (PARTITION BY _annotator, _aspect ORDER BY _value),
           peers AS (PARTITION BY _annotator, _aspect, _value))
  -- Named, not a UNION of all: DuckDB binds every branch of a query before it drops those that give
  -- no row.
  FROM query_table(CASE normalize WHEN 'none' THEN 'reasoned' WHEN 'zscore' THEN 'zscored'
    ELSE 'as_ranks' END)
);
