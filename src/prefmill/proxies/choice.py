"""Which pairs to label next: spread over answers first, then those that a label tells most about.

Pairs of one prompt share answers, so labels of them repeat each other. Diversity is therefore that
answers, and with them prompts, are met as seldom as can be. Of pairs that are equal in this, the
next is the one whose label makes the proxy surest of all pairs of the pool: a V-optimal design
(Box and Draper 1959, JASA 54:622), one pair after the other, with Laplace's approximation. Odd
pairs tell little of the others, so they come late.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmill.proxies.fit import PENALTY, Ints, chance
from prefmill.rules.intervals import Floats

#: Directions in which pairs differ most: in all others there is more noise than there are labels.
DIRECTIONS = 32


def spread(sides: Ints, keys: Floats, n: int, met: Sequence[int] | Ints) -> list[int]:
    """The first `n` pairs, in the order in which they are to be labelled.

    `sides` has the two answers of each pair, as places in `met`, which says how many labels each
    answer has. Small `keys` go first. Cost: a sort of all pairs for each time an answer is met.

    >>> spread(np.array([[0, 1], [1, 2], [2, 3]]), np.array([0.5, 0.1, 0.9]), 3, [0, 0, 0, 0])
    [1, 0, 2]
    >>> spread(np.array([[0, 1], [2, 3]]), np.array([0.1, 0.9]), 1, [1, 0, 0, 0])
    [1]
    """
    counts = np.array(met, dtype=np.int64)
    left = np.ones(len(sides), dtype=bool)
    found: list[int] = []
    while len(found) < n and left.any():
        level = np.where(left, counts[sides].sum(axis=1), np.iinfo(np.int64).max)
        least = level.min()
        places = np.flatnonzero(level == least)
        for place in places[np.argsort(keys[places], kind="stable")]:
            one, other = sides[place]
            # A pair before it may have met one of its answers meanwhile.
            if counts[one] + counts[other] > least:
                continue
            found.append(int(place))
            left[place] = False
            counts[one] += 1
            counts[other] += 1
            if len(found) == n:
                break
    return found


def designed(
    differences: Floats,
    sides: Ints,
    n: int,
    met: Sequence[int] | Ints,
    known: Floats,
    weights: Floats | None = None,
) -> list[int]:
    """As `spread`, but of pairs that are equal in spread the one comes first after whose label the
    mean variance of all margins is smallest.

    `differences` are those of the pairs, `known` those of pairs that have labels, and `weights` the
    proxy of these (None: every pair is a coin toss). What the label will be does not count, nor
    which answer is first. Cost: for each pair that is chosen, a pass over 64 numbers of all pairs.

    >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 0.3]])
    >>> designed(rows, np.array([[0, 1], [2, 3], [4, 5]]), 2, [0] * 6, rows[:0])
    [0, 1]
    """
    moments = differences.T @ differences / max(1, len(differences))
    _, vectors = np.linalg.eigh(moments)
    directions = vectors[:, -DIRECTIONS:]
    rows, seen = differences @ directions, known @ directions
    weight, doubts = np.full(len(rows), 0.25), np.full(len(seen), 0.25)
    if weights is not None:
        weight, doubts = _doubt(differences @ weights), _doubt(known @ weights)
    seen = seen * np.sqrt(doubts)[:, None]
    values, axes = np.linalg.eigh(rows.T @ rows / max(1, len(rows)))
    bend = PENALTY * np.eye(rows.shape[1]) + seen.T @ seen
    across = rows @ np.linalg.inv(bend)
    reach = across @ (axes * np.sqrt(np.maximum(values, 0.0)))
    variance = np.einsum("ij,ij->i", across, rows)
    counts = np.array(met, dtype=np.int64)
    left = np.ones(len(rows), dtype=bool)
    found: list[int] = []
    while len(found) < n and left.any():
        level = np.where(left, counts[sides].sum(axis=1), np.iinfo(np.int64).max)
        gain = weight * np.einsum("ij,ij->i", reach, reach) / (1 + weight * variance)
        best = int(np.where(level == level.min(), gain, -1.0).argmax())
        found.append(best)
        left[best] = False
        counts[sides[best]] += 1
        # What is known after this label, by Sherman and Morrison.
        shrink = weight[best] / (1 + weight[best] * variance[best])
        along = rows @ across[best]
        reach -= shrink * np.outer(along, reach[best])
        across -= shrink * np.outer(along, across[best])
        variance -= shrink * along * along
    return found


def _doubt(margins: Floats) -> Floats:
    """The variance of a label with such a margin."""
    agree = chance(margins)
    found: Floats = agree * (1 - agree)
    return found
