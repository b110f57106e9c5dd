-- Values of states and actions: the Bellman equations, solved by sweeps until nothing moves. Without cycles that is one sweep a level.
--
-- `steps` is a relation of _s, _a, _next (NULL, or no state: the end, worth 0), _p (of the transition), _r (its reward), _w (of the action: its
-- probability for policy 'given', its score for 'softmax'). Gives _s, _a, _r (expected), _pi (NULL for 'optimal'), _q, _v (of the state).
-- With gamma < 1 the change of a sweep bounds what is left; with gamma = 1 it does not, so sweeps are counted, and too many are an error.
CREATE OR REPLACE MACRO pref_said(x) AS coalesce(x::VARCHAR, 'NULL');
CREATE OR REPLACE MACRO pref_step_refusal(who, s, a, p, r, w, policy) AS
CASE
  WHEN s IS NULL OR a IS NULL
  THEN error('prefmill: ' || who || ': a state or an action is null; got state ' || pref_said(s) || ', action ' || pref_said(a) || '.')
  WHEN NOT coalesce(isfinite(p) AND p >= 0, false)
  THEN error('prefmill: ' || who || ': a transition probability is no number >= 0; got ' || pref_said(p) || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
  WHEN NOT coalesce(isfinite(r), false)
  THEN error('prefmill: ' || who || ': a reward is no finite number; got ' || pref_said(r) || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
  WHEN policy IN ('given', 'softmax') AND NOT coalesce(isfinite(w) AND (policy = 'softmax' OR w >= 0), false)
  THEN error('prefmill: ' || who || ': policy ' || policy || ' needs a number for every action; got ' || pref_said(w) || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
END;
CREATE OR REPLACE MACRO pref_action_refusal(who, s, a, total, w, other, policy) AS
CASE
  WHEN abs(total - 1) > 1e-6
  THEN error('prefmill: ' || who || ': the transition probabilities of state ' || s::VARCHAR || ', action ' || a::VARCHAR || ' sum to ' || total::VARCHAR || ', expected 1.')
  WHEN policy IN ('given', 'softmax') AND w <> other
  THEN error('prefmill: ' || who || ': rows of one action differ in what the policy is made of; got ' || w::VARCHAR || ' and ' || other::VARCHAR || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
END;
CREATE OR REPLACE MACRO pref_solve(steps, gamma := 1, policy := 'uniform', temperature := 1, tolerance := 1e-12, max_sweeps := 10000,
                                   who := 'state_values') AS TABLE (
  WITH RECURSIVE moves AS MATERIALIZED (
    SELECT _s, _a, _next, _p::DOUBLE AS _p, _r::DOUBLE AS _r, _w::DOUBLE AS _w FROM query_table(steps)
    WHERE pref_step_refusal(who, _s, _a, _p::DOUBLE, _r::DOUBLE, _w::DOUBLE, policy) IS NULL),
  summed AS NOT MATERIALIZED (
    SELECT _s, _a, sum(_p * _r) AS _r, sum(_p) AS total, min(_w) AS _w, max(_w) AS other FROM moves GROUP BY _s, _a),
  weighed AS NOT MATERIALIZED (
    SELECT _s, _a, _r, CASE policy WHEN 'uniform' THEN 1.0::DOUBLE WHEN 'given' THEN _w
                                   WHEN 'softmax' THEN exp((_w - max(_w) OVER (PARTITION BY _s)) / temperature) END AS _w
    FROM summed WHERE pref_action_refusal(who, _s, _a, total, _w, other, policy) IS NULL),
  shared AS NOT MATERIALIZED (
    SELECT _s, _a, _r, _w, sum(_w) OVER (PARTITION BY _s) AS total FROM weighed),
  acts AS MATERIALIZED (
    SELECT _s, _a, _r, CASE
        WHEN policy = 'given' AND abs(total - 1) > 1e-6
        THEN error('prefmill: ' || who || ': the policy''s probabilities of state ' || _s::VARCHAR || ' sum to ' || total::VARCHAR || ', expected 1.')
        WHEN policy = 'given' THEN _w ELSE _w / total END AS _pi
    FROM shared),
  solved(_s, _v, sweep) USING KEY (_s) AS (
    SELECT DISTINCT _s, 0::DOUBLE, 0::BIGINT FROM acts
    UNION
    SELECT _s, _v, sweep FROM (
      SELECT fresh._s, fresh._v, old._v AS before, (SELECT max(sweep) + 1 FROM solved) AS sweep
      FROM (SELECT acts._s, CASE WHEN policy = 'optimal' THEN max(acts._r + gamma * ahead._f) ELSE sum(acts._pi * (acts._r + gamma * ahead._f)) END AS _v
            FROM acts JOIN (SELECT moves._s, moves._a, sum(moves._p * coalesce(next._v, 0)) AS _f
                            FROM moves LEFT JOIN recurring.solved AS next ON next._s = moves._next GROUP BY moves._s, moves._a) AS ahead
              ON ahead._s = acts._s AND ahead._a = acts._a GROUP BY acts._s) AS fresh
      JOIN recurring.solved AS old ON old._s = fresh._s)
    WHERE abs(_v - before) > greatest(tolerance * CASE WHEN gamma < 1 THEN (1 - gamma) ELSE 1e-3 END, 4e-15) * greatest(1, abs(_v))
      AND CASE WHEN gamma < 1 OR sweep <= max_sweeps THEN true
               ELSE error('prefmill: ' || who || ': gamma 1 does not converge: after ' || max_sweeps::VARCHAR || ' sweeps the value of state ' || _s::VARCHAR
                          || ' still moves from ' || before::VARCHAR || ' to ' || _v::VARCHAR || '; expected every path to end. Set gamma below 1.') END)
  SELECT *, CASE WHEN policy = 'optimal' THEN max(_q) OVER (PARTITION BY _s) ELSE sum(_pi * _q) OVER (PARTITION BY _s) END AS _v
  FROM (
    SELECT acts._s, acts._a, acts._r, CASE WHEN policy <> 'optimal' THEN acts._pi END AS _pi, acts._r + gamma * ahead._f AS _q
    FROM acts JOIN (SELECT moves._s, moves._a, sum(moves._p * coalesce(next._v, 0)) AS _f
                    FROM moves LEFT JOIN solved AS next ON next._s = moves._next GROUP BY moves._s, moves._a) AS ahead
      ON ahead._s = acts._s AND ahead._a = acts._a)
);
CREATE OR REPLACE MACRO pref_solve_refusal(who, gamma, policy, temperature, tolerance, max_sweeps) AS
CASE
  WHEN NOT coalesce(gamma >= 0 AND gamma <= 1, false) THEN error('prefmill: ' || who || ': gamma is not in 0..1; got ' || pref_said(gamma) || '.')
  WHEN coalesce(policy NOT IN ('uniform', 'given', 'softmax', 'optimal'), true)
  THEN error('prefmill: ' || who || ': unknown policy; got ' || pref_said(policy) || ', expected uniform, given, softmax or optimal.')
  WHEN NOT coalesce(temperature > 0 AND isfinite(temperature::DOUBLE), false)
  THEN error('prefmill: ' || who || ': temperature is no finite number > 0; got ' || pref_said(temperature) || '.')
  WHEN NOT coalesce(tolerance > 0 AND isfinite(tolerance::DOUBLE), false)
  THEN error('prefmill: ' || who || ': tolerance is no finite number > 0; got ' || pref_said(tolerance) || '.')
  WHEN NOT coalesce(max_sweeps >= 1, false) THEN error('prefmill: ' || who || ': max_sweeps is no number >= 1; got ' || pref_said(max_sweeps) || '.')
END;
