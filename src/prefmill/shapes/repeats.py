"""Records that say once more what an earlier one said: pairs that are there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from prefmill.connection import literal, quote
from prefmill.shapes.cells import Cell, Column

#: Why a record is left out that repeats an earlier one.
DUPLICATE = "duplicate_pair"


@dataclass(frozen=True)
class OrDuplicate:
    """The reason why a record is left out: `reason`, or that an earlier record has its keys.

    Only records without a reason count. The columns of keys stand in the stage before.
    """

    reason: Column
    keys: tuple[Column, ...]
    record: str

    def sql(self) -> str:
        """By a window over all records, which DuckDB spills where memory is short."""
        reason = self.reason.sql()
        keys = ", ".join([f"{reason} IS NULL", *(key.sql() for key in self.keys)])
        number = f"row_number() OVER (PARTITION BY {keys} ORDER BY {quote(self.record)})"
        return f"coalesce({reason}, CASE WHEN {number} > 1 THEN {literal(DUPLICATE)} END)"

    def polars(self) -> pl.Expr:
        """The same; frames are in the order of records."""
        reason = self.reason.polars()
        keys = [key.polars().alias(f"_{place}") for place, key in enumerate(self.keys)]
        first = pl.struct(reason.is_null().alias("_used"), *keys).is_first_distinct()
        return pl.coalesce(reason, pl.when(~first).then(pl.lit(DUPLICATE)))


def stages(reason: Cell, keys: Sequence[Cell], *, name: str, record: str) -> list[dict[str, Cell]]:
    """Two stages of helper columns that make the reason `name` with duplicates in it."""
    columns: dict[str, Cell] = {"_before": reason}
    columns |= {f"_same{place}": key for place, key in enumerate(keys)}
    names = tuple(Column(each) for each in columns)
    return [columns, {name: OrDuplicate(names[0], names[1:], record)}]
