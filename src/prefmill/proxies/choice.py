"""Which pairs to label next: spread over answers first, then those that a label tells most about.

Pairs of one prompt share answers, so labels of them repeat each other. Diversity is therefore that
answers, and with them prompts, are met as seldom as can be. Of pairs that are equal in this, the
next is the one whose margin the labels so far leave most open: the variance of it, by Laplace's
approximation. What is open is the proxy, so it is not the same as a margin near 0, which may be
known well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmill.proxies.fit import Ints, chance
from prefmill.rules.intervals import Floats

#: The penalty of a proxy of labels that share answers: they repeat each other, so each is worth
#: less (decision 077).
PENALTY = 4.0


def variances(differences: Floats, known: Floats, weights: Floats) -> Floats:
    """How open the margin of each pair is, after labels of `known` that `weights` were fitted to.

    `differences` and `known` have a row for each pair; which answer is first does not count. Cost:
    the inverse of one matrix, and a pass over the pairs.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> variances(rows, 8 * rows[:1], np.zeros(2)).round(2).tolist()
    [0.05, 0.25]
    """
    agree = chance(known @ weights)
    bend = (known * (agree * (1 - agree))[:, None]).T @ known
    bend[np.diag_indices(len(bend))] += PENALTY
    found: Floats = np.einsum("ij,ij->i", differences @ np.linalg.inv(bend), differences)
    return found


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
