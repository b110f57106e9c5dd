-- The value that stands most often in a list, or NULL if two share the lead.
CREATE OR REPLACE MACRO pref_majority(vals) AS
list_transform([map_entries(list_aggregate(vals, 'histogram'))], lambda tally:
  list_transform([list_max(list_transform(tally, lambda e: e.value))], lambda most:
    CASE WHEN len(list_filter(tally, lambda e: e.value = most)) = 1
         THEN list_filter(tally, lambda e: e.value = most)[1].key END)[1])[1];
