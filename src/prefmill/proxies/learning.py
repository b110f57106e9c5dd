"""The learning curve of the proxy, and what more labels would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmill.proxies.fit import Ints, held_out
from prefmill.rules.intervals import Floats, poisson_times
from prefmill.rules.votes import summed

#: Shares of the labels that are learned from, and how often each is drawn anew.
SHARES = ((1 / 16, 4), (1 / 8, 3), (1 / 4, 2), (1 / 2, 2), (1.0, 1))
#: With fewer labels to learn from a share says nothing.
_FEWEST = 16
#: How many times as many labels the forecast is for: further out a power law is a guess.
TIMES = (2, 4)
_RESAMPLES = 400
_POWERS = np.linspace(0.1, 1.0, 19)
#: The error that no number of labels takes away is looked for between 0 and this.
_FLOORS = np.linspace(0.0, 0.5, 51)


@dataclass(frozen=True)
class Point:
    """The accuracy at a number of labels, with its 95 % interval over prompts.

    `gain` is what a forecast adds to the accuracy now, with an interval of its own.
    """

    labels: int
    accuracy: float
    low: float
    high: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


def curve(
    differences: Floats, folds: Ints, prompts: Ints, margins: Floats, *, seed: int
) -> tuple[list[Point], list[Point]]:
    """The curve, and its forecast: `margins` are the held-out ones with all labels.

    Accuracies are of all pairs, each by a proxy that saw no pair of its fold. Pairs are drawn for
    training one by one; the intervals resample prompts, so they hold what the pairs at hand leave
    open, and not the draw of what is learned from.
    """
    draws, rows = np.random.default_rng(seed), len(differences)
    sizes, right = [], []
    for share, times in SHARES:
        labels = share * rows * (1 - 1 / (int(folds.max()) + 1))
        if labels < _FEWEST:
            continue
        hits = np.zeros(rows)
        for _ in range(times):
            found = margins
            if share < 1:
                found = held_out(differences, folds, draws.permutation(rows) < share * rows)
            hits += right_of(found) / times
        sizes.append(round(labels))
        right.append(hits)
    count = int(prompts.max()) + 1
    sums = np.stack([summed(prompts, each, count) for each in right], axis=1)
    pairs = summed(prompts, np.ones(rows), count)
    hashes = draws.integers(0, 2**32, count, dtype=np.uint64)
    times_in = poisson_times(hashes, _RESAMPLES).T
    drawn = (times_in @ sums) / np.maximum(times_in @ pairs, 1)[:, None]
    whole = sums.sum(axis=0) / pairs.sum()
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    points = [
        Point(size, float(value), float(low), float(high))
        for size, value, low, high in zip(sizes, whole, *ends, strict=True)
    ]
    return points, _forecast(sizes, whole, drawn)


def right_of(margins: Floats) -> Floats:
    """1 where the label agrees, one half where the proxy has no opinion."""
    return np.where(np.isnan(margins) | (margins == 0), 0.5, (margins > 0).astype(np.float64))


def _forecast(sizes: Sequence[int], whole: Floats, drawn: Floats) -> list[Point]:
    """What the power law says of more labels; nothing where there are too few sizes for one."""
    if len(sizes) < 4:
        return []
    wanted = [times * sizes[-1] for times in TIMES]
    points = np.array([*sizes[-1:], *wanted], dtype=np.float64)
    values = power_law(np.array(sizes, dtype=np.float64), np.vstack([whole, drawn]), points)
    gains = values[:, 1:] - values[:, :1]
    told = []
    for place, labels in enumerate(wanted):
        gain = float(gains[0, place])
        low, high = np.quantile(gains[1:, place], [0.025, 0.975])
        # What a resample says of all pairs is uncertain too: both go into the accuracy.
        spread = np.quantile(drawn[:, -1] + gains[1:, place], [0.025, 0.975])
        told.append(
            Point(
                labels,
                float(whole[-1]) + gain,
                min(1.0, float(spread[0])),
                min(1.0, float(spread[1])),
                gain,
                float(low),
                float(high),
            )
        )
    return told


def power_law(sizes: Floats, accuracies: Floats, wanted: Floats) -> Floats:
    """Accuracies at `wanted` sizes, of the curve 1 - floor - height * size ** -power.

    A row of `accuracies` is a curve; larger sizes count for more, for they were measured with less
    noise. It never falls. Source: Cortes et al. 1993, NIPS 6:327; Hestness et al. 2017,
    arXiv:1712.00409.

    >>> sizes = np.array([50.0, 100.0, 200.0, 400.0])
    >>> curve = 0.8 - 2 * sizes**-0.5
    >>> power_law(sizes, curve[None], np.array([1600.0])).round(2).tolist()
    [[0.75]]
    """
    errors, weight = 1 - accuracies, sizes / sizes.sum()
    best = np.full(len(errors), np.inf)
    found = np.zeros((len(errors), len(wanted)))
    for power in _POWERS:
        falls, ahead = sizes**-power, wanted**-power
        for floor in _FLOORS:
            rest = errors - floor
            height = np.maximum(0.0, (rest * falls) @ weight / float((falls * falls) @ weight))
            misfit = ((rest - height[:, None] * falls) ** 2) @ weight
            better = misfit < best - 1e-15
            best = np.where(better, misfit, best)
            told = 1 - floor - height[:, None] * ahead
            found = np.where(better[:, None], told, found)
    return np.clip(found, 0.0, 1.0)
