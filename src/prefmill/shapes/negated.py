"""Scores of which lower is better, turned round: rows say what they mean wherever they go."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from prefmill.shapes.cells import Cell
from prefmill.shapes.conditions import folded_sql, number_sql
from prefmill.table.messages import is_text
from prefmill.table.numbers import number

_ZERO = "0.0::DOUBLE"


@dataclass(frozen=True)
class Negated:
    """The negated number of a score. A text that is no number stays, so that it is told as it is.

    Zero minus the number: a minus alone makes -0.0 of 0.
    """

    value: Cell
    dtype: pl.DataType | None

    @property
    def _is_text(self) -> bool:
        return self.dtype is None or is_text(self.dtype)

    def sql(self) -> str:
        """A number, or a text of one."""
        value = self.value.sql()
        spelled = number_sql(value, self.dtype)
        if not self._is_text:
            return f"({_ZERO} - {spelled})"
        folded = folded_sql(value)
        return (
            f"CASE WHEN ({spelled}) IS NOT NULL THEN ({_ZERO} - ({spelled}))::VARCHAR"
            f" WHEN {folded} = 'true' THEN '-1' WHEN {folded} = 'false' THEN '0' ELSE {value} END"
        )

    def polars(self) -> pl.Expr:
        """A number, or a text of one."""
        value = self.value.polars()
        if self.dtype is None or not self._is_text:
            return 0.0 - value.cast(pl.Float64)
        spelled = number(value, self.dtype)
        is_number = spelled.is_not_null() & spelled.is_not_nan()
        negated = (0.0 - spelled).cast(pl.String)
        return pl.when(is_number).then(negated).otherwise(value.cast(pl.String))
