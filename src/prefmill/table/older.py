"""What an older Polars of our range does otherwise, and how it gets the same answer.

Each function is the plain thing on the newest version. `docs/decisions/052-version-ranges.md` says
how these were found; `make test-oldest` runs every case on the oldest versions.
"""

from __future__ import annotations

import polars as pl

#: Polars 2.0: its two faults here are gone in 2.1.
_POLARS_2_0 = pl.__version__.startswith("2.0.")


def taken(lists: str, places: pl.Expr, kind: pl.DataType | type[pl.DataType]) -> pl.Expr:
    """The elements at `places` (a column of lists of Int64) of the column `lists`, of dtype `kind`.

    Over no rows Polars 2.0 makes them List(Null) in its in-memory engine, whatever its own schema
    says, and the next join refuses the key. It drops a strict cast as needless, and keeps this one.
    """
    elements = pl.col(lists).list.gather(places)
    if _POLARS_2_0:
        return elements.cast(pl.List(kind), strict=False)
    return elements


def estimable(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of `frame`, which may be a scan of a Parquet file without rows.

    Before a join with its own groups Polars 2.0 estimates them to be between 1 and 0, and panics.
    It makes no such estimate where a second, empty part follows.
    """
    if _POLARS_2_0:
        return pl.concat([frame, frame.clear()])
    return frame
