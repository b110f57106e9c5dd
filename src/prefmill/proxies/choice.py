"""Which pairs to label next: spread over answers first, then those that a label tells most about.

Pairs of one prompt share answers, so labels of them repeat each other. Diversity is therefore that
answers, and with them prompts, are met as seldom as can be. Of pairs that are equal in this, the
next is the one that the proxy finds neither a coin toss nor foregone: of answers that are too close
people give noise, and what is foregone teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmill.proxies.fit import Ints
from prefmill.rules.intervals import Floats

#: The margin that is looked for: a chance of 0.73 that one answer is preferred.
MARGIN = 1.0


def keys_of(margins: Floats | None, rows: int, seed: int) -> Floats:
    """What orders pairs that are equal in spread: how far the margin is from the one looked for.

    Without margins it is chance.
    """
    if margins is None:
        return np.random.default_rng(seed).random(rows)
    return np.abs(np.abs(margins) - MARGIN)


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
