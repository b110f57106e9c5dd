-- The advantage of every candidate over the rest of its prompt.
--
-- In: `acting`, the output of pref_candidates with _weight DOUBLE (the policy's; NULL: all alike)
-- and _log BOOLEAN (the weights are log-probabilities). Out, in no order: _first BIGINT (of the
-- group), _pos BIGINT, _score DOUBLE, _votes BIGINT, _reason VARCHAR, _advantage DOUBLE (NULL: the
-- policy takes nothing of this group).
--
-- A group is one sorted list, so sums run in one order whatever the order of rows; the largest
-- weight is taken out first, so that nothing overflows. `plain`: no policy, and every candidate is
-- one vote; then lists hold numbers, not structs, which takes half the time and memory.
CREATE OR REPLACE MACRO pref_advantages(
  acting, kind := 'centered', epsilon := 1e-4, plain := false
) AS TABLE (
  WITH grouped AS NOT MATERIALIZED (
    SELECT min(_pos) AS _first, false AS logs, NULL::DOUBLE AS top,
           list_sort(list(pref_key(_score, _pos))) AS keys, NULL::DOUBLE[] AS weights,
           NULL::BIGINT[] AS votes
    FROM query_table(acting) WHERE plain AND _reason IS NULL GROUP BY _grp
    UNION ALL
    SELECT _first, logs, top, list_transform(rows, lambda r: r.key),
           list_transform(rows, lambda r: r.weight), list_transform(rows, lambda r: r.votes)
    FROM (
      SELECT min(_pos) AS _first, any_value(_log) AS logs, max(_weight) AS top,
             list_sort(list({'key': pref_key(_score, _pos), 'weight': _weight,
               'votes': _votes})) AS rows
      FROM query_table(acting) WHERE NOT plain AND _reason IS NULL GROUP BY _grp)),
  weighed AS NOT MATERIALIZED (
    SELECT _first, keys, votes, coalesce(logs OR top > 0, true) AS known,
           list_transform(keys, lambda k: pref_key_score(k)) AS q,
           CASE
             WHEN coalesce(top = 0 AND NOT logs, true)
             THEN list_transform(keys, lambda k: 1::DOUBLE)
                ELSE list_transform(weights,
                  lambda w: CASE WHEN logs THEN exp(w - top) ELSE w / top END::DOUBLE) END AS w
    FROM grouped),
  shared AS NOT MATERIALIZED (
    SELECT * EXCLUDE (w, total), list_transform(w, lambda x: x / total) AS p
    FROM (SELECT *, list_sum(w) AS total FROM weighed)),
  valued AS NOT MATERIALIZED (
    SELECT *, list_dot_product(p, q) AS v, 1 - list_dot_product(p, p) AS spare FROM shared),
  spread AS NOT MATERIALIZED (
    SELECT *, CASE WHEN kind = 'grpo' THEN list_transform(q, lambda x: x - v) END AS gaps
    FROM valued),
  flattened AS NOT MATERIALIZED (
    SELECT _first, known, v, spare, q[1] = q[-1] AS flat, len(q) AS n,
           CASE WHEN kind = 'grpo' AND spare >= 1e-12
                THEN sqrt(list_sum(list_transform(list_zip(p, gaps), lambda z: z[1] * z[2] * z[2]))
                  / spare) END AS sd,
           unnest(keys) AS key, unnest(votes) AS votes, unnest(q) AS q, unnest(p) AS p
    FROM spread)
  SELECT _first, pref_key_position(key) AS _pos, q AS _score, coalesce(votes, 1) AS _votes,
         CASE WHEN NOT known THEN 'no_weight' END AS _reason,
         CASE WHEN NOT known THEN NULL
              WHEN flat OR kind = 'grpo' AND spare < 1e-12 OR kind = 'rloo' AND 1 - p < 1e-12 THEN 0
              ELSE pref_round(CASE kind WHEN 'centered' THEN q - v
                WHEN 'grpo' THEN (q - v) / (sd + epsilon) ELSE (q - v) / (1 - p) END) + 0
         END AS _advantage
  FROM flattened WHERE kind <> 'rank'
  UNION ALL
  SELECT _first, pref_key_position(key), q, coalesce(votes, 1), NULL,
         CASE WHEN n = 1 THEN 0
              ELSE pref_round((2 * rank() OVER (PARTITION BY _first ORDER BY q)
                + count(*) OVER (PARTITION BY _first, q) - n - 2) / (n - 1)::DOUBLE) + 0 END
  FROM flattened WHERE kind = 'rank'
);
-- Candidates under a policy that takes all alike, as `acting`. It is in this file since every plan
-- of advantages without a policy calls both.
CREATE OR REPLACE MACRO pref_alike(candidates) AS TABLE (
  SELECT *, NULL::DOUBLE AS _weight, false AS _log FROM query_table(candidates)
);
