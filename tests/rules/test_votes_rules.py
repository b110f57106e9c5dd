"""Strengths of votes: published values, planted ones, and parts that are hostile."""

from __future__ import annotations

import numpy as np
import pytest

from prefmill.rules.blocks import Blocks, reached
from prefmill.rules.strengths import PairLikelihood, RankingLikelihood, Strengths, strengths
from prefmill.rules.votes import Comparisons, Judged, compared, components, elo

#: American League, 1987: wins of the row's team over the column's (Agresti, Categorical Data
#: Analysis, section 10.6.2), and what BradleyTerry2 (Turner & Firth 2012) says next to Baltimore.
BASEBALL = [
    ("Milwaukee", (0, 7, 9, 7, 7, 9, 11), 1.5814, 0.3433),
    ("Detroit", (6, 0, 7, 5, 11, 9, 9), 1.4364, 0.3396),
    ("Toronto", (4, 6, 0, 7, 7, 8, 12), 1.2945, 0.3367),
    ("New York", (6, 8, 6, 0, 6, 7, 10), 1.2476, 0.3359),
    ("Boston", (6, 2, 6, 7, 0, 7, 12), 1.1077, 0.3339),
    ("Cleveland", (4, 4, 5, 6, 6, 0, 6), 0.6839, 0.3319),
    ("Baltimore", (2, 4, 1, 3, 1, 7, 0), 0.0, 0.0),
]


def votes_of(one, two, outcome, unit=None) -> Comparisons:
    one, two = np.asarray(one, dtype=np.int64), np.asarray(two, dtype=np.int64)
    rows = np.arange(len(one))
    outcome = np.asarray(outcome, dtype=np.float64)
    return Comparisons(one, two, outcome, rows if unit is None else unit, (rows, rows))


def fitted(votes: Comparisons, sides: int, *, ties=False, prior=None, level=0.95) -> Strengths:
    return strengths(PairLikelihood(votes, sides, with_ties=ties), level, prior)


def season() -> Comparisons:
    counts = np.array([wins for _, wins, _, _ in BASEBALL])
    one, two = np.repeat(np.argwhere(counts >= 0), counts.ravel(), axis=0).T
    return votes_of(one, two, np.ones(len(one)))


def test_the_baseball_of_1987():
    found = fitted(season(), 7)
    assert found.open_parts == 0
    for place, (name, _, ability, _) in enumerate(BASEBALL):
        assert found.score[place] - found.score[-1] == pytest.approx(ability, abs=5e-5), name


def test_the_errors_of_1987():
    """Those of BradleyTerry2 are of differences to Baltimore."""
    model = PairLikelihood(season(), 7, with_ties=False)
    found = strengths(model, 0.95, None)
    terms = model.terms(found.score[model.blocks.order], -np.inf)
    free = [place for place in range(7) if model.blocks.order[place] != 6]
    information = terms.information.reshape(7, 7)[np.ix_(free, free)]
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    for place, error in zip(free, errors, strict=True):
        assert error == pytest.approx(BASEBALL[model.blocks.order[place]][3], abs=5e-5)


def test_two_sides_are_a_share_and_its_logit():
    """Of 30 to 10, the gap is log 3, and its variance 1 / 30 + 1 / 10."""
    found = fitted(votes_of([0] * 40, [1] * 40, [1] * 30 + [0] * 10), 2)
    assert found.score[0] * 2 == pytest.approx(np.log(3))
    half = 1.959963984540054 * np.sqrt(1 / 30 + 1 / 10)
    assert (found.high - found.low)[0] == pytest.approx(half)


def test_votes_that_say_the_same_count_once():
    """All votes of a unit on two sides are one, as in `win_rates`: n is that of Kish."""
    outcome = [1] * 30 + [0] * 10
    alone = fitted(votes_of([0] * 40, [1] * 40, outcome), 2)
    unit = np.repeat(np.arange(8), 5)
    together = fitted(votes_of([0] * 40, [1] * 40, outcome, unit), 2)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(5))


def coverage(simulate, planted: np.ndarray, times: int) -> float:
    """The share of intervals that hold the planted strength."""
    center = planted - planted.mean()
    held = []
    for seed in range(times):
        found = simulate(np.random.default_rng(seed))
        held.append((found.low <= center) & (center <= found.high))
    return float(np.mean(held))


