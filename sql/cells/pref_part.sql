-- A text or a message list with its length before it, so that parts of an id cannot run together.
CREATE OR REPLACE MACRO pref_part(cell) AS
coalesce(strlen(pref_spell(cell))::VARCHAR || ':' || pref_spell(cell), '-');
