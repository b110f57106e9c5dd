-- How many of the rollouts through a step end in success: id, parent_id, rollouts, successes, value (their share), by id.
--
--   FROM step_values(steps, id := step_id, parent_id := parent, success := correct);
--
-- A rollout ends in a leaf; it is a success where `success` (of the leaf: a boolean, or a number) is true, or at least success_min. Leaves where it is null
-- are no rollouts; a step without rollouts has a null value.
CREATE OR REPLACE MACRO step_values(tbl, id, parent_id, success, success_min := 1) AS TABLE (
  WITH RECURSIVE nodes AS NOT MATERIALIZED (
    SELECT id AS _id, parent_id AS _parent, pref_number(success) >= success_min AS _payload FROM query_table(tbl)),
  tree AS MATERIALIZED (FROM pref_tree('nodes', who := 'step_values')),
  leaves AS MATERIALIZED (
    SELECT _id, _parent, _payload AS won FROM tree WHERE _payload IS NOT NULL AND _id NOT IN (SELECT _parent FROM tree WHERE _parent IS NOT NULL)),
  -- every level up, the counts of what is below: a message once for every depth at which it has leaves
  up AS (
    SELECT _id, _parent, 1::BIGINT AS rollouts, won::BIGINT AS successes FROM leaves
    UNION ALL
    SELECT tree._id, any_value(tree._parent), sum(up.rollouts)::BIGINT, sum(up.successes)::BIGINT FROM up JOIN tree ON tree._id = up._parent GROUP BY tree._id),
  summed AS (SELECT _id, sum(rollouts)::BIGINT AS rollouts, sum(successes)::BIGINT AS successes FROM up GROUP BY _id)
  SELECT tree._id AS id, tree._parent AS parent_id, coalesce(rollouts, 0) AS rollouts, coalesce(successes, 0) AS successes,
         pref_round(successes / rollouts) AS value
  FROM tree LEFT JOIN summed ON summed._id = tree._id ORDER BY tree._id
);
