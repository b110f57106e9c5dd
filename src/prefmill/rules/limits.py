"""Thresholds inside a lazy query: numbers, or what suits the scores of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from prefmill.table.thresholds import NAMES, Bound, Quantile, Scale, Scores, settled, waits

_COLUMNS = {name: f"_{name}" for name in NAMES}


class Bounds(NamedTuple):
    """chosen_min and rejected_below as expressions; None is no bound."""

    high: pl.Expr | None
    low: pl.Expr | None


def bounded(
    rows: pl.LazyFrame,
    scores: str,
    what: str,
    chosen_min: Bound,
    rejected_below: Bound,
) -> tuple[pl.LazyFrame, Bounds]:
    """`rows` and the thresholds for them.

    Thresholds that wait for the scores are further columns, the same in every row: the column
    `scores` (numbers, or lists of them) of all rows decides. `what` are "pairs" or "unpaired".
    """
    values = dict(zip(NAMES, (chosen_min, rejected_below), strict=True))
    if not limit_columns(chosen_min, rejected_below):
        fixed = (None if value is None else pl.lit(value, pl.Float64) for value in values.values())
        return rows, Bounds(*fixed)
    limits = pl.Struct(dict.fromkeys(_COLUMNS.values(), pl.Float64()))

    def decide(column: pl.Series, **_: Any) -> pl.Series:  # Polars tells it the type again
        numbers = column.explode() if isinstance(column.dtype, pl.List) else column
        found = settled(what, chosen_min, rejected_below, scores_in(numbers))
        return pl.Series([dict(zip(_COLUMNS.values(), found, strict=True))], dtype=limits)

    decided = pl.col(scores).map_batches(decide, return_dtype=limits, returns_scalar=True)
    columns = (None if value is None else pl.col(_COLUMNS[name]) for name, value in values.items())
    return rows.with_columns(_limits=decided).unnest("_limits"), Bounds(*columns)


def limit_columns(chosen_min: Bound, rejected_below: Bound) -> list[str]:
    """The columns that `bounded` adds."""
    return list(_COLUMNS.values()) if waits(chosen_min) or waits(rejected_below) else []


def scale_of(scores: pl.Series) -> Scale:
    """The smallest and the largest of `scores`."""
    return Scale(scores.min(), scores.max())  # type: ignore[arg-type]


def scores_in(scores: pl.Series) -> Scores:
    """What thresholds ask of `scores`."""

    def only(some: Sequence[float]) -> bool:
        return bool(scores.is_in(list(some)).all())

    def at(quantile: Quantile) -> float:
        return float(scores.sort()[quantile.place(scores.len()) - 1])

    return Scores(scale_of(scores), only, at)
