"""The output of an incremental run: rows with their ids, in one file or in parts.

pairs.parquet        one file, written anew, in the order of a full run
pairs/part-*.parquet parts in that order; those without a changed row are linked, not written
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq

from prefmill.connection import literal, quote
from prefmill.disk.folders import MARK
from prefmill.disk.whole import linked
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument
from prefmill.runs.cluster.parts_out import PartsOut
from prefmill.runs.incremental.rows import twins
from prefmill.runs.incremental.state import OutputPart, fresh
from prefmill.runs.job.job import Job
from prefmill.runs.job.order import numbers
from prefmill.writers.sinks import Sink, writing

#: The column of the id.
ID = "pair_id"
_BATCH = 20_000

#: Rows of output, and the class and the order of each.
Rows = tuple[pl.DataFrame, pl.DataFrame]


def with_ids(
    job: Job,
    ids: duckdb.DuckDBPyConnection,
    index: str,
    lay_out: Callable[[pl.DataFrame], pl.DataFrame],
) -> Iterator[Rows]:
    """The output of `job`, laid out, with ids, and the class and the numbers of order of each row.

    `index` is a relation of pos, class and text of every row that the job reads; `ids` a connection
    whose rows keep their order. Numbers of order come where the job's slots have them.
    """
    job.rank()
    sides = list(job.output.texts.values())
    twins(job.con, index)
    names = ", ".join(f"coalesce(t{n}.twin, 0) AS _twin{n}" for n in range(len(sides)))
    joins = " ".join(
        f"LEFT JOIN twins AS t{n} ON t{n}.pos = s.{side}" for n, side in enumerate(sides)
    )
    job.con.execute("SET preserve_insertion_order = true")
    job.con.execute(
        f"CREATE OR REPLACE TABLE tracked AS SELECT s.slot, i.class, {names} FROM slots AS s"
        f" JOIN ({index}) AS i ON i.pos = s.{sides[0]} {joins} ORDER BY s.slot"
    )
    job.con.execute("SET preserve_insertion_order = false")
    texts = _texts(job)
    listed = [quote(name) for name in texts] + [f"_twin{n}" for n in range(len(sides))]
    if len(sides) == 1:
        listed.insert(2, "NULL::VARCHAR")
    key = ", key := class" if job.roles.group else ""
    call = f"SELECT pair_id({', '.join(listed)}{key}) AS {ID} FROM _rows"
    install_used(ids, [call])
    unwritten = job.assembly.unwritten
    for frame, slots in job.frames_and_slots():
        if not slots.height:
            continue
        first, last = slots["slot"][0], slots["slot"][-1]
        known = job.con.cursor().sql(f"SELECT * FROM tracked WHERE slot BETWEEN {first} AND {last}")
        told = pl.DataFrame(known.to_arrow_table())
        order = [name for name in numbers(job.output.order) if name in slots.columns]
        keys = slots.select("slot", *order).join(told, on="slot", how="left", maintain_order="left")
        marks = keys.select("class", *(f"_twin{n}" for n in range(len(sides))))
        ids.register("_rows", pl.concat([frame.select(texts), marks], how="horizontal").to_arrow())
        named = pl.DataFrame(ids.sql(call).to_arrow_table())[ID].cast(pl.String)
        ids.unregister("_rows")
        out = lay_out(frame.drop(unwritten)).with_columns(named)
        yield out, keys.select("class", *order)


def refuse_taken(columns: Collection[str]) -> None:
    """Raise `BadArgument` where a column of the output has the name of the id."""
    if ID in columns:
        raise BadArgument(f"run: a column {ID!r} is there already.", hint="rename it.")


def refuse_two_rows(format: str, rows_are: str) -> None:
    """Raise `BadArgument` for a layout whose rows cannot have an id each."""
    if format == "kto" and rows_are == "pairs":
        raise BadArgument(
            "run: 'kto' makes two rows of a pair, and a row has one id.",
            hint="prefmill unpair gives labels.",
        )


def _texts(job: Job) -> list[str]:
    if job.assembly.whole_rows:
        return [job.roles.prompt, job.roles.completion]
    return ["prompt", *job.output.texts]


class Writer:
    """Writes rows to the parts of an output, and the class of each row to the state.

    staged  the file, or the folder of parts, that will be published
    home    where the files of the state are made
    """

    def __init__(
        self,
        staged: Path,
        out: PartsOut | None,
        make: Callable[[Path], Sink],
        rows: int,
        home: Path,
    ) -> None:
        self.staged, self.out, self.home = staged, out, home
        self._make, self._most = make, rows
        self.parts: list[OutputPart] = []
        #: Of each part that was not written the file of the old output that it is.
        self.linked: dict[int, str] = {}
        self._sink: Sink | None = None
        self._keys: list[pl.DataFrame] = []
        self._rows = 0
        if out is not None:
            staged.mkdir()

    def _name(self) -> str:
        return self.out.named(len(self.parts)) if self.out else self.staged.name

    def path(self, name: str) -> Path:
        """Where a part is made."""
        return self.staged / name if self.out else self.staged

    def write(self, rows: Rows) -> None:
        """Write rows after those that are there."""
        frame, keys = rows
        while frame.height:
            room = self._most - self._rows if self.out else frame.height
            self._add(frame.head(room), keys.head(room))
            frame, keys = frame.slice(room), keys.slice(room)
            if self.out and self._rows >= self._most:
                self.cut()

    def _add(self, frame: pl.DataFrame, keys: pl.DataFrame) -> None:
        path = self.path(self._name())
        with writing(path):
            if self._sink is None:
                self._sink = self._make(path)
            self._sink.write(frame)
        self._keys.append(keys)
        self._rows += frame.height

    def cut(self) -> None:
        """End the part; what comes next is in another one."""
        if self._sink is None:
            return
        name, slots = self._name(), fresh("slots")
        with writing(self.path(name)):
            self._sink.close()
        self._sink = None
        pl.concat(self._keys).write_parquet(self.home / slots, compression="lz4")
        self.parts.append(OutputPart(name, self._rows, slots))
        self._keys, self._rows = [], 0

    def link(self, old: Path, part: OutputPart, keys: pl.DataFrame | None) -> None:
        """Take a part of the old output as it is, after what is written.

        `keys` are its numbers of order, where they changed.
        """
        self.cut()
        name, slots = self._name(), part.slots
        linked(old, self.path(name))
        if keys is not None:
            slots = fresh("slots")
            keys.write_parquet(self.home / slots, compression="lz4")
        self.linked[len(self.parts)] = old.name
        self.parts.append(OutputPart(name, part.rows, slots))

    def close(self, empty: tuple[pl.DataFrame, pl.DataFrame]) -> None:
        """All is written. An output without rows is a file without rows."""
        self.cut()
        if not self.parts:
            self._add(*empty)
            self.cut()
        if self.out:
            told = {"name": self.out.name, "parts": len(self.parts)}
            (self.staged / MARK).write_text(json.dumps(told), encoding="utf-8")

    def abort(self) -> None:
        """Nothing comes of it."""
        if self._sink is not None:
            with suppress(OSError):
                self._sink.abort()

    @contextmanager
    def closing(self) -> Iterator[Writer]:
        """Open files do not outlive an error."""
        try:
            yield self
        finally:
            self.abort()


def batches(path: Path, schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """The rows of a file of output, in order."""
    scan = pl.scan_parquet(path, glob=False)
    if scan.select(list(schema)).collect_schema() == schema:
        # Polars decodes into its own layout; Arrow's would have to be copied.
        first = 0
        for rows in _groups(path):
            yield scan.select(list(schema)).slice(first, rows).collect()
            first += rows
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=list(schema)):
            frame = pl.DataFrame(batch)
            yield frame.cast(dict(schema)) if frame.schema != schema else frame  # type: ignore[arg-type]


def _groups(path: Path) -> list[int]:
    """How many rows each row group has."""
    told = pq.read_metadata(path)
    return [told.row_group(number).num_rows for number in range(told.num_row_groups)]


def sources(paths: Sequence[Path]) -> str:
    """Files of output as one relation."""
    listed: list[Any] = [literal(str(path)) for path in paths]
    return f"read_parquet([{', '.join(listed)}], union_by_name = true, hive_partitioning = false)"
