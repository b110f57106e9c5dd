"""What a function is given, as a Polars frame: the door of the functions that compute in memory.

Functions that write files take the same inputs through `prefmill.pools.stream.paths_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard
from warnings import warn

import polars as pl

from prefmill.forks import refuse_fork


def is_frame(data: object) -> TypeGuard[pl.LazyFrame | pl.DataFrame]:
    """Whether `data` is a frame of Polars."""
    return isinstance(data, pl.LazyFrame | pl.DataFrame)


def frame_of(
    data: Any,
    where: str,
    *,
    temp_dir: Any = None,
    tell: Callable[[str], object] = warn,
    **reading: Any,
) -> pl.LazyFrame | pl.DataFrame:
    """`data` as a frame: one of Polars as it is; files, and whatever `prefmill.run` takes, read at
    once.

    Args:
        where: who asks, for messages.
        temp_dir, reading: as `prefmill.readers.open_source` takes them.
        tell: what is told of the files (`Source.notes`), note by note.

    >>> import pyarrow as pa
    >>> frame_of(pa.table({"prompt": ["p"]}), "doc").columns
    ['prompt']
    """
    refuse_fork(where)
    if is_frame(data):
        return data
    from prefmill.disk.hidden import temporary
    from prefmill.pools.stream import paths_of
    from prefmill.readers import open_source

    with temporary(temp_dir) as home:
        source = open_source(paths_of(data, home), temp_dir=home, **reading)
        for note in source.notes:
            tell(note)
        return pl.concat(
            [pl.read_parquet(file, glob=False) for file in source.files], how="diagonal_relaxed"
        )
