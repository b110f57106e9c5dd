-- The split that a prompt falls into, the same as with `prefmill ... --split`: it depends on the
-- prompt, the shares in their order, and the seed.
--
--   SELECT split_of(prompt, {'train': 0.95, 'test': 0.05}) AS split, * FROM pairs;
--   SELECT split_of(question, 'train=0.95,test=0.05', seed := 1) FROM pairs;
--
-- `shares` is a struct or map of names to shares, or the text that --split takes.
CREATE OR REPLACE MACRO pref_shares(shares) AS
CASE WHEN typeof(shares) = 'VARCHAR'
     THEN list_transform(
       list_filter(string_split(shares::VARCHAR, ','), lambda part: part <> ''),
       lambda part: {
         'key': regexp_extract(part, '^(.*)=([^=]*)$', 1),
         'value': TRY_CAST(regexp_extract(part, '^(.*)=([^=]*)$', 2) AS DOUBLE)})
     ELSE map_entries(TRY_CAST(to_json(shares) AS MAP(VARCHAR, DOUBLE))) END;
CREATE OR REPLACE MACRO pref_split_refusal(entries, seed) AS
CASE
  WHEN entries IS NULL OR len(entries) = 0
  THEN error('prefmill: split_of: shares name no split; expected for example'
    || ' {''train'': 0.95, ''test'': 0.05}.')
  WHEN len(list_filter(entries, lambda e: NOT regexp_full_match(e.key, '[A-Za-z0-9_]+'))) > 0
  THEN error('prefmill: split_of: a name is part of a file name; got '
    || to_json(list_transform(entries, lambda e: e.key))
    || ', expected letters, digits and underscores.')
  WHEN len(list_distinct(list_transform(entries, lambda e: e.key))) < len(entries)
  THEN error('prefmill: split_of: a name stands twice; got '
    || to_json(list_transform(entries, lambda e: e.key)) || '.')
  WHEN len(list_filter(entries, lambda e: NOT coalesce(e.value > 0, false))) > 0
  THEN error('prefmill: split_of: every share must be above 0; got '
    || to_json(list_transform(entries, lambda e: e.value)) || '.')
  WHEN NOT abs(list_sum(list_transform(entries, lambda e: e.value)) - 1) <= 1e-9
  THEN error('prefmill: split_of: the shares must sum to 1; got '
    || list_sum(list_transform(entries, lambda e: e.value)) || '.')
  ELSE pref_seed_refusal('split_of', seed)
END;
CREATE OR REPLACE MACRO pref_split(prompt, entries, seed) AS
CASE
  WHEN pref_split_refusal(entries, seed) IS NOT NULL THEN NULL
  WHEN prompt IS NULL
  THEN error('prefmill: split_of: a prompt is NULL; expected none: it would be in no split.')
  ELSE entries[1 + len(list_filter(range(1, len(entries)), lambda i:
    pref_hash(prompt, 'split:' || seed)::DOUBLE / 18446744073709551616.0::DOUBLE
      >= list_reduce(list_transform(entries[:i], lambda e: e.value), lambda a, b: a + b)))].key
END;
CREATE OR REPLACE MACRO split_of(prompt, shares, seed := 0) AS
pref_split(prompt, pref_shares(shares), seed);
