-- Values of states and actions: the Bellman equations, solved by sweeps until nothing moves.
-- Without cycles that is one sweep a level.
--
-- In: `steps`, a relation of transitions:
--   _s, _a    the state and the action, of any types
--   _next     the state that follows; NULL, or no state: the end, worth 0
--   _p, _r    DOUBLE, the probability of the transition, and its reward
--   _w        DOUBLE, of the action: its probability for policy 'given', its score for 'softmax'
-- Out, one row for every action, in no order: _s, _a, and as DOUBLE _r (expected), _pi (NULL for
-- 'optimal'), _q, _v (of the state).
--
-- With gamma < 1 the change of a sweep bounds what is left; with gamma = 1 it does not, so sweeps
-- are counted, and too many are an error.
CREATE OR REPLACE MACRO pref_said(x) AS coalesce(x::VARCHAR, 'NULL');
CREATE OR REPLACE MACRO pref_step_refusal(who, s, a, p, r, w, policy) AS
CASE
  WHEN s IS NULL OR a IS NULL
  THEN error('prefmill: ' || who || ': a state or an action is null; got state ' || pref_said(s)
    || ', action ' || pref_said(a) || '.')
  WHEN NOT coalesce(isfinite(p) AND p >= 0, false)
  THEN error('prefmill: ' || who || ': a transition probability is no number >= 0; got '
    || pref_said(p) || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
  WHEN NOT coalesce(isfinite(r), false)
  THEN error('prefmill: ' || who || ': a reward is no finite number; got ' || pref_said(r)
    || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
  WHEN policy IN ('given', 'softmax')
    AND NOT coalesce(isfinite(w) AND (policy = 'softmax' OR w >= 0), false)
  THEN error('prefmill: ' || who || ': policy ' || policy
    || ' needs a number for every action; got ' || pref_said(w) || ' in state ' || s::VARCHAR
    || ', action ' || a::VARCHAR || '.')
END;
CREATE OR REPLACE MACRO pref_action_refusal(who, s, a, total, w, other, policy) AS
CASE
  WHEN abs(total - 1) > 1e-6
  THEN error('prefmill: ' || who || ': the transition probabilities of state ' || s::VARCHAR
    || ', action ' || a::VARCHAR || ' sum to ' || total::VARCHAR || ', expected 1.')
  WHEN policy IN ('given', 'softmax') AND w <> other
  THEN error('prefmill: ' || who
    || ': rows of one action differ in what the policy is made of; got ' || w::VARCHAR || ' and '
    || other::VARCHAR || ' in state ' || s::VARCHAR || ', action ' || a::VARCHAR || '.')
END;
CREATE OR REPLACE MACRO pref_state_refusal(who, s, total, policy) AS
CASE
  WHEN policy = 'given' AND abs(total - 1) > 1e-6
  THEN error('prefmill: ' || who || ': the policy''s probabilities of state ' || s::VARCHAR
    || ' sum to ' || total::VARCHAR || ', expected 1.')
END;
CREATE OR REPLACE MACRO pref_sweep_refusal(who, s, before, v, sweep, gamma, max_sweeps) AS
CASE
  WHEN gamma >= 1 AND sweep > max_sweeps
  THEN error('prefmill: ' || who || ': gamma 1 does not converge: after ' || max_sweeps::VARCHAR
    || ' sweeps the value of state ' || s::VARCHAR || ' still moves from ' || before::VARCHAR
    || ' to ' || v::VARCHAR || '; expected every path to end. Set gamma below 1.')
END;
CREATE OR REPLACE MACRO pref_solve(
  steps, gamma := 1, policy := 'uniform', temperature := 1, tolerance := 1e-12, max_sweeps := 10000,
  who := 'state_values'
) AS TABLE (
  WITH RECURSIVE told AS NOT MATERIALIZED (
    SELECT _s, _a, _next, _p::DOUBLE AS _p, _r::DOUBLE AS _r, _w::DOUBLE AS _w
    FROM query_table(steps)
    WHERE pref_step_refusal(who, _s, _a, _p::DOUBLE, _r::DOUBLE, _w::DOUBLE, policy) IS NULL),
  -- States by number: nothing after this groups, joins or sweeps texts.
  names AS MATERIALIZED (
    SELECT _s, row_number() OVER () AS _i FROM (SELECT DISTINCT _s FROM told)),
  moves AS NOT MATERIALIZED (
    SELECT here._i, told._a, there._i AS _to, told._p, told._r, told._w
    FROM told JOIN names AS here ON here._s = told._s
    LEFT JOIN names AS there ON there._s = told._next),
  acts AS MATERIALIZED (
    SELECT _i, _a, row_number() OVER () AS _k, sum(_p * _r) AS _r, sum(_p) AS _total, min(_w) AS _w,
           max(_w) AS _other, count(_to) > 0 AS _leads
    FROM moves GROUP BY _i, _a),
  tops AS NOT MATERIALIZED (
    SELECT _i, max(_w) AS _top FROM acts WHERE policy = 'softmax' GROUP BY _i),
  weighed AS NOT MATERIALIZED (
    SELECT acts.*,
           CASE policy WHEN 'uniform' THEN 1.0::DOUBLE WHEN 'given' THEN _w
             WHEN 'softmax' THEN exp((_w - _top) / temperature) END AS _weight
    FROM acts LEFT JOIN tops ON tops._i = acts._i),
  -- _first: what the policy, or the best action, gets at once; _stays: the same of what no
  -- successor can change
  states AS MATERIALIZED (
    SELECT _i, sum(_weight) AS _weights,
           CASE WHEN policy = 'given' THEN 1 ELSE sum(_weight) END AS _divisor,
           CASE WHEN policy = 'optimal' THEN max(_r)
             ELSE sum(_weight * _r) / CASE WHEN policy = 'given' THEN 1 ELSE sum(_weight) END
           END AS _first,
           CASE WHEN policy = 'optimal' THEN max(_r) FILTER (NOT _leads)
             ELSE sum(_weight * _r) / CASE WHEN policy = 'given' THEN 1 ELSE sum(_weight) END
           END AS _stays,
           bool_and(abs(_total - 1) <= 1e-6)
             AND NOT (policy = 'given' AND abs(sum(_weight) - 1) > 1e-6) AS _sound
    FROM weighed GROUP BY _i),
  -- the moves that lead on; none where anything is refused below, which might never end
  hops AS MATERIALIZED (
    SELECT moves._i, moves._to, moves._p, weighed._k, weighed._r,
           weighed._weight / states._divisor AS _pi, states._stays
    FROM moves JOIN weighed ON weighed._i = moves._i AND weighed._a = moves._a
    JOIN states ON states._i = moves._i
    WHERE moves._to IS NOT NULL AND (SELECT bool_and(_sound) FROM states)),
  solved(_i, _v, _before, _sweep) USING KEY (_i) AS (
    SELECT _i, _first, 0::DOUBLE, 1::BIGINT FROM states
    UNION ALL
    SELECT _i, _v, _before, _sweep FROM (
      SELECT fresh._i, fresh._v, old._v AS _before, (SELECT max(_sweep) + 1 FROM solved) AS _sweep
      FROM (
        SELECT _i,
               CASE WHEN policy = 'optimal' THEN greatest(max(_r + gamma * _f), any_value(_stays))
                 ELSE any_value(_stays) + gamma * sum(_pi * _f) END AS _v
        FROM (
          SELECT hops._i, hops._k, any_value(hops._r) AS _r, any_value(hops._pi) AS _pi,
                 any_value(hops._stays) AS _stays, sum(hops._p * next._v) AS _f
          FROM hops JOIN recurring.solved AS next ON next._i = hops._to
          GROUP BY hops._i, hops._k)
        GROUP BY _i) AS fresh
      JOIN recurring.solved AS old ON old._i = fresh._i)
    WHERE abs(_v - _before)
      > greatest(tolerance * CASE WHEN gamma < 1 THEN (1 - gamma) ELSE 1e-3 END, 4e-15)
        * greatest(1, abs(_v))
      AND (gamma < 1 OR _sweep <= max_sweeps + 1))
  SELECT names._s, weighed._a, weighed._r,
         CASE WHEN policy <> 'optimal' THEN weighed._weight / states._divisor END AS _pi,
         weighed._r + gamma * coalesce(ahead._f, 0) AS _q, solved._v
  FROM weighed JOIN states ON states._i = weighed._i JOIN solved ON solved._i = weighed._i
  JOIN names ON names._i = weighed._i
  LEFT JOIN (
    SELECT hops._k, sum(hops._p * next._v) AS _f
    FROM hops JOIN solved AS next ON next._i = hops._to GROUP BY hops._k) AS ahead
    ON ahead._k = weighed._k
  WHERE pref_action_refusal(who, names._s, weighed._a, weighed._total, weighed._w, weighed._other,
      policy) IS NULL
    AND pref_state_refusal(who, names._s, states._weights, policy) IS NULL
    AND pref_sweep_refusal(who, names._s, solved._before, solved._v, solved._sweep, gamma,
      max_sweeps) IS NULL
);
CREATE OR REPLACE MACRO pref_solve_refusal(
  who, gamma, policy, temperature, tolerance, max_sweeps
) AS
CASE
  WHEN NOT coalesce(gamma >= 0 AND gamma <= 1, false)
  THEN error('prefmill: ' || who || ': gamma must be a number in 0..1; got ' || pref_said(gamma)
    || '.')
  WHEN coalesce(policy NOT IN ('uniform', 'given', 'softmax', 'optimal'), true)
  THEN error('prefmill: ' || who
    || ': policy is not one of (''uniform'', ''given'', ''softmax'', ''optimal''); got '
    || coalesce('''' || policy || '''', 'NULL') || '.')
  WHEN NOT coalesce(temperature > 0 AND isfinite(temperature::DOUBLE), false)
  THEN error('prefmill: ' || who || ': temperature must be a finite number > 0; got '
    || pref_said(temperature) || '.')
  WHEN NOT coalesce(tolerance > 0 AND isfinite(tolerance::DOUBLE), false)
  THEN error('prefmill: ' || who || ': tolerance must be a finite number > 0; got '
    || pref_said(tolerance) || '.')
  WHEN NOT coalesce(max_sweeps >= 1 AND max_sweeps = floor(max_sweeps), false)
  THEN error('prefmill: ' || who || ': max_sweeps must be a whole number >= 1; got '
    || pref_said(max_sweeps) || '.')
END;