def drawn_pairs(draw, planted: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sides = len(planted)
    one = draw.integers(0, sides, count)
    two = (one + draw.integers(1, sides, count)) % sides
    return one, two, planted[one] - planted[two]


# 60 times 8 intervals: at 95 % the share has a standard deviation of 1 % (of 1.5 % where intervals
# of one fit lean on each other), so 91 % and 98.5 % are further away than chance goes.
LEAST, MOST = 0.91, 0.985
PLANTED = np.linspace(-1.5, 1.5, 8)


def test_intervals_hold_what_was_planted():
    def simulate(draw) -> Strengths:
        one, two, gap = drawn_pairs(draw, PLANTED, 400)
        return fitted(votes_of(one, two, draw.random(400) < 1 / (1 + np.exp(-gap))), 8)

    assert LEAST < coverage(simulate, PLANTED, 60) < MOST


def test_intervals_of_davidson_hold_what_was_planted():
    def simulate(draw) -> Strengths:
        one, two, gap = drawn_pairs(draw, PLANTED, 400)
        chances = np.stack([np.exp(gap / 2), np.full(400, 0.8), np.exp(-gap / 2)])
        steps = np.cumsum(chances / chances.sum(axis=0), axis=0)
        outcome = 1 - (draw.random(400) > steps[:2]).sum(axis=0) / 2
        return fitted(votes_of(one, two, outcome), 8, ties=True)

    assert LEAST < coverage(simulate, PLANTED, 60) < MOST


def test_intervals_of_rankings_hold_what_was_planted():
    def simulate(draw) -> Strengths:
        ballots = np.array([draw.permutation(8)[:4] for _ in range(100)])
        # Plackett-Luce is the order of strengths with noise of Gumbel's kind.
        value = PLANTED[ballots] + draw.gumbel(size=ballots.shape)
        number = np.repeat(np.arange(100), 4)
        side = ballots.ravel()
        rows = Judged(side, side, number, number, np.zeros(400, dtype=np.int64), value.ravel())
        return strengths(RankingLikelihood(rows), 0.95, None)

    assert LEAST < coverage(simulate, PLANTED, 60) < MOST


def test_intervals_of_rankings_as_pairs_are_wide_enough():
    """All pairs of a list are not independent: an upper bound is asked for, and no exact share."""

    def simulate(draw) -> Strengths:
        ballots = np.array([draw.permutation(8)[:4] for _ in range(100)])
        value = PLANTED[ballots] + draw.gumbel(size=ballots.shape)
        number = np.repeat(np.arange(100), 4)
        side = ballots.ravel()
        rows = Judged(side, side, number, number, np.zeros(400, dtype=np.int64), value.ravel())
        return fitted(compared(rows), 8)

    assert coverage(simulate, PLANTED, 60) > LEAST


@pytest.mark.parametrize("sides", [2, 3, 20])
def test_one_chain_of_wins_has_an_end(sides):
    """Each beats the next, once: the prior bounds what likelihood does not."""
    found = fitted(votes_of(range(sides - 1), range(1, sides), np.ones(sides - 1)), sides)
    assert found.open_parts == 1
    assert np.isfinite(found.score).all()
    assert (np.diff(found.score) < 0).all()
    assert found.score.sum() == pytest.approx(0, abs=1e-8)


def test_a_ring_of_wins_is_even():
    found = fitted(votes_of(range(500), np.roll(range(500), -1), np.ones(500)), 500)
    assert found.open_parts == 0
    assert found.score == pytest.approx(0, abs=1e-9)


def test_a_million_to_one():
    """The counts of a pair may be far apart."""
    found = fitted(votes_of([0, 1], [1, 0], [1, 1]), 2)
    assert found.score[0] == pytest.approx(0, abs=1e-12)
    one = np.zeros(1_000_001, dtype=np.int64)
    found = fitted(votes_of(one, one + 1, np.r_[np.ones(1_000_000), 0]), 2)
    assert 2 * found.score[0] == pytest.approx(np.log(1e6), abs=1e-6)


def test_more_wins_are_never_a_smaller_score():
    scores = [fitted(votes_of([0] * n, [1] * n, np.ones(n)), 2).score[0] for n in range(1, 12)]
    assert (np.diff(scores) > 0).all()


def test_parts_by_their_first_side():
    one, two = np.array([5, 1, 7]), np.array([2, 5, 0])
    assert components(9, one, two).tolist() == [0, 1, 1, 2, 3, 1, 4, 0, 5]
    blocks = Blocks(9, one, two)
    assert blocks.size.tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert components(3, one[:0], two[:0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_parts_and_reach_are_those_of_a_search(seed):
    draw = np.random.default_rng(seed)
    count = 60
    tails, heads = draw.integers(0, count, (2, 50 + 10 * seed))
    seen = [{node} for node in range(count)]
    for _ in range(count):
        for tail, head in zip(tails, heads, strict=True):
            for nodes in seen:
                if tail in nodes:
                    nodes.add(int(head))
    for root in range(0, count, 7):
        found = reached(count, tails, heads, np.array([root]))
        assert set(np.flatnonzero(found)) == seen[root]
    label = components(count, tails, heads)
    firsts = list(dict.fromkeys(label.tolist()))
    assert firsts == sorted(firsts)
    assert all(label[tail] == label[head] for tail, head in zip(tails, heads, strict=True))


def test_elo_of_a_gap_beyond_floats():
    votes = votes_of([0, 0], [1, 1], [1, 0])
    assert np.isfinite(elo(votes, 2, 1e6)).all()


def test_rows_of_one_answer_do_not_meet():
    side = np.array([0, 0, 1, 2])
    ballot = np.zeros(4, dtype=np.int64)
    value = np.array([1.0, 0.0, 1.0, 0.5])
    votes = compared(Judged(side, side, ballot, ballot, ballot, value))
    assert list(zip(votes.one, votes.two, votes.outcome, strict=True)) == [
        (0, 1, 0.5),
        (0, 2, 1.0),
        (0, 1, 0.0),
        (0, 2, 0.0),
        (1, 2, 1.0),
    ]
