"""Positions of rows whose table is in parts: whole numbers of a column, all different."""

from __future__ import annotations

import polars as pl

from prefmill.errors import BadInput

#: What the names of columns begin with that rows get on their way.
OURS = "__prefmill_"
#: The position of a row.
POSITION = f"{OURS}position"
#: So many rows one record can give, where records have numbers; and how many numbers there are.
_IN_RECORD, _RECORDS = 1 << 20, 1 << 43


def whole(number: pl.Series, position: str) -> pl.Series:
    """The column `position` as Int64; raises `BadInput` where a number is missing or too large.

    >>> whole(pl.Series([3, 1], dtype=pl.UInt8), "row").to_list()
    [3, 1]
    """
    if number.null_count():
        raise BadInput(
            f"parts: position {position!r} is null in {number.null_count()} rows of a part.",
            hint="name a column that numbers every row.",
        )
    try:
        return number.cast(pl.Int64)
    except pl.exceptions.InvalidOperationError:
        raise BadInput(
            f"parts: position {position!r} is beyond 63 bits; got {number.max()!r}."
        ) from None


def in_record(rows: pl.DataFrame, position: str) -> pl.Series:
    """The positions of rows of records, which have the number of their record as `position`.

    The rows of a record follow each other in their order. Raises `BadInput`.

    >>> in_record(pl.DataFrame({"record": [7, 7, 9]}), "record").to_list()
    [7340032, 7340033, 9437184]
    """
    number = whole(rows[position], position)
    place = rows.select(pl.int_range(pl.len(), dtype=pl.Int64).over(position).alias("place"))
    most = int(place["place"].max() or 0)  # type: ignore[arg-type]
    largest = int(number.abs().max() or 0)  # type: ignore[arg-type]
    if most >= _IN_RECORD or largest >= _RECORDS:
        raise BadInput(
            f"parts: a record gives at most {_IN_RECORD:,} rows, and its position is below"
            f" {_RECORDS:,}; got {most + 1:,} and {largest:,}."
        )
    return (number * _IN_RECORD + place["place"]).alias(POSITION)


def refuse_twice(number: pl.Series, position: str) -> None:
    """Raise `BadInput` where two rows have one position."""
    if number.n_unique() == number.len():
        return
    twice = number.filter(number.is_duplicated())[0]
    shown = f"; got {twice!r}" if number.name == position else ""
    raise BadInput(
        f"parts: position {position!r} is the same in several rows{shown}, expected a number of its"
        " own in each.",
        hint="name a column that is different in every row.",
    )
