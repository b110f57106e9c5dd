-- What became of records of steps, with the arguments of step_labels: paths (one a record, or those
-- of step_paths), rows_out, and how many were dropped for each reason.
--
--   FROM step_label_report(solutions, prompt := problem, steps := steps, rating := ratings);
CREATE OR REPLACE MACRO step_label_report(
  tbl, prompt, steps, rating := NULL, first_error := NULL, first_index := NULL,
  no_error := []::VARCHAR[], meanings := MAP {}, threshold := NULL, after_error := NULL,
  reason := NULL
) AS TABLE (
  SELECT count(*) AS paths, count(*) FILTER (_reason IS NULL) AS rows_out,
         coalesce(histogram(_reason) FILTER (_reason IS NOT NULL), MAP {}) AS dropped
  FROM pref_step_rows(tbl, prompt, steps, rating := rating, first_error := first_error,
    first_index := first_index, no_error := no_error, meanings := meanings, threshold := threshold,
    after_error := after_error, reason := reason)
);
