"""The pairs that a cap draws of a prompt with very many answers, without making all of its pairs.

The draw takes the pairs with the smallest numbers mix(mix(h xor c) xor r). The mix can be undone,
so for a number and a rank c there is one r. Counting up from 0 gives the pairs in the order of the
draw; where few pairs stand it is less work to look at each of them, some at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.table.chance import mix32_array, unmixed32_array

_Numbers = npt.NDArray[np.int64]
_Scores = npt.NDArray[np.float64]
#: Numbers looked at together.
_TOGETHER = 1 << 20


@dataclass(frozen=True)
class Stands:
    """What decides whether a pair of ranks stands, as in `pairs.pairs`."""

    chosen_min: float | None
    rejected_below: float | None
    min_margin: float
    top_k: int | None
    bottom_k: int | None

    def rivals(self, scores: _Scores) -> _Numbers:
        """How many of the worst answers each answer stands against; `scores` are in rank order."""
        count = len(scores)
        # Scores ascend, so the answers that one may beat are the first ones.
        most = np.searchsorted(scores, scores, side="left")
        if self.rejected_below is not None:
            most = np.minimum(most, np.searchsorted(scores, self.rejected_below, side="left"))
        if self.bottom_k is not None:
            most = np.minimum(most, self.bottom_k)
        if self.chosen_min is not None:
            most[scores < self.chosen_min] = 0
        if self.top_k is not None:
            most[: max(0, count - self.top_k)] = 0
        return self._by_margin(scores, most)

    def _by_margin(self, scores: _Scores, most: _Numbers) -> _Numbers:
        """The last rank that is far enough below, by halves: the difference itself is compared."""
        low, high = np.zeros_like(most), most
        while np.any(low < high):
            middle = (low + high + 1) // 2
            fits = scores - scores[np.maximum(middle, 1) - 1] >= self.min_margin
            low = np.where(fits & (low < high), middle, low)
            high = np.where(~fits & (low < high), middle - 1, high)
        return low


def drawn_pairs(word: int, scores: _Scores, stands: Stands, cap: int) -> tuple[_Numbers, _Numbers]:
    """The ranks c and r of the `cap` standing pairs that are drawn, as if all had been made.

    `word` is the hash of the prompt. Costs at most about sqrt(cap * 2**32 * n) looks for n answers,
    in little memory.

    >>> stands = Stands(None, None, 0, None, None)
    >>> [each.tolist() for each in drawn_pairs(7, np.array([1.0, 2.0, 3.0]), stands, 9)]
    [[3, 2, 3], [1, 1, 2]]
    """
    rivals = stands.rivals(scores)
    (places,) = np.nonzero(rivals)
    chosen, most = places + 1, rivals[places]
    total = int(most.sum())
    starts = mix32_array((chosen ^ (word & 0xFFFFFFFF)).astype(np.uint64))
    if total <= max(_TOGETHER, cap) or total**2 <= cap * 2**32 * len(chosen):
        return _of_all(chosen, starts, most, cap)
    return _counting_up(chosen, starts, most, cap)


def _of_all(
    chosen: _Numbers, starts: npt.NDArray[np.uint64], most: _Numbers, cap: int
) -> tuple[_Numbers, _Numbers]:
    """The first ones of all pairs, some answers at a time."""
    kept = np.zeros((3, 0), dtype=np.int64)
    ends = np.cumsum(most)
    first = 0
    while first < len(chosen):
        before = ends[first] - most[first]
        last = max(first + 1, int(np.searchsorted(ends, before + _TOGETHER, side="right")))
        sizes = most[first:last]
        offsets = np.repeat(np.cumsum(sizes) - sizes, sizes)
        rejected = np.arange(len(offsets)) - offsets + 1
        words = np.repeat(starts[first:last], sizes) ^ rejected.astype(np.uint64)
        draws = mix32_array(words).astype(np.int64)
        some = np.stack([draws, np.repeat(chosen[first:last], sizes), rejected])
        if kept.shape[1] >= cap:
            some = some[:, draws <= kept[0, -1]]
        kept = np.concatenate([kept, some], axis=1)
        kept = kept[:, np.lexsort(kept[::-1])[:cap]]
        first = last
    return kept[1], kept[2]


def _counting_up(
    chosen: _Numbers, starts: npt.NDArray[np.uint64], most: _Numbers, cap: int
) -> tuple[_Numbers, _Numbers]:
    """The pairs whose number is 0, 1, 2 ..., until there are enough."""
    words, limits = starts.astype(np.uint32), most.astype(np.uint32)
    step = max(1, _TOGETHER // len(chosen))
    found: list[tuple[_Numbers, _Numbers]] = []
    held = number = 0
    while held < cap and number < 2**32:
        numbers = np.arange(number, min(number + step, 2**32), dtype=np.uint64)
        rejected = unmixed32_array(numbers).astype(np.uint32)[:, None] ^ words[None, :]
        # 0 is no rank; less 1 it is the largest number.
        rows, columns = np.nonzero(rejected - np.uint32(1) < limits)
        found.append((chosen[columns], rejected[rows, columns].astype(np.int64)))
        held, number = held + len(rows), number + step
    both = [np.concatenate(each)[:cap] for each in zip(*found, strict=True)]
    return both[0], both[1]


def pairs_frame(
    first: int, word: int, scores: pl.Series, positions: pl.Series, stands: Stands, cap: int
) -> pl.DataFrame:
    """The drawn pairs of one prompt: _first, _c, _r, positions and scores of both sides."""
    chosen, rejected = drawn_pairs(word, scores.to_numpy(), stands, cap)
    best, worst = pl.Series(chosen - 1, dtype=pl.Int64), pl.Series(rejected - 1, dtype=pl.Int64)
    return pl.DataFrame(
        {
            "_first": pl.Series([first], dtype=pl.Int64).new_from_index(0, len(chosen)),
            "_c": best + 1,
            "_r": worst + 1,
            "_chosen": positions.gather(best),
            "_rejected": positions.gather(worst),
            "_chosen_score": scores.gather(best),
            "_rejected_score": scores.gather(worst),
        }
    )
