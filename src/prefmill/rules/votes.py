"""Votes: what judgements of one list say about every two of its sides.

    judged rows ──two of a ballot──▶ comparisons ──▶ parts; win rates, Elo

A side is what gets a score: an answer, or a source. A ballot is what one judge said at once: rows
whose scores compare. Strengths by likelihood are in `strengths`, judges in `judges`. There is no
macro: these are fits, not relations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from prefmill.errors import BadArgument
from prefmill.rules.intervals import Floats, poisson_times
from prefmill.table.chance import mix32_array

Ints = npt.NDArray[np.int64]
#: More comparisons than this are not spelled out: about 2 GB.
MOST_COMPARISONS = 50_000_000
_ELO_SCALE = math.log(10) / 400
_CHUNK = 10_000  # comparisons whose resamples are drawn together
_CELLS = 20_000_000  # ratings in all resamples at a time: 160 MB


def summed(places: Ints, weights: npt.ArrayLike, count: int) -> Floats:
    """The weights, summed by place."""
    # It says that it counts whole numbers; with weights they are floats.
    return np.asarray(np.bincount(places, weights, count), dtype=np.float64)


@dataclass(frozen=True)
class Judged:
    """Rows that can be used, in order of position. All but `value` are numbers from 0.

    `unit` is what is independent of the rest: the prompt of a source, the ballot of an answer.
    `ballot` and `side` are numbered by their first row.
    """

    side: Ints
    answer: Ints
    ballot: Ints
    unit: Ints
    annotator: Ints
    value: Floats

    @property
    def sides(self) -> int:
        """How many get a score."""
        return int(self.side.max(initial=-1)) + 1

    @property
    def ballots(self) -> int:
        """How many ballots there are."""
        return int(self.ballot.max(initial=-1)) + 1


@dataclass(frozen=True)
class Comparisons:
    """Two sides each, and what `one` got of the point: 1, 0, 0.5 for a tie, or a share.

    They are in the order of ballots.
    """

    one: Ints
    two: Ints
    outcome: Floats
    unit: Ints
    rows: tuple[Ints, Ints]  #: the rows of `Judged` that met

    def of_sides(self, sides: int) -> Ints:
        """How many comparisons each side has."""
        return np.bincount(self.one, minlength=sides) + np.bincount(self.two, minlength=sides)


def met(rows: Judged) -> tuple[Ints, int, int]:
    """How many rows of another side each row meets, all meetings, and those of a side with itself.

    >>> number = np.array([0, 1, 2, 0])
    >>> one = np.zeros(4, dtype=np.int64)
    >>> met(Judged(number, number, one, one, one, np.ones(4)))
    (array([2, 3, 3, 2]), 5, 1)
    """
    sizes = np.bincount(rows.ballot, minlength=rows.ballots)
    _, place, own = np.unique(
        rows.ballot * max(rows.sides, 1) + rows.side, return_inverse=True, return_counts=True
    )
    others = sizes[rows.ballot] - own[place]
    return others, int(others.sum()) // 2, int((own * (own - 1) // 2).sum())


def compared(rows: Judged) -> Comparisons:
    """Every two rows of a ballot that are of two sides.

    Cost: time and memory go by the square of a ballot's rows. Raises `BadArgument` beyond
    `MOST_COMPARISONS`.
    """
    sizes = np.bincount(rows.ballot, minlength=rows.ballots)
    count = int((sizes * (sizes - 1) // 2).sum())
    if count > MOST_COMPARISONS:
        raise BadArgument(
            f"votes: too many comparisons; got {count:,} (largest list: {sizes.max():,} answers),"
            f" expected at most {MOST_COMPARISONS:,}.",
            hint="--method plackett-luce takes a list as a whole.",
        )
    order = np.argsort(rows.ballot, kind="stable")
    starts = np.cumsum(sizes) - sizes
    firsts, seconds = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for size in np.unique(sizes[sizes > 1]):
        left, right = np.triu_indices(int(size), 1)
        members = order[starts[sizes == size][:, None] + np.arange(size)]
        firsts.append(members[:, left].ravel())
        seconds.append(members[:, right].ravel())
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    two_sides = rows.side[first] != rows.side[second]
    first, second = first[two_sides], second[two_sides]
    if len(firsts) > 2:
        again = np.argsort(rows.ballot[first], kind="stable")
        first, second = first[again], second[again]
    outcome = (np.sign(rows.value[first] - rows.value[second]) + 1) / 2
    return Comparisons(
        rows.side[first], rows.side[second], outcome, rows.unit[first], (first, second)
    )


def in_rank_order(rows: Judged) -> Ints:
    """The rows, ballot after ballot, the best of each first."""
    return np.lexsort((-rows.value, rows.ballot))


def components(count: int, one: Ints, two: Ints) -> Ints:
    """The part of each side: sides that comparisons connect; parts are numbered by first side.

    >>> components(5, np.array([3, 0]), np.array([1, 4]))
    array([0, 1, 2, 1, 0])
    """
    label = np.arange(count)
    while True:
        low = np.minimum(label[one], label[two])
        lowered = label.copy()
        np.minimum.at(lowered, label[one], low)
        np.minimum.at(lowered, label[two], low)
        # Every side follows its label to the end of the chain, in steps that double.
        while not np.array_equal(lowered, further := lowered[lowered]):
            lowered = further
        if np.array_equal(lowered, label):
            return np.unique(label, return_inverse=True)[1]
        label = lowered


def win_rates(
    comparisons: Comparisons, sides: int, level: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """The share of comparisons that each side wins (a tie is half), Wilson's interval, and the
    trials that it counts on; as the macro `win_rates` says it. NaN where a side has none.
    """
    units = int(comparisons.unit.max(initial=-1)) + 1
    side = np.concatenate([comparisons.one, comparisons.two])
    points = np.concatenate([comparisons.outcome, 1 - comparisons.outcome])
    unit = np.concatenate([comparisons.unit, comparisons.unit])
    cells, met_in = np.unique(side * max(units, 1) + unit, return_counts=True)
    squares = summed(cells // max(units, 1), met_in.astype(np.float64) ** 2, sides)
    total = np.bincount(side, minlength=sides).astype(np.float64)
    with np.errstate(invalid="ignore"):
        rate = summed(side, points, sides) / total
        trials = total**2 / squares
    low, high = wilson_ends(rate, trials, level)
    return rate, low, high, trials


def wilson_ends(share: Floats, trials: Floats, level: float) -> tuple[Floats, Floats]:
    """Wilson's interval of each share, as `intervals.wilson` has it for 95 %."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # Rounding must not put an end outside of what a share can be.
    return np.clip((middle - half) / scale, 0, 1), np.clip((middle + half) / scale, 0, 1)


