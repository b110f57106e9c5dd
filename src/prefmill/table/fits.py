"""Which columns can hold a role: by their types, and by a hundred values where they are at hand.

A role is found by its name, and a name can mislead: `feedback` is a score in one file and a
critique in the next. A rule here says no only where the type or every value says no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from prefmill.table.json_values import without_marks
from prefmill.table.numbers import number
from prefmill.table.roles import Fits

_HEAD = 100


def fits_frame(frame: pl.DataFrame) -> Fits:
    """Which columns of `frame` can hold a role.

    >>> columns = {"feedback": ["Well said."], "rating": ["4"], "question_id": ["17"]}
    >>> fits = fits_frame(pl.DataFrame(columns))
    >>> fits("score", "feedback"), fits("score", "rating"), fits("prompt", "question_id")
    (False, True, False)
    """
    return _fits(lambda name: frame[name].head(_HEAD) if name in frame.columns else None)


def fits_schema(schema: pl.Schema) -> Fits:
    """Which columns of `schema` can hold a role; there are no values to look at."""
    return _fits(lambda name: pl.Series(name, dtype=schema[name]) if name in schema else None)


def fits_table(table: pa.Table) -> Fits:
    """Which columns of the Arrow table `table` can hold a role."""

    def head(name: str) -> pl.Series | None:
        if name not in table.column_names:
            return None
        first = without_marks(table.select([name]).slice(0, _HEAD))
        return pl.DataFrame(pl.from_arrow(first))[name]

    return _fits(head)


def fits_files(files: Sequence[str]) -> Fits:
    """Which columns of these Parquet files can hold a role; of hive folders nothing is known."""

    def head(name: str) -> pl.Series | None:
        for file in files:
            if name in pl.read_parquet_schema(file):
                scan = pl.scan_parquet(file, glob=False, hive_partitioning=False)
                return scan.select(cs.by_name(name)).head(_HEAD).collect()[name]
        return None

    return _fits(head)


def _fits(head: Callable[[str], pl.Series | None]) -> Fits:
    def fits(role: str, name: str) -> bool | None:
        values = head(name)
        if values is None or values.dtype == pl.Null:
            return None
        dtype = values.dtype
        text = dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum)
        if role in ("prompt", "completion"):
            messages = isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
            # An answer can be a number; a hundred prompts that are numbers are ids.
            return messages or (text and not (role == "prompt" and _numbers(values) == "all"))
        if role == "score":
            if not text:
                return dtype.is_numeric() or dtype == pl.Boolean
            return {"none": False, "unknown": None}.get(_numbers(values), True)
        return None

    return fits


def _numbers(values: pl.Series) -> str:
    """How many of `values` spell numbers: `all`, `some`, `none`; `unknown` where there are none."""
    values = values.drop_nulls()
    if not values.len():
        return "unknown"
    count = values.to_frame("value").select(number(pl.col("value"), values.dtype).count()).item()
    if count == values.len():
        return "all"
    return "some" if count else "none"
