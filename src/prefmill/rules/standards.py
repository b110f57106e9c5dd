"""Scores of several models on one scale: standardised inside groups of rows, as NumPy arrays.

Every function takes `values`, shape (models, rows), and the `Groups` of the rows. What comes out is
rounded to 9 decimals (decision 004), so that the order of rows decides no tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prefmill.rules.intervals import Floats

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Which rows are compared with each other.

    group   shape (rows,): the number of each row's group, from 0
    counts  shape (groups,): how many rows each group has
    order   shape (rows,): the rows, one group after another
    starts  shape (groups,): where in `order` each group begins
    """

    group: Ints
    counts: Ints
    order: Ints
    starts: Ints

    @classmethod
    def of(cls, keys: npt.ArrayLike) -> Groups:
        """Rows with equal keys are a group.

        >>> Groups.of([7, 7, 3]).counts.tolist()
        [1, 2]
        """
        _, group, counts = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
        order = np.argsort(group, kind="stable")
        starts = np.concatenate(([0], np.cumsum(counts)[:-1])) if len(counts) else counts
        return cls(group, counts, order, starts.astype(np.int64))

    @classmethod
    def one(cls, rows: int) -> Groups:
        """All rows are one group; there is none without rows."""
        return cls.of(np.zeros(rows, np.int64))

    def each(self, what: Any, values: Floats) -> Floats:
        """A ufunc over the rows of each group, shape (models, groups)."""
        if not len(self.starts):
            return np.zeros((len(values), 0))
        return np.asarray(what.reduceat(values[:, self.order], self.starts, axis=1))


def zscores(values: Floats, groups: Groups) -> Floats:
    """How many population deviations each score is above its model's mean of the group.

    It is 0 where a model gives all rows of the group one score (`flat`).

    >>> zscores(np.array([[1.0, 3.0, 5.0]]), Groups.of([0, 0, 1])).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    if not values.shape[1]:
        return np.zeros_like(values)
    group = groups.group
    low, high = groups.each(np.minimum, values), groups.each(np.maximum, values)
    # In units of the range, so that no square overflows or vanishes.
    span = np.where(high > low, high - low, 1.0)[:, group]
    unit = (values - low[:, group]) / span
    gap = unit - (groups.each(np.add, unit) / groups.counts)[:, group]
    deviation = np.sqrt(groups.each(np.add, gap * gap) / groups.counts)
    spread = np.where(deviation > 0, deviation, 1.0)[:, group]
    return rounded(np.where((deviation > 0)[:, group], gap / spread, 0.0))


def ranks(values: Floats, groups: Groups) -> Floats:
    """The middle rank of each score among its model's of the group, as a share between 0 and 1.

    The worst of n is 0.5 / n, the best 1 - 0.5 / n; equal scores share their places.

    >>> ranks(np.array([[1.0, 3.0, 3.0, 9.0]]), Groups.of([0, 0, 0, 1])).round(3).tolist()
    [[0.167, 0.667, 0.667, 0.5]]
    """
    shares = np.zeros_like(values)
    for model, scores in enumerate(values):
        order = np.lexsort((scores, groups.group))
        ordered, place = scores[order], np.arange(len(order)) - groups.starts[groups.group[order]]
        new = np.ones(len(order), bool)
        new[1:] = (ordered[1:] != ordered[:-1]) | (place[1:] == 0)
        tie = np.cumsum(new) - 1
        mean = np.bincount(tie, place) / np.bincount(tie) if len(order) else place
        shares[model, order] = (mean[tie] + 0.5) / groups.counts[groups.group[order]]
    return rounded(shares)


def disagreement(values: Floats, groups: Groups) -> Floats:
    """How far apart the models are about each row, shape (rows,): the population deviation, over
    the models, of their z-scores inside the row's group.

    >>> both = np.array([[1.0, 2.0], [20.0, 10.0]])
    >>> disagreement(both, Groups.one(2)).tolist()
    [1.0, 1.0]
    """
    return rounded(zscores(values, groups).std(axis=0))


def flat(values: Floats, groups: Groups) -> Ints:
    """For each model the groups of several rows to which it gives one score, shape (models,)."""
    same = groups.each(np.minimum, values) == groups.each(np.maximum, values)
    return np.asarray((same & (groups.counts > 1)).sum(axis=1), dtype=np.int64)


def rounded(values: Floats) -> Floats:
    """To 9 decimals, half away from zero, and no -0.0.

    >>> rounded(np.array([0.12345678949, -1e-12])).tolist()
    [0.123456789, 0.0]
    """
    whole = np.trunc(np.abs(values) * 1e9 + 0.5) / 1e9
    near = np.where(np.abs(values) < 4e6, np.copysign(whole, values), values)
    return np.where(near == 0, 0.0, near)
