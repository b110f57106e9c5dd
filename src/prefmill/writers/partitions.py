"""A folder of Parquet in hive partitions: `column=value/part-00000.parquet`.

The columns stay in the files as well: readers that do not look at names of folders have them too.
Rows wait in memory until they are too many, then in one file next to the folder; partitions are
encoded one after the other at the end. So memory does not grow with rows or partitions.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from prefmill.errors import BadArgument
from prefmill.writers.hive import folder_name
from prefmill.writers.sinks import Sink, writing

#: Folders that one output may have.
MOST = 10_000
_FILE = "part-00000.parquet"


class PartitionsSink:
    """Frames in, in order; a file for each value of `columns`, with its rows in that order."""

    def __init__(
        self,
        folder: Path,
        schema: pl.Schema,
        columns: Sequence[str],
        make: Callable[[Path], Sink],
        room: int,
    ) -> None:
        self._folder, self._schema, self._columns = folder, schema, list(columns)
        self._make, self._room = make, room
        self._spill_path = folder.with_name(f"{folder.name}.rows")
        self._spill: BinaryIO | None = None
        #: Of each folder the frames that wait in memory, and where others are in the file.
        self._waiting: dict[str, list[pl.DataFrame]] = {}
        self._spilled: dict[str, list[tuple[int, int]]] = {}
        self._bytes = 0
        self._names: dict[tuple[Any, ...], str] = {}
        self._sink: Sink | None = None
        folder.mkdir()

    def write(self, frame: pl.DataFrame) -> None:
        parts = frame.partition_by(self._columns, as_dict=True, maintain_order=True)
        for values, rows in parts.items():
            name = self._names.get(values) or self._named(values)
            # A copy: a slice of a large frame would hold all of it.
            self._waiting.setdefault(name, []).append(rows)
            self._bytes += int(rows.estimated_size())
        if self._bytes > self._room:
            self._put_away()

    def _named(self, values: tuple[Any, ...]) -> str:
        if len(self._names) == MOST:
            raise BadArgument(
                f"write: more than {MOST:,} folders for the values of {self._columns}.",
                hint="partition by a column of fewer values.",
            )
        named = zip(self._columns, values, strict=True)
        name = "/".join(folder_name(column, value) for column, value in named)
        self._names[values] = name
        return name

    def _put_away(self) -> None:
        """Write what waits to the file."""
        if self._spill is None:
            self._spill = self._spill_path.open("w+b")
        for name, frames in self._waiting.items():
            start = self._spill.seek(0, os.SEEK_END)
            pl.concat(frames).write_ipc_stream(self._spill, compression="lz4")
            length = self._spill.seek(0, os.SEEK_END) - start
            self._spilled.setdefault(name, []).append((start, length))
        self._waiting, self._bytes = {}, 0

    def close(self) -> None:
        if not self._names:  # readers want a file
            self._write(self._folder / _FILE, [])
        for name in sorted(self._names.values()):
            home = self._folder / name
            home.mkdir(parents=True)
            self._write(home / _FILE, self._spilled.get(name, []), self._waiting.pop(name, ()))
        self.abort()

    def _write(
        self, path: Path, spilled: Sequence[tuple[int, int]], waiting: Sequence[pl.DataFrame] = ()
    ) -> None:
        with writing(path):
            self._sink = self._make(path)
            for start, length in spilled:
                assert self._spill is not None
                self._spill.seek(start)
                self._sink.write(pl.read_ipc_stream(io.BytesIO(self._spill.read(length))))
            for frame in waiting:
                self._sink.write(frame)
            self._sink.close()
            self._sink = None

    def abort(self) -> None:
        if self._sink is not None:
            self._sink.abort()
        if self._spill is not None:
            self._spill.close()
            self._spill = None
            self._spill_path.unlink(missing_ok=True)
