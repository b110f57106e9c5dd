-- The stable id of a row of output: 32 hexadecimal digits, the same on every engine and machine.
--
-- Of a pair `one` is the chosen text and `other` the rejected one; of a label or a pick `one` is the
-- completion. It is the MD5 of the texts, each with its length in bytes before it. Of rows with the
-- same texts, the second has `one_twin := 1`, and so on. `key` is the hash of the group, where rows
-- are not grouped by prompt. Scores do not count: a pair that is scored anew keeps its id.
--
--   SELECT pair_id(prompt, chosen, rejected) FROM 'pairs.parquet';
CREATE OR REPLACE MACRO pair_id(
  prompt, one, other := NULL::VARCHAR, one_twin := 0, other_twin := 0, key := NULL
) AS
md5(pref_part(prompt) || pref_part(one) || pref_part(other)
  || CASE WHEN one_twin + other_twin > 0
     THEN '#' || one_twin::BIGINT || ',' || other_twin::BIGINT ELSE '' END
  || coalesce('@' || key::VARCHAR, ''));
