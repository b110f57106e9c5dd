"""The proxy: a logistic regression on the difference of two answers' vectors.

It is the Bradley-Terry model with a linear reward, so it needs no constant: a pair the other way
round has the negative margin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prefmill.rules.intervals import Floats

Ints = npt.NDArray[np.int64]

#: The penalty on squared weights. Vectors have length 1, so it needs no scale of its own.
PENALTY = 1.0
_STEPS, _STILL = 25, 1e-8


def weights_of(
    differences: Floats, penalty: float = PENALTY, weight: Floats | None = None
) -> Floats:
    """The weights of largest likelihood less the penalty, by Newton's method; chosen is first.

    >>> weights = weights_of(np.array([[1.0, 0.0], [0.5, 0.1], [0.8, -0.1]]))
    >>> bool(weights[0] > abs(weights[1]))
    True
    """
    rows, width = differences.shape
    if rows < width:
        # The weights are a sum of rows: with fewer rows than numbers it is cheaper among rows.
        basis, _ = np.linalg.qr(differences.T)
        found: Floats = basis @ weights_of(differences @ basis, penalty, weight)
        return found
    times = np.ones(rows) if weight is None else weight
    weights = np.zeros(width)
    for _ in range(_STEPS):
        wrong = chance(-(differences @ weights))
        slope = differences.T @ (wrong * times) - penalty * weights
        bend = (differences * (wrong * (1 - wrong) * times)[:, None]).T @ differences
        bend[np.diag_indices(width)] += penalty
        step = np.linalg.solve(bend, slope)
        weights += step
        if float(np.abs(step).max(initial=0.0)) < _STILL:
            break
    return weights


def chance(margins: Floats) -> Floats:
    """The chance that the first answer is preferred, of its margin: the logistic function."""
    return 0.5 * (1 + np.tanh(margins / 2))


def folds_of(groups: Sequence[str], folds: int, seed: int) -> Ints:
    """The fold of each pair: prompts are dealt whole, the largest first, to the smallest fold.

    Pairs of one group are in one fold, whatever the order of pairs is.

    >>> folds_of(["a", "b", "a", "c"], 2, 0).tolist()[0] == folds_of(["a", "a"], 2, 0).tolist()[0]
    True
    """
    names = sorted({*groups})
    places = {name: at for at, name in enumerate(names)}
    place = np.array([places[name] for name in groups], dtype=np.int64)
    counts = np.bincount(place, minlength=len(names))
    order = sorted(range(len(names)), key=lambda at: (-counts[at], drawn(names[at], seed)))
    room, found = [0] * folds, np.zeros(len(names), dtype=np.int64)
    for at in order:
        smallest = min(range(folds), key=lambda fold: (room[fold], fold))
        found[at] = smallest
        room[smallest] += int(counts[at])
    return found[place]


def drawn(name: str, seed: int) -> str:
    """Where a name comes in a draw: as good as random, and the same each time."""
    return hashlib.md5(f"{seed}:{name}".encode(), usedforsecurity=False).hexdigest()


def held_out(
    differences: Floats, folds: Ints, train: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """The margin of each pair, from a proxy that saw no pair of its fold.

    `train` says which pairs may be learned from; None: all. NaN where nothing could be.
    """
    margins = np.full(len(differences), np.nan)
    for fold in range(int(folds.max(initial=-1)) + 1):
        inside = folds == fold
        seen = ~inside if train is None else ~inside & train
        if seen.any():
            margins[inside] = differences[inside] @ weights_of(differences[seen])
    return margins
