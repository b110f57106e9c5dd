-- The nodes of a tree, checked.
--
-- In: `nodes`, a relation of _id, _parent, _payload, of any types. Out: the same rows. An id that
-- is null or there twice, a parent that is not there, and parents that run in a circle are errors.
--
-- What is wrong is looked for in whole, and only then named: so a tree that is sound costs a
-- group-by, an anti-join and a walk from the roots, none of which holds more than ids.
CREATE OR REPLACE MACRO pref_tree(nodes, who := 'tree_values') AS TABLE (
  WITH RECURSIVE told AS MATERIALIZED (FROM query_table(nodes)),
  unnamed AS MATERIALIZED (
    SELECT error('prefmill: ' || who || ': an id is null; got the parent '
             || coalesce(_parent::VARCHAR, 'NULL') || ' beside it.') AS _said
    FROM told WHERE _id IS NULL),
  twice AS MATERIALIZED (
    SELECT error('prefmill: ' || who || ': the id ' || _id::VARCHAR || ' is there ' || n::VARCHAR
             || ' times; expected once.') AS _said
    FROM (SELECT _id, count(*) AS n FROM told GROUP BY _id HAVING count(*) > 1)
    WHERE _id IS NOT NULL),
  lost AS MATERIALIZED (
    SELECT error('prefmill: ' || who || ': the parent of ' || _id::VARCHAR
             || ' is not there; got parent ' || _parent::VARCHAR
             || ', expected an id of the table or null.') AS _said
    FROM told
    WHERE _parent IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM told AS up WHERE up._id = told._parent)),
  below(_id) AS ( -- each node once, since each id is there once
    SELECT _id
    FROM told
    WHERE _parent IS NULL
      AND (SELECT count(_said) FROM (FROM unnamed UNION ALL FROM twice UNION ALL FROM lost)) = 0
    UNION ALL
    SELECT told._id FROM told JOIN below ON told._parent = below._id),
  reached AS MATERIALIZED (FROM below),
  circle AS MATERIALIZED (
    SELECT error('prefmill: ' || who || ': the parents of ' || _id::VARCHAR
             || ' run in a circle; expected a path to a root, whose parent is null.') AS _said
    FROM told
    WHERE (SELECT count(*) FROM reached) < (SELECT count(*) FROM told)
      AND NOT EXISTS (SELECT 1 FROM reached WHERE reached._id = told._id))
  SELECT _id, _parent, _payload FROM told
  WHERE (SELECT count(_said)
    FROM (FROM unnamed UNION ALL FROM twice UNION ALL FROM lost UNION ALL FROM circle)) = 0
);
