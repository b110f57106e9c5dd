-- The ranks that statistical rejection sampling accepts among the candidates of one prompt: k of them, or all where there are fewer, in no order.
--
-- `scores` are in rank order, worst first; `h` is the prompt's hash. What a pass accepts depends on the best score that is left when it begins, so one
-- walk from the best down finds the pass of every candidate: it is accepted by the first of the passes begun so far that takes it; where none
-- does it is the best that is left, and begins the next. Every pass takes one or more, so passes after the k-th do not matter.
CREATE OR REPLACE MACRO pref_accepted(scores, h, k, beta) AS
CASE
  WHEN len(scores) <= k THEN range(1, len(scores) + 1)
  ELSE list_transform(list_sort(list_reduce(
    list_transform(range(len(scores), 0, -1), lambda r: {
      'tops': []::DOUBLE[], 'found': []::STRUCT(pass BIGINT, draw UBIGINT, rank BIGINT)[], 'score': scores[r],
      'draw': pref_mix(xor(h & 4294967295::UBIGINT, r::UBIGINT)), 'rank': r}),
    lambda walk, c: list_transform(
      [coalesce(list_position(list_transform(walk.tops,
         lambda top, pass: pref_mix(xor(c.draw, pass::UBIGINT)) < 4294967296 * exp((c.score - top) / beta::DOUBLE)), true), len(walk.tops) + 1)::BIGINT],
      lambda pass: {
        'tops': CASE WHEN pass > len(walk.tops) AND pass <= k THEN list_append(walk.tops, c.score) ELSE walk.tops END,
        'found': list_append(walk.found, {'pass': pass, 'draw': c.draw, 'rank': c.rank}), 'score': c.score, 'draw': c.draw, 'rank': c.rank})[1],
    {'tops': []::DOUBLE[], 'found': []::STRUCT(pass BIGINT, draw UBIGINT, rank BIGINT)[], 'score': 0::DOUBLE, 'draw': 0::UBIGINT, 'rank': 0::BIGINT}
    ).found)[:k::BIGINT], lambda taken: taken.rank)
END;
