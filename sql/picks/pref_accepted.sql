-- The ranks that statistical rejection sampling accepts among the candidates of one prompt: k of
-- them, or all where there are fewer, in no order.
--
-- `scores` are in rank order, worst first; `h` is the prompt's hash. A candidate is accepted by the
-- first pass that takes it, and what a pass takes depends on the best score that is left when it
-- begins. So: the best of every pass first (every pass takes its best, so there are k at most),
-- then for every candidate its pass, then the first k in the order of (pass, draw, rank). What a
-- lambda holds is copied for every element: so it holds no lists.
CREATE OR REPLACE MACRO pref_takes(score, draw, best, pass, beta) AS
pref_mix(xor(draw, pass::UBIGINT)) < 4294967296 * exp((score - best) / beta::DOUBLE);
CREATE OR REPLACE MACRO pref_pass_bests(every, k, beta) AS
list_reduce(
  list_transform(range(k::BIGINT),
    lambda i: {'left': []::STRUCT(score DOUBLE, draw UBIGINT, rank BIGINT)[], 'bests': []::DOUBLE[],
      'n': 0::BIGINT}),
  lambda walk, i: CASE WHEN walk.n - len(walk.left) >= k THEN walk ELSE {
    'left': list_transform([{'best': walk.left[1].score, 'pass': len(walk.bests) + 1}],
      lambda now: list_filter(walk.left,
        lambda c: NOT pref_takes(c.score, c.draw, now.best, now.pass, beta)))[1],
    'bests': list_append(walk.bests, walk.left[1].score), 'n': walk.n} END,
  {'left': every, 'bests': []::DOUBLE[], 'n': len(every)}).bests;
CREATE OR REPLACE MACRO pref_accepted(scores, h, k, beta) AS
CASE
  WHEN len(scores) <= k THEN range(1, len(scores) + 1)
  ELSE list_transform([list_reverse(list_transform(scores, lambda s, r: {
         'score': s, 'draw': pref_mix(xor(h & 4294967295::UBIGINT, r::UBIGINT)),
         'rank': r::BIGINT}))],
    lambda every: list_transform([pref_pass_bests(every, k, beta)],
      lambda bests: list_transform(list_sort(list_transform(every, lambda c: {
        'pass': coalesce(list_position(list_transform(bests,
          lambda best, pass: pref_takes(c.score, c.draw, best, pass, beta)), true), len(bests) + 1),
        'draw': c.draw, 'rank': c.rank}))[:k::BIGINT], lambda c: c.rank))[1])[1]
END;
