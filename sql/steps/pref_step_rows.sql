-- Records of steps as rows for a process reward model, with the reason of those that give none:
-- _pos, prompt, completions, labels, _reason. The rule: docs/semantics.md (Labels of steps).
--
-- Ratings, or places of the first error, are told apart by the type: the one that is not given is
-- NULL. `reason` is one that is known before: with it ratings are what step_paths made of them.
CREATE OR REPLACE MACRO pref_is_given(x) AS typeof(x) <> '"NULL"';
CREATE OR REPLACE MACRO pref_steps_refusal(rated, placed, after_error) AS
CASE
  WHEN rated = placed
  THEN error('prefmill: step_labels: name rating, or first_error: one of them.')
  WHEN coalesce(after_error NOT IN ('keep', 'drop', 'false'), false)
    OR coalesce(after_error = 'keep', false) AND placed
  THEN error('prefmill: step_labels: after_error must be drop or false, or of ratings keep; got '
    || after_error || '.')
END;
CREATE OR REPLACE MACRO pref_step_scale(numbers, threshold) AS
CASE
  WHEN threshold IS NULL AND NOT (list_has_all([0, 1]::DOUBLE[], numbers)
    OR list_has_all([-1, 1]::DOUBLE[], numbers))
  THEN error('prefmill: step_labels: ratings are true or false where they are 1 and 0, or 1 and -1;'
    || ' got ' || array_to_string(numbers[:8], ', ')
    || '. Hint: threshold := NUMBER (a rating of at least that is true), or meanings :='
    || ' MAP {WORD: 1, WORD: 0}: with neutral 0, MAP {''1'': 1, ''0'': 1, ''-1'': 0} or'
    || ' MAP {''1'': 1, ''0'': 0, ''-1'': 0}.')
  ELSE true
END;
CREATE OR REPLACE MACRO pref_first_index(first_index, at_zero, at_size, without, positions) AS
CASE
  WHEN first_index IN (0, 1) THEN first_index
  WHEN first_index IS NOT NULL
  THEN error('prefmill: step_labels: first_index must be 0 or 1; got ' || first_index || '.')
  WHEN NOT coalesce(positions, false) THEN 0
  WHEN at_zero AND without AND NOT at_size THEN 0
  WHEN at_size AND NOT at_zero THEN 1
  ELSE error('prefmill: step_labels: the data does not say whether steps count from 0 or from 1.'
    || ' Hint: first_index := 0 where the first step is 0, or first_index := 1 where it is 1'
    || CASE WHEN at_zero THEN ' (with no_error := [''0''] if 0 says that none is wrong).'
         ELSE '.' END)
END;
CREATE OR REPLACE MACRO pref_step_rows(
  tbl, prompt, steps, rating := NULL, first_error := NULL, first_index := NULL,
  no_error := []::VARCHAR[], meanings := MAP {}, threshold := NULL, after_error := NULL,
  reason := NULL
) AS TABLE (
  WITH given AS NOT MATERIALIZED (
    SELECT row_number() OVER () - 1 AS _pos, prompt AS _prompt, steps AS _steps,
           len(steps) AS _size, reason AS _known, pref_is_given(rating) AS _rated,
           coalesce(after_error, CASE WHEN pref_is_given(rating) THEN 'keep' ELSE 'drop' END)
             AS _after,
           CASE
             WHEN len(steps) <> len(rating)
             THEN error('prefmill: step_labels: row ' || row_number() OVER () - 1
               || ': steps and rating are lists of unequal length; got ' || len(steps) || ' and '
               || len(rating) || '.')
             ELSE list_transform(rating, lambda x: CASE WHEN pref_is_given(reason)
               THEN TRY_CAST(x AS DOUBLE) ELSE pref_step_rating(x, meanings) END)
           END AS _marks,
           pref_number(first_error) AS _place,
           pref_is_given(first_error) AND pref_no_error(first_error, no_error) AS _none
    FROM query_table(tbl)
    WHERE pref_steps_refusal(pref_is_given(rating), pref_is_given(first_error), after_error)
      IS NULL),
  numbers AS NOT MATERIALIZED (
    SELECT DISTINCT _mark FROM (SELECT unnest(_marks) AS _mark FROM given WHERE threshold IS NULL)
    WHERE isfinite(_mark) ORDER BY _mark LIMIT 8),
  scale AS MATERIALIZED (
    SELECT pref_step_scale(coalesce(list(_mark), []), threshold)
             AND pref_steps_refusal(true, false, after_error) IS NULL AS _fine
    FROM numbers),
  seen AS MATERIALIZED (
    SELECT pref_first_index(first_index,
             bool_or(NOT _none AND _place = 0 AND _size > 0),
             bool_or(NOT _none AND _place = _size AND _size > 0),
             bool_or(_none),
             bool_or(NOT _none AND _place IS NOT NULL AND _size > 0)) AS _first
    FROM given),
  placed AS NOT MATERIALIZED (
    SELECT *, CASE WHEN isfinite(_place) AND _place = floor(_place)
                AND _place - _first BETWEEN 0 AND _size - 1
                THEN (_place - _first)::BIGINT END AS _index,
           list_transform(_marks, lambda x: CASE WHEN threshold IS NULL THEN x > 0
             ELSE x >= threshold END) AS _good
    FROM given, seen, scale WHERE _fine),
  -- _right steps are true; of ratings _kept are looked at
  cut AS NOT MATERIALIZED (
    SELECT *, CASE WHEN _none THEN _size ELSE coalesce(_index, 0) END AS _right,
           CASE WHEN _none THEN 0 WHEN _after = 'drop' THEN 1 ELSE _size - _right END AS _wrong,
           CASE WHEN _after = 'keep' THEN _size
             ELSE coalesce(nullif(list_position(_good, false), 0), _size) END AS _kept
    FROM placed),
  labelled AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _known, _rated, _none, _index,
           CASE WHEN NOT _rated THEN _steps[:_right + _wrong]
             WHEN _after = 'drop' THEN _steps[:_kept] ELSE _steps END AS _completions,
           CASE WHEN NOT _rated
             THEN list_transform(range(_right + _wrong), lambda i: i < _right)
             WHEN _after = 'false'
             THEN list_concat(_good[:_kept],
               list_transform(range(_size - _kept), lambda i: false))
             ELSE _good[:_kept] END AS _labels
    FROM cut)
  SELECT _pos, _prompt AS prompt, _completions AS completions, _labels AS labels,
         CASE
           WHEN _prompt IS NULL THEN 'null_prompt'
           WHEN _known IS NOT NULL THEN _known::VARCHAR
           WHEN coalesce(len(_completions), 0) = 0 THEN 'no_steps'
           WHEN NOT _rated AND NOT _none AND _index IS NULL THEN 'bad_index'
           WHEN len(_completions) <> list_count(_completions) THEN 'null_step'
           WHEN _labels IS NULL OR len(_labels) <> list_count(_labels) THEN 'unknown_rating'
         END AS _reason
  FROM labelled
);
