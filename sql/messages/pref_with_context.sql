-- The rows of `tbl` with what their prompts were asked in (docs/semantics.md, Context).
--
-- Adds _context, a struct of the system prompt, the tools, the template arguments and the images:
-- NULL where the table has no such column. _context.system is a VARCHAR. What is not there is a
-- BIT, because a field of no type in a struct that is joined crashes DuckDB 1.5. Columns that come
-- along under their own names are there as _own_NAME too (and always _own__mark, which is NULL).
--
-- By way of a struct: the type of what has none is not known by itself (pref_there).
CREATE OR REPLACE MACRO pref_is_text(x) AS
typeof({'v': x}) = 'STRUCT(v VARCHAR)' OR starts_with(typeof({'v': x}), 'STRUCT(v ENUM(');
CREATE OR REPLACE MACRO pref_with_context(tbl) AS TABLE (
  WITH marked AS NOT MATERIALIZED (SELECT *, NULL AS _mark FROM query_table(tbl)),
  owned AS NOT MATERIALIZED (
    SELECT *,
           COLUMNS(lambda name: name IN ('_mark', 'tools', 'chat_template_kwargs', 'images',
             'image')) AS "_own_\0"
    FROM marked),
  -- Every name is made a column, with the type NULL where the table has none: a query cannot ask
  -- for what may not be there.
  wide AS NOT MATERIALIZED (
    FROM owned UNION ALL BY NAME
    SELECT NULL AS "system", NULL AS system_prompt, NULL AS tools, NULL AS chat_template_kwargs,
           NULL AS images, NULL AS image WHERE false)
  SELECT * EXCLUDE (_mark), {
      'system': struct_extract({'system': _t."system"::VARCHAR,
        'system_prompt': _t.system_prompt::VARCHAR, 'none': NULL::BIT},
        CASE WHEN pref_is_text(_t."system") THEN 'system'
          WHEN pref_is_text(_t.system_prompt) THEN 'system_prompt' ELSE 'none' END),
      'tools': struct_extract({'found': _t.tools, 'none': NULL::BIT},
        CASE WHEN pref_there(_t.tools) THEN 'found' ELSE 'none' END),
      'chat_template_kwargs': struct_extract({'found': _t.chat_template_kwargs, 'none': NULL::BIT},
        CASE WHEN pref_there(_t.chat_template_kwargs) THEN 'found' ELSE 'none' END),
      'images': struct_extract({'found': _t.images, 'none': NULL::BIT},
        CASE WHEN pref_there(_t.images) THEN 'found' ELSE 'none' END),
      'image': struct_extract({'found': _t.image, 'none': NULL::BIT},
        CASE WHEN pref_there(_t.image) THEN 'found' ELSE 'none' END)} AS _context
  FROM wide AS _t
);
-- The columns of pref_with_context that are kept as well as those of `keep`; those in `taken` are
-- there already.
CREATE OR REPLACE MACRO pref_kept(keep, taken) AS
list_concat(coalesce(keep, []), list_transform(
  list_filter(['_mark', 'tools', 'chat_template_kwargs', 'images', 'image'],
    lambda name: NOT coalesce(list_contains(taken, name), false)),
  lambda name: '_own_' || name));
-- True for a pair whose two answers were asked in one way, else our error.
CREATE OR REPLACE MACRO pref_one_context(chosen, rejected) AS
CASE
  -- There is no such column: known when the query is bound.
  WHEN regexp_full_match(typeof(chosen), '[^,]* BIT(, [a-z_]* BIT)*\)') THEN true
  WHEN chosen IS NOT DISTINCT FROM rejected THEN true
  ELSE error('prefmill: preference_pairs: the column ''' || CASE
      WHEN chosen.system IS DISTINCT FROM rejected.system THEN 'system'
      WHEN chosen.tools IS DISTINCT FROM rejected.tools THEN 'tools'
      WHEN chosen.chat_template_kwargs IS DISTINCT FROM rejected.chat_template_kwargs
      THEN 'chat_template_kwargs' ELSE 'images' END
    || ''' differs between the two answers of a pair; expected answers that were asked in one way.'
    || ' Begin the prompt with it: prompt := [{''role'': ''system'', ''content'': system},'
    || ' {''role'': ''user'', ''content'': prompt}].')
END;
