-- Records with several candidates for each step (PRM800K) as paths: prompt, steps, rating, reason.
--
--   WITH paths AS (FROM step_paths(solutions, prompt := question.problem,
--     steps := list_transform(label.steps,
--       lambda s: list_transform(s.completions, lambda c: c.text)),
--     rating := list_transform(label.steps,
--       lambda s: list_transform(s.completions, lambda c: c.rating)),
--     chosen := list_transform(label.steps, lambda s: s.chosen_completion),
--     meanings := MAP {'1': 1, '0': 1, '-1': 0}))
--   FROM step_labels(paths, prompt, steps, rating := rating, reason := reason);
--
-- chosen is the candidate that leads on, from 0. Every other one ends a path, and the last chosen
-- one does. Where none was chosen `written` is the text that a person wrote, which is true: its
-- rating is infinite. Ratings are numbers, as meanings says. A record without a path has one row,
-- whose reason is bad_index where a choice is no candidate, or a step follows one without a choice.
CREATE OR REPLACE MACRO step_paths(
  tbl, prompt, steps, rating, chosen, written := NULL, meanings := MAP {}
) AS TABLE (
  WITH given AS NOT MATERIALIZED (
    SELECT prompt AS _prompt,
           CASE
             WHEN len(steps) <> len(rating) OR len(steps) <> len(chosen)
               OR len(steps) <> len(written)
             THEN error('prefmill: step_paths: row ' || row_number() OVER () - 1
               || ': steps, rating, chosen and written are lists of unequal length.')
             WHEN steps IS NOT NULL
             THEN list_zip(steps, coalesce(rating, []), coalesce(chosen, []),
               coalesce(written::VARCHAR[], []), range(len(steps)))
           END AS _zipped,
           row_number() OVER () - 1 AS _row
    FROM query_table(tbl)),
  steps_of AS NOT MATERIALIZED (
    SELECT _prompt, list_transform(_zipped, lambda z: {
             'texts': z[1],
             'marks': CASE WHEN len(z[1]) <> len(z[2])
               THEN error('prefmill: step_paths: row ' || _row || ': a step has '
                 || len(z[1]) || ' candidates and ' || len(z[2]) || ' ratings.')
               ELSE list_transform(z[2], lambda x: pref_step_rating(x, meanings)) END,
             'chosen': z[3]::BIGINT, 'written': z[4], 'place': z[5],
             'bad': coalesce(z[3] < 0 OR z[3] >= coalesce(len(z[1]), 0), false),
             'choice': z[3] IS NOT NULL OR z[4] IS NOT NULL,
             'there': coalesce(len(z[1]), 0) > 0 OR z[3] IS NOT NULL OR z[4] IS NOT NULL}) AS _nodes
    FROM given),
  judged AS NOT MATERIALIZED (
    SELECT *, coalesce(list_max(list_transform(_nodes,
             lambda n: CASE WHEN n.there THEN n.place END)), -1) AS _last,
           list_min(list_transform(_nodes, lambda n: CASE WHEN NOT n.choice THEN n.place END))
             AS _open,
           len(list_filter(_nodes, lambda n: n.bad)) > 0 OR coalesce(_last > _open, false) AS _bad,
           list_transform(_nodes, lambda n: CASE WHEN n.chosen IS NULL THEN n.written
             ELSE n.texts[n.chosen + 1] END) AS _texts,
           list_transform(_nodes, lambda n: CASE WHEN n.chosen IS NULL THEN 'inf'::DOUBLE
             ELSE n.marks[n.chosen + 1] END) AS _numbers
    FROM steps_of),
  -- a record without a path has one row here
  unfolded AS NOT MATERIALIZED (
    SELECT _prompt, _texts, _numbers, _last, _bad, _bad OR _last < 0 AS _none,
           unnest(CASE WHEN _bad OR _last < 0 THEN [NULL] ELSE _nodes[:_last + 1] END) AS _node
    FROM judged),
  flat AS NOT MATERIALIZED (
    SELECT _prompt, _texts, _numbers, _bad, _none, _node.place AS _place,
           _node.place = _last AS _is_last, _node.chosen AS _chosen, _node.written AS _written,
           CASE WHEN NOT _none THEN
             list_zip(_node.texts, _node.marks, range(coalesce(len(_node.texts), 0))) END AS _cands
    FROM unfolded),
  leaves AS NOT MATERIALIZED (
    SELECT _prompt, _texts, _numbers, _bad, _none, _place,
           unnest(CASE
             WHEN _none THEN [{'text': NULL::VARCHAR, 'mark': NULL::DOUBLE}]
             ELSE list_concat(
               list_transform(
                 list_filter(coalesce(_cands, []),
                   lambda c: _is_last OR c[3] IS DISTINCT FROM _chosen),
                 lambda c: {'text': c[1], 'mark': c[2]}),
               CASE WHEN _is_last AND _chosen IS NULL AND _written IS NOT NULL
                 THEN [{'text': _written, 'mark': 'inf'::DOUBLE}] ELSE [] END)
           END) AS _leaf
    FROM flat)
  SELECT _prompt AS prompt,
         CASE WHEN NOT _none THEN list_append(_texts[:_place], _leaf.text) END AS steps,
         CASE WHEN NOT _none THEN list_append(_numbers[:_place], _leaf.mark) END AS rating,
         CASE WHEN _bad THEN 'bad_index' WHEN _none THEN 'no_steps' END AS reason
  FROM leaves
);
