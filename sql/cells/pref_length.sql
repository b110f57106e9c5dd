-- The length of a completion in characters (Unicode code points); of a message list, that of all
-- its contents together.
CREATE OR REPLACE MACRO pref_length(completion) AS
CASE
  WHEN typeof(completion) = 'VARCHAR' THEN length(completion::VARCHAR)
  WHEN typeof(completion) LIKE 'STRUCT(%)[]'
  THEN coalesce(list_sum(list_transform(from_json(to_json(completion),
    '[{"content":"VARCHAR","value":"VARCHAR"}]'),
    lambda m: length(coalesce(m."content", m."value", '')))), 0)::BIGINT
  ELSE length(completion::VARCHAR)
END;
