-- Candidates whose _score is the residual after length: the score less what the slope gives for the
-- characters beyond the mean length.
--
-- In: `measured`, the output of pref_measured, and `fit`, that of pref_length_fit over it. Out: the
-- columns of `measured`. min_score bounds the score as it was: what is below it has the score
-- -infinity here, which pref_pools leaves out with the smallest float as its bound
-- (pref_adjusted_min).
CREATE OR REPLACE MACRO pref_adjusted(measured, fit, min_score := NULL) AS TABLE (
  SELECT m.* REPLACE (CASE WHEN m._score < min_score THEN '-inf'::DOUBLE
           ELSE pref_round(m._score - (m._length - f.mean) * f.slope * 0.001) + 0 END AS _score)
  FROM query_table(measured) AS m CROSS JOIN query_table(fit) AS f
);
CREATE OR REPLACE MACRO pref_adjusted_min(min_score) AS
CASE WHEN min_score IS NOT NULL THEN -1.7976931348623157e308::DOUBLE END;
