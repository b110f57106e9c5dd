"""Shapes that are known without options."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from prefmill.errors import ColumnMissing
from prefmill.shapes.words import Rows

Reading = tuple[str, Rows]


def recognised(
    schema: pl.Schema, head: pl.DataFrame | None, named: Rows, *, score: bool, completion: bool
) -> list[Reading]:
    """The possible readings of a table."""
    return []


def choose(readings: Sequence[Reading], where: str) -> ColumnMissing:
    """The error where there are several."""
    lines = " or ".join(words.options() for _, words in readings[:2])
    return ColumnMissing(f"{where}: the records can be read in several ways.", hint=lines)
