-- Values over a tree of messages, or of reasoning steps: id, parent_id, reward, policy, q, v,
-- advantage, by id.
--
--   FROM tree_values(messages, id := message_id, parent_id := parent_id, reward := score,
--                    gamma := 1);
--
-- The replies to a message are its actions. v is what follows a message is worth (0 for a leaf), q
-- its own reward (null is 0) plus gamma v; advantage is q minus the parent's v. A root has neither
-- policy nor advantage. policy: as in state_values, over siblings. Exact, from the leaves up.
CREATE OR REPLACE MACRO tree_values(
  tbl, id, parent_id, reward := 0, policy := 'uniform', policy_probability := NULL, score := NULL,
  temperature := 1, gamma := 1
) AS TABLE (
  WITH nodes AS NOT MATERIALIZED (
    SELECT id AS _id, parent_id AS _parent,
           { 'r': CASE WHEN reward IS NULL THEN 0 ELSE pref_number(reward) END,
             'w': CASE policy WHEN 'given' THEN pref_number(policy_probability)
               WHEN 'softmax' THEN pref_number(score) END} AS _payload
    FROM query_table(tbl)
    WHERE pref_solve_refusal('tree_values', gamma, policy, temperature, 1e-12, 1) IS NULL),
  tree AS MATERIALIZED (
    SELECT _id, _parent, _payload.r AS _r, _payload.w AS _w
    FROM pref_tree('nodes', who := 'tree_values')
    WHERE pref_step_refusal('tree_values', coalesce(_parent::VARCHAR, _id::VARCHAR, ''),
      coalesce(_id::VARCHAR, ''), 1, _payload.r,
      CASE WHEN _parent IS NULL THEN 1 ELSE _payload.w END, policy) IS NULL),
  steps AS NOT MATERIALIZED (
    SELECT _parent AS _s, _id AS _a, _id AS _next, 1.0::DOUBLE AS _p, _r, _w
    FROM tree WHERE _parent IS NOT NULL),
  solved AS MATERIALIZED (
    FROM pref_solve('steps', gamma := gamma, policy := policy, temperature := temperature,
      tolerance := 1e-12, max_sweeps := 1000000000, who := 'tree_values')),
  following AS MATERIALIZED (SELECT _s, any_value(_v) AS _v FROM solved GROUP BY _s),
  valued AS NOT MATERIALIZED (
    SELECT solved._a AS _id, solved._s AS _parent, solved._r, solved._pi, solved._q,
           coalesce(after._v, 0) AS _v, solved._v AS _up
    FROM solved LEFT JOIN following AS after ON after._s = solved._a
    UNION ALL -- roots are nobody's action
    SELECT tree._id, NULL, tree._r, NULL, tree._r + gamma * coalesce(after._v, 0),
           coalesce(after._v, 0), NULL
    FROM tree LEFT JOIN following AS after ON after._s = tree._id WHERE tree._parent IS NULL)
  -- names with an underscore: the bare ones are the arguments
  SELECT _id AS id, _parent AS parent_id, pref_round(_r) + 0 AS reward, pref_round(_pi) AS policy,
         pref_round(_q) + 0 AS q, pref_round(_v) + 0 AS v,
         pref_round(_q - _up) + 0 AS advantage
  FROM (
    FROM valued
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE pref_solve_refusal('tree_values', gamma, policy, temperature, 1e-12, 1) IS NOT NULL)
  ORDER BY _id
);
