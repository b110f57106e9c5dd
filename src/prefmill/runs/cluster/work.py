"""What workers are told of a run, and the connection of one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.connection import connect, share_of
from prefmill.disk.hidden import temporary
from prefmill.engines.steps import Program
from prefmill.runs.cluster.pieces import Readable
from prefmill.runs.cluster.splits import Records, Split
from prefmill.runs.job.assembly import Assembly


@dataclass(frozen=True)
class Work:
    """All that workers are told of a run; the same for every task.

    program    of the plan, with numbers for thresholds once they are known
    last_stage the largest stage of the input, where only its rows count
    raises     a row that cannot be used is an error
    texts_read steps compare completions, so these travel with the narrow rows
    waits      thresholds wait for the scores of all candidates
    texts      columns of scores that are no numbers
    carried    further columns of the input that travel along, as `_keep0`, `_keep1` ...
    numbered   the columns of narrow rows, once one split has been read
    large      buckets whose narrow rows are not held in memory
    """

    program: Program
    assembly: Assembly
    records: Records
    splits: tuple[Split, ...]
    buckets: int
    never_null: frozenset[str]
    scalars: Mapping[str, str]
    texts: tuple[str, ...]
    raises: bool
    waits: bool
    texts_read: bool
    shelf: Readable
    numbered: pa.Schema | None = None
    large: frozenset[int] = frozenset()
    carried: tuple[str, ...] = ()
    last_stage: int | None = None
    memory_bytes: int | None = None
    threads: int = 1
    temp_dir: str | None = None

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first position of each split, and the one after the last, shape (splits + 1,)."""
        return np.array(self.records.starts(self.splits), np.int64)

    @property
    def merged(self) -> bool:
        """Whether several rows can be one candidate."""
        return self.program.read.merged


@contextmanager
def opened(work: Work) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of one task."""
    # What a killed worker leaves names its owner, and goes with the next task on that machine.
    with temporary(work.temp_dir) as home:
        share = share_of(work.memory_bytes) if work.memory_bytes else None
        con = connect(
            temp_dir=home,
            reads=work.records.source.reads,
            memory_bytes=share,
            threads=work.threads,
            remote=work.records.remote,
            ordered=True,
        )
        with con:
            con.execute("SET arrow_large_buffer_size = true")
            yield con
