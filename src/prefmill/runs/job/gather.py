"""Fetch the texts of ranked positions: one pass over the file, in bounded memory.

Rows of output (pairs or labels) have slots 0, 1, 2 ... in output order. Slots are cut into parts of
about equal bytes of text. The file is read once; each row that some slot needs goes to its part:
kept in memory when there is one part, else appended to a spill file. Then part after part is put
together, with every text copied at most once before it is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.connection import release, spilled_by
from prefmill.errors import AccountingError
from prefmill.room import room_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Where = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.integer]]

_BATCH_ROWS = 60_000


def finder(positions: npt.NDArray[np.int64], numbers: npt.NDArray[np.int32] | None = None) -> Where:
    """What finds the index in `positions` of each of some of them.

    `numbers` are of all positions there are, and overwritten; without them it is a search.
    """
    if numbers is None:
        order = np.argsort(positions)
        ordered = positions[order]

        def find(wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
            places = np.searchsorted(ordered, wanted)
            # A text that was not gathered would be another row's.
            reached = places.clip(max=len(ordered) - 1)
            if len(wanted) and not np.array_equal(ordered[reached], wanted):
                raise AccountingError(
                    "run: the text of a selected row was not gathered.",
                    hint="this is a bug of prefmill: please report it with the command you ran.",
                )
            return order[places]

        return find
    numbers[positions] = np.arange(len(positions), dtype=np.int32)
    return lambda wanted: numbers[wanted]


@dataclass(frozen=True)
class Fetch:
    """What to gather. `wanted` is a table of (slot, one column of positions for each of `sides`);
    `source` has `_pos` and `columns`.
    """

    con: duckdb.DuckDBPyConnection
    source: str
    columns: Sequence[str]
    wanted: str
    sides: Sequence[str]
    slots: int
    rows: int  # positions of the source
    text_bytes: int  # estimated, of all rows that are wanted
    part_bytes: int  # of text to hold at a time
    spill: Path
    of_records: bool = False  # rows are made of records

    def parts(self) -> Iterator[tuple[int, int, pl.DataFrame, Where]]:
        """For every part: its first and last slot (exclusive), its rows of `columns`, and what
        finds the rows of positions that it has.
        """
        count = min(max(1, -(-self.text_bytes // self.part_bytes)), 30_000)
        per_part = max(1, -(-self.slots // count))
        # One array for all parts, 4 bytes for every row of the source; where few rows are wanted, a
        # search takes less memory than that.
        wanted = self.slots * len(self.sides)
        numbers = np.empty(self.rows, dtype=np.int32) if wanted > self.rows // 2 else None
        frames = self._whole() if count == 1 else self._spilled(count, per_part)
        for part in range(count if self.slots else 0):
            frame = next(frames)
            where = finder(frame["_pos"].to_numpy(), numbers)
            # One chunk: gathering from many costs a search for every row. What it was copied from
            # is not kept.
            frame = frame.drop("_pos").rechunk()
            yield part * per_part, min((part + 1) * per_part, self.slots), frame, where

    def _batch_rows(self) -> int:
        """Rows to read at a time: a quarter of a part."""
        row_bytes = max(1, self.text_bytes // max(1, self.slots * len(self.sides)))
        return min(_BATCH_ROWS, max(1000, self.part_bytes // 4 // row_bytes))

    def _positions(self, extra: str = "") -> str:
        return " UNION ALL ".join(
            f"SELECT {side} AS _pos{extra} FROM {self.wanted}" for side in self.sides
        )

    def _whole(self) -> Iterator[pl.DataFrame]:
        columns = ", ".join(["_pos", *self.columns])
        query = f"SELECT {columns} FROM {self.source} WHERE _pos IN ({self._positions()})"
        yield pl.DataFrame(
            pa.Table.from_batches(list(self.con.sql(query).to_arrow_reader(self._batch_rows())))
        )

    def _spilled(self, count: int, per_part: int) -> Iterator[pl.DataFrame]:
        """The rows of each part by way of one Arrow IPC file: every batch read is cut by part, and
        each cut is a batch of the file.
        """
        positions = self._positions(f", (slot // {per_part})::SMALLINT AS _part")
        self.con.execute(f"CREATE OR REPLACE TABLE _need AS SELECT DISTINCT * FROM ({positions})")
        columns = ", ".join(["_part", "_pos", *self.columns])
        query = f"SELECT {columns} FROM {self.source} JOIN _need USING (_pos)"
        cuts: list[list[int]] = [[] for _ in range(count)]
        # Of lists that become rows the optimizer guesses few, and would build on their texts:
        # twice the time. What is needed is the smaller side.
        if self.of_records:
            self.con.execute("SET disabled_optimizers = 'build_side_probe_side'")
        reader = self.con.sql(query).to_arrow_reader(self._batch_rows())
        written = told = 0
        room = room_of(self.spill)
        schema = pa.schema(list(reader.schema)[1:])
        with pa.OSFile(str(self.spill), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            for batch in reader:
                part_of = batch.column(0).to_numpy()
                order = np.argsort(part_of, kind="stable")
                bounds = np.searchsorted(part_of, np.arange(count + 1), sorter=order)
                rows = pa.RecordBatch.from_arrays(batch.columns[1:], schema=schema).take(
                    pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)])
                )
                for part in np.flatnonzero(np.diff(bounds)):
                    file.write_batch(rows.slice(bounds[part], bounds[part + 1] - bounds[part]))
                    cuts[part].append(written)
                    written += 1
                if room is not None:
                    room.take(sink.tell() - told, spilled=spilled_by(self.con))
                    told = sink.tell()
        self.con.execute("RESET disabled_optimizers")
        self.con.execute("DROP TABLE _need")
        release(self.con)
        pa.default_memory_pool().release_unused()
        # Read, not mapped: pages of a mapped file would count as memory of ours.
        with pa.OSFile(str(self.spill), "rb") as stored:
            spilled = pa.ipc.open_file(stored)
            for of_part in cuts:
                yield pl.DataFrame(
                    pa.Table.from_batches([spilled.get_batch(i) for i in of_part], schema=schema)
                )
