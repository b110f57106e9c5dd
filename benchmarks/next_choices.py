"""Ways to choose the pairs that are labelled next, for `bench_next.py`.

Each takes a `Round` and gives the places of `n` pairs. `next` is what `prefmill next` does. Those
with "spread" choose among pairs whose answers were met least, as `next` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prefmill.proxies.choice import PENALTY, spread, variances
from prefmill.proxies.fit import chance, weights_of

#: Directions of the largest variance that designs are made in.
DIRECTIONS = 32
_COMMITTEE = 6


@dataclass
class Round:
    """What is known before a round: pairs, those that have labels, and the proxy of them."""

    differences: np.ndarray
    narrow: np.ndarray
    sides: np.ndarray
    answers: int
    have: np.ndarray
    weights: np.ndarray | None
    n: int
    draws: np.random.Generator
    seed: int

    @property
    def margins(self) -> np.ndarray:
        return self.differences @ self.weights

    @property
    def left(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.sides)), self.have)

    @property
    def met(self) -> np.ndarray:
        return np.bincount(self.sides[self.have].ravel(), minlength=self.answers)

    def spread(self, keys: np.ndarray) -> list[int]:
        """Those of small keys, among pairs whose answers were met least."""
        left = self.left
        return left[spread(self.sides[left], keys[left], self.n, self.met)].tolist()

    def least(self, keys: np.ndarray) -> list[int]:
        """Those of the smallest keys."""
        left = self.left
        return left[np.argsort(keys[left], kind="stable")][: self.n].tolist()


def narrowed(differences: np.ndarray) -> np.ndarray:
    """The differences in the directions in which they differ most."""
    _, vectors = np.linalg.eigh(differences.T @ differences)
    return differences @ vectors[:, -DIRECTIONS:]


def drawn(now: Round) -> list[int]:
    return now.least(now.draws.random(len(now.sides)))


def as_next(now: Round) -> list[int]:
    """Drawn before there are labels, then the largest variance of the margin."""
    if now.weights is None:
        return spread_drawn(now)
    return now.spread(-variances(now.differences, now.differences[now.have], now.weights))


def after_design(now: Round) -> list[int]:
    """As `next`, but the first round is V-optimal."""
    if now.weights is None:
        return design(now, spreading=True, pool=True)
    return as_next(now)


def spread_drawn(now: Round) -> list[int]:
    return now.spread(now.draws.random(len(now.sides)))


def spread_margin(now: Round) -> list[int]:
    """A chance of 0.73 that one answer is preferred: neither a coin toss nor foregone."""
    if now.weights is None:
        return spread_drawn(now)
    return now.spread(np.abs(np.abs(now.margins) - 1))


def spread_unsure(now: Round) -> list[int]:
    """The smallest margin (uncertainty sampling)."""
    return spread_drawn(now) if now.weights is None else now.spread(np.abs(now.margins))


def unsure(now: Round) -> list[int]:
    return drawn(now) if now.weights is None else now.least(np.abs(now.margins))


def spread_committee(now: Round) -> list[int]:
    """Where proxies of resampled labels disagree most (query by committee)."""
    if now.weights is None:
        return spread_drawn(now)
    told = []
    for _ in range(_COMMITTEE):
        again = now.draws.choice(now.have, len(now.have))
        told.append(chance(now.differences @ weights_of(now.differences[again], PENALTY)))
    return now.spread(-np.var(told, axis=0))


def after_far(now: Round) -> list[int]:
    """As `next`, but the first round has answers that are far from each other."""
    return spread_far(now) if now.weights is None else as_next(now)


def spread_far(now: Round) -> list[int]:
    """Answers that are far from each other."""
    return now.spread(-(now.differences**2).sum(axis=1))


def design(now: Round, *, spreading: bool, pool: bool) -> list[int]:
    """One pair after the other, so that variances of margins get small (`pool`: their mean over all
    pairs, V-optimal, as BAIT; else their volume, D-optimal), in few directions.
    """
    rows, met = now.narrow, now.met
    agree = np.full(len(rows), 0.5) if now.weights is None else chance(now.margins)
    weight = agree * (1 - agree)
    known = rows[now.have]
    bend = PENALTY * np.eye(rows.shape[1]) + (known * weight[now.have][:, None]).T @ known
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    root = vectors * np.sqrt(np.maximum(values, 0))
    across = rows @ np.linalg.inv(bend)
    reach = across @ root
    spreads = np.einsum("ij,ij->i", across, rows)
    left = np.zeros(len(rows), dtype=bool)
    left[now.left] = True
    found = []
    for _ in range(now.n):
        gain = weight * spreads
        if pool:
            gain = weight * np.einsum("ij,ij->i", reach, reach) / (1 + gain)
        open_to = left
        if spreading:
            level = np.where(left, met[now.sides].sum(axis=1), np.iinfo(np.int64).max)
            open_to = level == level.min()
        best = int(np.where(open_to, gain, -1.0).argmax())
        found.append(best)
        left[best] = False
        met[now.sides[best]] += 1
        shrink = weight[best] / (1 + weight[best] * spreads[best])
        along = rows @ across[best]
        reach -= shrink * np.outer(along, reach[best].copy())
        across -= shrink * np.outer(along, across[best].copy())
        spreads -= shrink * along * along
    return found


def badge(now: Round) -> list[int]:
    """k-means++ over gradients of the likelier label (BADGE); the sign of a pair is anybody's."""
    rows = now.narrow
    if now.weights is not None:
        agree = chance(now.margins)
        rows = rows * np.minimum(agree, 1 - agree)[:, None]
    open_to = np.zeros(len(rows), dtype=bool)
    open_to[now.left] = True
    near, found = np.full(len(rows), np.inf), []
    best = int(now.draws.choice(now.left))
    for _ in range(now.n):
        found.append(best)
        open_to[best] = False
        square, inner = (rows**2).sum(axis=1), np.abs(rows @ rows[best])
        near = np.minimum(near, np.maximum(square + square[best] - 2 * inner, 0))
        likely = np.where(open_to, near, 0.0)
        if likely.sum() <= 0:
            likely = open_to.astype(np.float64)
        if not likely.any():
            break
        best = int(now.draws.choice(len(rows), p=likely / likely.sum()))
    return found


METHODS: dict[str, Callable[[Round], list[int]]] = {
    "drawn": drawn,
    "next": as_next,
    "spread, drawn": spread_drawn,
    "spread, margin near 1": spread_margin,
    "spread, smallest margin": spread_unsure,
    "smallest margin": unsure,
    "spread, committee": spread_committee,
    "spread, variance": after_far,
    "spread, V-optimal, then variance": after_design,
    "spread, far apart": spread_far,
    "spread, V-optimal": lambda now: design(now, spreading=True, pool=True),
    "V-optimal (BAIT)": lambda now: design(now, spreading=False, pool=True),
    "D-optimal": lambda now: design(now, spreading=False, pool=False),
    "k-means++ (BADGE)": badge,
}
