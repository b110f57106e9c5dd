-- The bytes of a group key that chance is drawn from: a prompt is itself; a message list is <bytes
-- of role>:<role><bytes of content>:<content> for every message (ShareGPT's from/value likewise); a
-- list of group columns is <bytes>:<text> each.
CREATE OR REPLACE MACRO pref_spell(key) AS
CASE
  WHEN typeof(key) = 'VARCHAR' THEN key::VARCHAR
  WHEN typeof(key) = 'VARCHAR[]'
  THEN array_to_string(list_transform(from_json(to_json(key), '["VARCHAR"]'),
    lambda part: strlen(part)::VARCHAR || ':' || part), '')
  ELSE array_to_string(list_transform(
    from_json(to_json(key),
      '[{"role":"VARCHAR","content":"VARCHAR","from":"VARCHAR","value":"VARCHAR"}]'),
    lambda m: strlen(coalesce(m."role", m."from", ''))::VARCHAR || ':'
      || coalesce(m."role", m."from", '')
           || strlen(coalesce(m."content", m."value", ''))::VARCHAR || ':'
           || coalesce(m."content", m."value", '')), '')
END;
