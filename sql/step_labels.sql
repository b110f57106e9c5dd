-- Records of steps as rows for a process reward model: prompt, completions (list of text), labels
-- (list of bool), in the order of the records.
--
--   FROM step_labels(solutions, prompt := problem, steps := steps, rating := ratings);
--   FROM step_labels(solutions, problem, steps, rating := scores, threshold := 0.5);
--   FROM step_labels(solutions, question, steps, rating := marks,
--                    meanings := MAP {'good': 1, 'bad': 0, 'unsure': NULL});
--   FROM step_labels(solutions, problem, steps, first_error := label, first_index := 0);
--
-- Ratings stand side by side with the steps. They are labels where they are 1 and 0, or 1 and -1
-- (true and false, + and -); else `threshold` or `meanings` say which are true. `first_error` is
-- the place of the first step that is wrong, from first_index (0 or 1; where it is not given the
-- data has to decide), or -1, 'N/A', or a word of no_error ('null' for a null) where none is.
-- after_error: steps after the first wrong one are left out ('drop'), labelled false ('false'), or
-- keep their ratings ('keep'). Records that give no row: step_label_report. `reason` is that of
-- step_paths, whose ratings are taken as they are.
CREATE OR REPLACE MACRO step_labels(
  tbl, prompt, steps, rating := NULL, first_error := NULL, first_index := NULL,
  no_error := []::VARCHAR[], meanings := MAP {}, threshold := NULL, after_error := NULL,
  reason := NULL
) AS TABLE (
  -- by no name: `prompt` is what the caller gave for it
  SELECT * EXCLUDE (_pos, _reason)
  FROM pref_step_rows(tbl, prompt, steps, rating := rating, first_error := first_error,
    first_index := first_index, no_error := no_error, meanings := meanings, threshold := threshold,
    after_error := after_error, reason := reason)
  WHERE _reason IS NULL
);
