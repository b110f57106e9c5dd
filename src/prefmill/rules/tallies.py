"""Tallies of scores: what thresholds ask of all scores, from counts of parts, which add up.

A score has a 64-bit key, in the order of scores. A bin is all keys with one beginning. Scores are
few numbers, or lie in few hundred bins, so one look tells nearly everything. Where a bin holds
several scores, and one of these is asked for, a further look divides that bin: four looks at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.table.thresholds import Quantile, Scale, Scores

#: Bits of a key that one look tells apart.
_BITS = 16
_SIGN = np.uint64(1 << 63)
#: A row for each bin: its keys' beginning, how many scores it has, and the ends of these.
COLUMNS = {"bin": pl.Int64, "count": pl.Int64, "low": pl.Float64, "high": pl.Float64}


@dataclass(frozen=True)
class Look:
    """What one pass counts: keys without their last `shift` bits, only `within` coarser bins."""

    shift: int = 64 - _BITS
    within: tuple[int, ...] | None = None


class Waiting(Protocol):
    """A plan with thresholds that wait for the scores."""

    def settled(self, scores: Scores) -> Self:
        """The plan with numbers for them."""
        ...


_P = TypeVar("_P", bound=Waiting)


def tally(scores: pl.Series, look: Look) -> pl.DataFrame:
    """The bins of `scores` (finite, no nulls) that `look` asks for; the columns are `COLUMNS`.

    >>> tally(pl.Series([1.0, 5.0, 1.0]), Look()).select("count", "low", "high").rows()
    [(2, 1.0, 1.0), (1, 5.0, 5.0)]
    """
    values = np.ascontiguousarray(scores.cast(pl.Float64).to_numpy())
    keys = _keys(values)
    if look.within is not None:
        inside = np.isin(_begun(keys, look.shift + _BITS), np.array(look.within, np.int64))
        values, keys = values[inside], keys[inside]
    frame = pl.DataFrame({"bin": _begun(keys, look.shift), "score": values})
    return (
        frame.group_by("bin")
        .agg(
            count=pl.len().cast(pl.Int64),
            low=pl.col("score").min(),
            high=pl.col("score").max(),
        )
        .sort("low")
    )


def added(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The tally of all scores, of those of parts of them under one look."""
    every = pl.concat([pl.DataFrame(schema=COLUMNS), *parts])
    sums = {
        "count": pl.col("count").sum(),
        "low": pl.col("low").min(),
        "high": pl.col("high").max(),
    }
    return every.group_by("bin").agg(**sums).sort("low")


def settled_by(plan: _P, count: Callable[[Look], pl.DataFrame]) -> _P:
    """`plan` with numbers for its thresholds; `count` is `added` over all scores, for each look.

    Raises what `settled` of the plan raises. Cost: one pass over the scores; up to three further
    ones for quantiles of scores that are hardly ever equal.
    """
    look = Look()
    bins = _Bins.of(count(look), look)
    while True:
        try:
            return plan.settled(bins.scores())
        except _Deeper as deeper:
            bins = bins.divided(deeper.look, count(deeper.look))


class _Deeper(Exception):
    """A bin has to be divided before a question can be answered."""

    def __init__(self, bins: pl.DataFrame) -> None:
        coarsest = int(bins["shift"].max())  # type: ignore[arg-type]
        within = bins.filter(pl.col("shift") == coarsest)["bin"].to_list()
        self.look = Look(coarsest - _BITS, tuple(within))
        super().__init__(self.look)


@dataclass(frozen=True)
class _Bins:
    """The scores in bins of several sizes, in order; they do not overlap."""

    frame: pl.DataFrame

    @classmethod
    def of(cls, counted: pl.DataFrame, look: Look) -> _Bins:
        return cls(counted.with_columns(shift=pl.lit(look.shift, pl.Int64)))

    def divided(self, look: Look, counted: pl.DataFrame) -> _Bins:
        """The same with the bins of `look` divided into those that were counted."""
        assert look.within is not None
        coarse = pl.col("shift") == look.shift + _BITS
        old = coarse & pl.col("bin").is_in(list(look.within))
        parts = [self.frame.filter(~old), _Bins.of(counted, look).frame]
        return _Bins(pl.concat(parts).sort("low"))

    def scores(self) -> Scores:
        """What thresholds ask; an answer that needs more raises `_Deeper`."""
        frame = self.frame
        scale = Scale(frame["low"].min(), frame["high"].max())  # type: ignore[arg-type]
        return Scores(scale, self._only, self._at)

    def _only(self, some: Sequence[float]) -> bool:
        if not {*self.frame["low"], *self.frame["high"]} <= set(some):
            return False
        unclear = self.frame.filter(pl.col("low") != pl.col("high"))
        if unclear.height:
            raise _Deeper(unclear)
        return True

    def _at(self, quantile: Quantile) -> float:
        place = quantile.place(int(self.frame["count"].sum()))
        upto = self.frame["count"].cum_sum()
        bin_ = self.frame[int((upto < place).sum())]
        low, high = float(bin_["low"].item()), float(bin_["high"].item())
        if low != high:
            raise _Deeper(bin_)
        return low


def _keys(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Whole numbers in the order of `values`."""
    bits = values.view(np.uint64)
    return np.where(bits & _SIGN != 0, ~bits, bits | _SIGN)


def _begun(keys: npt.NDArray[np.uint64], shift: int) -> npt.NDArray[np.int64]:
    """Keys without their last bits; as signed numbers, since Spark has no others."""
    return (keys >> np.uint64(shift)).view(np.int64)
