"""Numbers as scores mean them, as Polars expressions; `sql/cells/` has the same macros."""

from __future__ import annotations

from typing import Literal

import polars as pl

from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text, is_text

_SPACE = " \t\n\r\x0b\x0c"
_DIGITS = r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?"
_NUMBER = rf"^(?i)[ \t-\r]*[+-]?({_DIGITS}|nan|inf|infinity)[ \t-\r]*$"


def number(score: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The number that a score of type `dtype` means (Float64), null if it means none."""
    # JSON text holds booleans and numbers in one column, or numbers that no other type holds.
    if is_json_text(dtype):
        spelled = score.struct.field(JSON_FIELD).replace({"true": "1", "false": "0"})
        score, dtype = spelled.str.strip_chars('"'), pl.String()
    if dtype == pl.Null or not is_text(dtype):
        return score.cast(pl.Float64, strict=False)
    text = score.cast(pl.String)
    stripped = text.str.strip_chars(_SPACE)
    is_nan = stripped.str.contains("(?i)nan")
    value = pl.when(is_nan).then(float("nan")).otherwise(stripped.cast(pl.Float64, strict=False))
    lowered = stripped.str.to_lowercase()
    spells_number = pl.when(text.str.contains(_NUMBER)).then(value)
    return spells_number.when(lowered == "true").then(1.0).when(lowered == "false").then(0.0)


def rounded(value: pl.Expr) -> pl.Expr:
    """`value` to 9 decimals, half away from zero; the why is in `sql/cells/pref_round.sql`."""
    away: Literal["half_away_from_zero"] = "half_away_from_zero"
    whole = (value * 1e9).round(3, mode=away).round(0, mode=away)
    # Polars divides by a constant by multiplying with its reciprocal; the last rounding takes off
    # what that adds.
    return pl.when(value.abs() < 4e6).then((whole / 1e9).round(9, mode=away)).otherwise(value)


def plain_zero(value: pl.Expr) -> pl.Expr:
    """`value` with 0.0 for -0.0, so that zero has one sign in ranks and in what is written.

    Polars takes `+ 0.0` for nothing to do, and leaves -0.0.

    >>> pl.select(plain_zero(pl.lit(pl.Series([-0.0, 1.0])))).to_series().to_list()
    [0.0, 1.0]
    """
    return pl.when(value == 0).then(0.0).otherwise(value)
