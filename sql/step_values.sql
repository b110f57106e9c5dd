-- How many of the rollouts through a step end in success: id, parent_id, rollouts, successes, value
-- (their share), by id.
--
--   FROM step_values(steps, id := step_id, parent_id := parent, success := correct);
--
-- A rollout ends in a leaf; it is a success where `success` (of the leaf: a boolean, or a number)
-- is true, or at least success_min. Leaves where it is null are no rollouts; a step without
-- rollouts has a null value.
CREATE OR REPLACE MACRO step_values(tbl, id, parent_id, success, success_min := 1) AS TABLE (
  WITH RECURSIVE nodes AS NOT MATERIALIZED (
    SELECT id AS _id, parent_id AS _parent,
           CASE
             WHEN success IS NOT NULL AND pref_number(success) IS NULL
             THEN error('prefmill: step_values: a success is neither true, false nor a number; got '
               || left(success::VARCHAR, 40) || '.')
             ELSE pref_number(success) >= success_min
           END AS _payload
    FROM query_table(tbl)),
  tree AS MATERIALIZED (FROM pref_tree('nodes', who := 'step_values')),
  parents AS MATERIALIZED (SELECT DISTINCT _parent AS _id FROM tree WHERE _parent IS NOT NULL),
  inner_nodes AS MATERIALIZED (
    SELECT tree._id, tree._parent FROM tree SEMI JOIN parents ON parents._id = tree._id),
  -- every level up, the counts of what is below: a message once for every depth at which it has
  -- leaves
  up AS (
    SELECT _id, _parent, 1::BIGINT AS rollouts, _payload::BIGINT AS successes
    FROM tree ANTI JOIN parents ON parents._id = tree._id WHERE _payload IS NOT NULL
    UNION ALL
    SELECT n._id, any_value(n._parent), sum(up.rollouts)::BIGINT, sum(up.successes)::BIGINT
    FROM up JOIN inner_nodes AS n ON n._id = up._parent GROUP BY n._id),
  summed AS (
    SELECT _id, sum(rollouts)::BIGINT AS rollouts, sum(successes)::BIGINT AS successes
    FROM up GROUP BY _id)
  SELECT tree._id AS id, tree._parent AS parent_id, coalesce(rollouts, 0) AS rollouts,
         coalesce(successes, 0) AS successes,
         pref_round(successes / rollouts) AS value
  FROM tree LEFT JOIN summed ON summed._id = tree._id ORDER BY tree._id
);
