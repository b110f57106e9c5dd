"""From a margin of scores to the chance to win: isotonic regression, symmetric around 0.

Sources: pool adjacent violators, Ayer et al. 1955, Ann. Math. Stat. 26:641; as calibration of
classifiers, Zadrozny and Elkan 2002, KDD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefmill.rules.intervals import Floats, wilson
from prefmill.rules.standards import Groups, rounded

#: pairs of rows that are compared at a time
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WinCurve:
    """The chance that the better one of two answers wins, by how much better its score is.

    margins  shape (knots,), from 0 upwards: differences of two scores
    chances  shape (knots,), from 0.5 upwards, never falling: P(win) at each

    Between knots it is a straight line, beyond the last it stays. A margin of the other sign has
    the other chance: P(-m) = 1 - P(m).
    """

    margins: Floats
    chances: Floats

    def __call__(self, margins: npt.ArrayLike) -> Floats:
        """The chance to win at each margin.

        >>> curve = WinCurve(np.array([0.0, 1.0]), np.array([0.5, 0.9]))
        >>> curve([0.5, -0.5, 7.0]).round(3).tolist()
        [0.7, 0.3, 0.9]
        """
        gap = np.asarray(margins, np.float64)
        beyond = np.interp(np.abs(gap), self.margins, self.chances) - 0.5
        return np.asarray(0.5 + np.copysign(beyond, gap))

    def wins(self, scores: Floats, groups: Groups) -> Floats:
        """For each score the mean of its chances against the others of its group, shape (rows,).

        It is 0.5 where there is no other. Cost: the square of a group's rows.

        >>> curve = WinCurve(np.array([0.0, 1.0]), np.array([0.5, 0.9]))
        >>> curve.wins(np.array([1.0, 0.0, 0.0, 5.0]), Groups.of([0, 0, 0, 1])).tolist()
        [0.9, 0.3, 0.3, 0.5]
        """
        mean = np.full(len(scores), 0.5)
        for start, count in zip(groups.starts.tolist(), groups.counts.tolist(), strict=True):
            if count == 1:
                continue
            rows = groups.order[start : start + count]
            own = scores[rows]
            step = max(1, _BLOCK // count)
            for first in range(0, count, step):
                part = slice(first, first + step)
                chances = self(own[part, None] - own[None, :])
                mean[rows[part]] = (chances.sum(axis=1) - 0.5) / (count - 1)
        return rounded(mean)


@dataclass(frozen=True)
class Fit:
    """A curve, and what each of its steps rests on.

    Of each step: its chance, from which margin to which, the pairs in it, and the 95 % interval of
    its share (Wilson; pairs as if independent). `steps` and what follows have shape (steps,).
    """

    curve: WinCurve
    chances: Floats
    least: Floats
    most: Floats
    pairs: Floats
    low: Floats
    high: Floats


def fit_wins(margins: Floats) -> Fit:
    """The best monotone curve for pairs whose chosen answer scored higher by `margins`.

    Every pair is seen from both sides, which makes the curve symmetric. A margin of 0 is half a
    win. Cost: one sort. Each pair has weight 1.

    >>> fit_wins(np.array([2.0, 1.0, -1.0, 3.0])).curve([1.0, 2.0, 3.0]).tolist()
    [0.5, 1.0, 1.0]
    """
    size, place = np.unique(np.abs(margins), return_inverse=True)
    weight = np.bincount(place).astype(np.float64)
    won = np.bincount(place, (np.sign(margins) + 1) / 2)
    # Seen from both sides, what is fitted is symmetric: its upper half is the fit over the sizes of
    # margins alone, with 0.5 as the least.
    share, block = pooled(won / weight, weight)
    share = np.maximum(share, 0.5)
    block = np.where(share == 0.5, -1, block)
    first = np.flatnonzero(np.diff(block, prepend=-2))
    last = np.concatenate((first[1:], [len(block)])) - 1
    pairs = np.add.reduceat(weight, first)
    wins = np.add.reduceat(won, first)
    ends = [wilson(w / n, n) for w, n in zip(wins.tolist(), pairs.tolist(), strict=True)]
    low, high = np.array(ends).T
    knots = np.concatenate(([0.0], np.stack([size[first], size[last]], axis=1).ravel()))
    chances = np.concatenate(([0.5], np.repeat(share[first], 2)))
    # A margin has one chance, and the margin 0 has a half.
    new = np.concatenate(([True], knots[1:] > knots[:-1]))
    curve = WinCurve(knots[new], chances[new])
    return Fit(curve, share[first], size[first], size[last], pairs, low, high)


def pooled(values: Floats, weights: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Adjacent values pooled until none falls: the fitted values, and the block of each.

    >>> pooled(np.array([1.0, 3.0, 2.0]), np.ones(3))[0].tolist()
    [1.0, 2.5, 2.5]
    """
    totals: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        total, mass, size = value * weight, weight, 1
        while totals and totals[-1] * mass >= total * masses[-1]:
            total, mass, size = total + totals.pop(), mass + masses.pop(), size + sizes.pop()
        totals.append(total)
        masses.append(mass)
        sizes.append(size)
    share = np.array(totals) / np.array(masses) if totals else np.zeros(0)
    return np.repeat(share, sizes), np.repeat(np.arange(len(sizes)), sizes)