def elo(comparisons: Comparisons, sides: int, k_factor: float) -> Floats:
    """Elo's ratings after all comparisons in their order, from 0 on (Elo 1978).

    The winner takes k_factor * (1 - e) points from the loser, where e = 1 / (1 + 10^(-gap/400)) is
    what was expected. So the mean of a part stays 0.

    >>> one_vote = (np.array([0]), np.array([1]), np.array([1.0]), np.array([0]))
    >>> elo(Comparisons(*one_vote, rows=one_vote[:2]), 2, 32.0)
    array([ 16., -16.])
    """
    ratings = [0.0] * sides
    exp = math.exp
    pairs = zip(
        comparisons.one.tolist(),
        comparisons.two.tolist(),
        comparisons.outcome.tolist(),
        strict=True,
    )
    for one, two, outcome in pairs:
        gap = (ratings[two] - ratings[one]) * _ELO_SCALE
        # Beyond e^700 a float ends; nothing is expected there anyway.
        moved = k_factor * (outcome - 1 / (1 + exp(min(gap, 700.0))))
        ratings[one] += moved
        ratings[two] -= moved
    return np.array(ratings)


def elo_ends(
    comparisons: Comparisons, sides: int, k_factor: float, resamples: int, level: float, seed: int
) -> tuple[Floats, Floats]:
    """Percentile intervals of `elo` over resampled units, each in the order of comparisons.

    A unit that a resample draws t times counts t times as much. Cost: about 10 µs a comparison for
    100 resamples; parts are taken some at a time, for their ratings in all resamples.
    """
    low, high = np.full(sides, np.nan), np.full(sides, np.nan)
    if not resamples or not len(comparisons.one):
        return low, high
    part = components(sides, comparisons.one, comparisons.two)
    by_part = np.argsort(part, kind="stable")
    place = np.empty(sides, dtype=np.int64)
    place[by_part] = np.arange(sides)
    order = np.argsort(part[comparisons.one], kind="stable")
    part_of = part[comparisons.one][order]
    ends = np.cumsum(np.bincount(part))
    first = 0  # part
    while first < len(ends):
        start = int(ends[first - 1]) if first else 0
        most = start + _CELLS // resamples
        last = max(int(np.searchsorted(ends, most, side="right")), first + 1)
        cut = slice(*np.searchsorted(part_of, [first, last]))
        chosen = order[cut]
        ratings = np.zeros((int(ends[last - 1]) - start, resamples))
        one, two = place[comparisons.one[chosen]] - start, place[comparisons.two[chosen]] - start
        units = comparisons.unit[chosen].astype(np.uint64) ^ np.uint64(seed & 0xFFFFFFFF)
        _replay(ratings, one, two, comparisons.outcome[chosen], mix32_array(units), k_factor)
        mine = by_part[start : int(ends[last - 1])]
        tails = [(1 - level) / 2, (1 + level) / 2]
        low[mine], high[mine] = np.quantile(ratings, tails, axis=1)
        first = last
    return low, high


def _replay(
    ratings: Floats,
    one: Ints,
    two: Ints,
    outcome: Floats,
    hashes: npt.NDArray[np.uint64],
    k_factor: float,
) -> None:
    """Elo in every resample at once: a column of `ratings` each."""
    for start in range(0, len(one), _CHUNK):
        part = slice(start, start + _CHUNK)
        factors = k_factor * poisson_times(hashes[part], ratings.shape[1])
        each = zip(
            one[part].tolist(), two[part].tolist(), outcome[part].tolist(), factors, strict=True
        )
        for winner, loser, points, factor in each:
            gap = (ratings[loser] - ratings[winner]) * _ELO_SCALE
            moved = factor * (points - 1 / (1 + np.exp(np.minimum(gap, 700.0))))
            ratings[winner] += moved
            ratings[loser] -= moved
