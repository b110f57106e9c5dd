-- Values of states and actions under a policy, or the optimal ones: state, action, reward, policy,
-- q, v, advantage (q - v).
--
--   FROM state_values(transitions, state := s, action := a, next_state := s2, probability := p,
--                     reward := r, gamma := 0.9);
--   FROM state_values('transitions.parquet', gamma := 0.9, policy := 'optimal');
--
-- A row is one transition: taken with `probability` (of a state's action they sum to 1), rewarded
-- with `reward` (null is 0), to `next_state` (null, or a state without rows, is the end). policy:
-- 'uniform', 'given' (by policy_probability), 'softmax' (of score at temperature), 'optimal' (the
-- best action). In no particular order. Columns are state, action, next_state, probability, reward;
-- or the first three are given by name. Cycles are iterated to `tolerance`.
CREATE OR REPLACE MACRO pref_table_values(
  tbl, state, action, next_state, probability, reward, policy, policy_probability, score,
  temperature, gamma, tolerance, max_sweeps
) AS TABLE (
  WITH steps AS NOT MATERIALIZED (
    SELECT state AS _s, action AS _a, next_state AS _next, pref_number(probability) AS _p,
           CASE WHEN reward IS NULL THEN 0 ELSE pref_number(reward) END AS _r,
           CASE policy WHEN 'given' THEN pref_number(policy_probability)
             WHEN 'softmax' THEN pref_number(score) END AS _w
    FROM query_table(tbl)
    WHERE pref_solve_refusal('state_values', gamma, policy, temperature, tolerance,
      max_sweeps) IS NULL)
  SELECT _s AS state, _a AS action, pref_round(_r) + 0 AS reward, pref_round(_pi) AS policy,
         pref_round(_q) + 0 AS q, pref_round(_v) + 0 AS v,
         pref_round(_q - _v) + 0 AS advantage
  FROM (
    FROM pref_solve('steps', gamma := gamma, policy := policy, temperature := temperature,
      tolerance := tolerance, max_sweeps := max_sweeps)
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL
    WHERE pref_solve_refusal('state_values', gamma, policy, temperature, tolerance,
      max_sweeps) IS NOT NULL)
);
CREATE OR REPLACE MACRO state_values(
  tbl, policy := 'uniform', policy_probability := NULL, score := NULL, temperature := 1, gamma := 1,
  tolerance := 1e-12, max_sweeps := 10000
) AS TABLE (
  FROM pref_table_values(tbl, state, action, next_state, probability, reward, policy,
    policy_probability, score, temperature, gamma, tolerance, max_sweeps)),
(tbl, state, action, next_state, probability := 1, reward := 0, policy := 'uniform',
  policy_probability := NULL, score := NULL, temperature := 1,
 gamma := 1, tolerance := 1e-12, max_sweeps := 10000) AS TABLE (
  FROM pref_table_values(tbl, state, action, next_state, probability, reward, policy,
    policy_probability, score, temperature, gamma, tolerance, max_sweeps));
