-- The nodes of a tree, checked: _id, _parent, _payload. An id that is null or there twice, a parent that is not there, and parents that run in a circle
-- are errors. `nodes` is a relation of these three columns.
CREATE OR REPLACE MACRO pref_tree(nodes, who := 'tree_values') AS TABLE (
  WITH RECURSIVE told AS MATERIALIZED (FROM query_table(nodes)),
  below(_id) AS (
    SELECT _id FROM told WHERE _parent IS NULL AND _id IS NOT NULL
    UNION -- not ALL: ids that are there twice may not multiply
    SELECT told._id FROM told JOIN below ON told._parent = below._id),
  counted AS MATERIALIZED (
    SELECT _id, count(*) AS n FROM told GROUP BY _id)
  SELECT told._id, told._parent, told._payload FROM told
  LEFT JOIN counted AS mine ON mine._id = told._id LEFT JOIN counted AS up ON up._id = told._parent LEFT JOIN below ON below._id = told._id
  WHERE CASE
    WHEN told._id IS NULL THEN error('prefmill: ' || who || ': an id is null; got the parent ' || coalesce(told._parent::VARCHAR, 'NULL') || ' beside it.')
    WHEN mine.n > 1 THEN error('prefmill: ' || who || ': the id ' || told._id::VARCHAR || ' is there ' || mine.n::VARCHAR || ' times; expected once.')
    WHEN told._parent IS NOT NULL AND up.n IS NULL
    THEN error('prefmill: ' || who || ': the parent of ' || told._id::VARCHAR || ' is not there; got parent ' || told._parent::VARCHAR || ', expected an id of the table or null.')
    WHEN below._id IS NULL THEN error('prefmill: ' || who || ': the parents of ' || told._id::VARCHAR || ' run in a circle; expected a path to a root, whose parent is null.')
    ELSE true END
);
