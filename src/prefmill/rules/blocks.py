"""Parts of a comparison graph as dense blocks, and what can be reached along its edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from prefmill.errors import BadArgument
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Ints, components, summed

#: Sides of one part: its block has the square of that many numbers (128 MB).
MOST_SIDES = 4096


class Blocks:
    """Slots of sides: those of a part stand together, and parts by size."""

    def __init__(self, sides: int, one: Ints, two: Ints) -> None:
        self.part = components(sides, one, two)
        sizes = np.bincount(self.part)
        if sides and sizes.max() > MOST_SIDES:
            raise BadArgument(
                f"votes: too many sides are compared with each other; got {sizes.max():,},"
                f" expected at most {MOST_SIDES:,}.",
                hint="--method win-rate or elo takes any number.",
            )
        of_side = sizes[self.part]
        self.order = np.lexsort((self.part, of_side))
        self.slot = np.empty(sides, dtype=np.int64)
        self.slot[self.order] = np.arange(sides)
        self.size = of_side[self.order]
        self.part_of_slot = self.part[self.order]
        new = np.r_[True, self.part_of_slot[1:] != self.part_of_slot[:-1]][:sides]
        self.start = np.flatnonzero(new)[np.cumsum(new) - 1]
        self.row = np.cumsum(self.size) - self.size

    def cell(self, one: Ints, two: Ints) -> Ints:
        """The place of two slots of a part among all blocks."""
        cell: Ints = self.row[one] + two - self.start[two]
        return cell

    @property
    def cells(self) -> int:
        """How many numbers all blocks have."""
        return int(self.size.sum())

    def classes(self) -> Iterator[tuple[int, slice, slice]]:
        """For every size of parts: it, their slots, and their cells."""
        for size in np.unique(self.size):
            first, last = np.searchsorted(self.size, [size, size + 1])
            cells = slice(int(self.row[first]), int(self.row[last - 1] + size))
            yield int(size), slice(int(first), int(last)), cells

    def solve(self, information: Floats, sides: Floats, padding: Floats) -> Floats:
        """Each block's solution for columns `sides`, which sum to 0 in every part without a prior
        (`padding` 0).
        """
        solved = np.zeros_like(sides)
        for size, slots, cells in self.classes():
            if size > 1:
                free = padding[slots][::size] == 0
                matrix = _regular(information[cells].reshape(-1, size, size), free)
                right = sides[slots].reshape(-1, size, sides.shape[1])
                solved[slots] = np.linalg.solve(matrix, right).reshape(-1, sides.shape[1])
        return solved

    def deviations(self, information: Floats, variance: Floats, padding: Floats) -> Floats:
        """The standard error of each slot's strength against the mean of its part."""
        errors = np.full(len(self.size), np.nan)
        for size, slots, cells in self.classes():
            if size > 1:
                free = padding[slots][::size] == 0
                matrix = _regular(information[cells].reshape(-1, size, size), free)
                inverse = np.linalg.inv(matrix)
                inverse -= inverse.mean(axis=1, keepdims=True)
                spread = inverse @ variance[cells].reshape(-1, size, size)
                squares = np.einsum("pij,pij->pi", spread, inverse)
                errors[slots] = np.sqrt(np.maximum(squares, 0)).ravel()
        return errors

    def largest(self, values: Floats) -> Floats:
        """The largest of the values of each slot's part."""
        tops = np.full(int(self.part.max(initial=-1)) + 1, -np.inf)
        np.maximum.at(tops, self.part_of_slot, values)
        result: Floats = tops[self.part_of_slot]
        return result

    def centred(self, values: Floats) -> Floats:
        """The values less the mean of their part."""
        sums = summed(self.part_of_slot, values, 0)
        result: Floats = values - sums[self.part_of_slot] / self.size
        return result


def _regular(blocks: Floats, free: npt.NDArray[np.bool_]) -> Floats:
    """Blocks that can be inverted: in a `free` one a shift of all strengths has no slope."""
    size = blocks.shape[1]
    scale = np.trace(blocks, axis1=1, axis2=2) / size**2
    regular: Floats = blocks + np.where(free, scale, 0.0)[:, None, None]
    return regular


def reached(count: int, tails: Ints, heads: Ints, roots: Ints) -> npt.NDArray[np.bool_]:
    """Which of `count` nodes can be reached from `roots` along edges."""
    order = np.argsort(tails, kind="stable")
    heads = heads[order]
    starts = np.searchsorted(tails[order], np.arange(count + 1))
    seen = np.zeros(count, dtype=bool)
    seen[roots] = True
    front = roots
    while len(front):
        lengths = starts[front + 1] - starts[front]
        offsets = np.repeat(starts[front] - (np.cumsum(lengths) - lengths), lengths)
        front = np.unique(heads[offsets + np.arange(len(offsets))])
        front = front[~seen[front]]
        seen[front] = True
    return seen
