"""Pieces: what the tasks of one stage leave for those of the next, one file for each task.

    narrow-000000.arrow   batches of bucket 0, then of bucket 1, ...      and what the task counted
    narrow-000001.arrow

A task of the next stage reads the batches of its own key out of every file. A file is whole or
absent, so that it says that its task is done: that is the ledger of a run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.disk.hidden import machine
from prefmill.disk.stores import Store

# A network or a slow disk is worth the compression, this machine's own memory is not.
_SHARED, _OWN = (pa.ipc.IpcWriteOptions(compression=each) for each in ("lz4", None))
_BOOT = "boot"


@dataclass(frozen=True)
class Piece:
    """Rows with one key."""

    key: int
    rows: pa.Table


@dataclass(frozen=True)
class Done:
    """What a task leaves: pieces by key, all of one schema, and what it has to say, as JSON.

    `beside` are pieces with another schema, under the name of a stage of their own.
    """

    pieces: Sequence[Piece] = ()
    note: Mapping[str, Any] = field(default_factory=dict)
    schema: pa.Schema | None = None
    beside: Mapping[str, Sequence[Piece]] = field(default_factory=dict)


class Readable(Protocol):
    """Pieces that a task can read."""

    def read(
        self, stage: str, tasks: Iterable[int], keys: Collection[int]
    ) -> Iterator[pa.RecordBatch]:
        """The batches of these keys of each of these tasks, in their order."""
        ...


class Pieces(Readable, Protocol):
    """The pieces of a run, as its driver has them."""

    def put(self, stage: str, number: int, done: Done) -> None:
        """Keep what a task did."""
        ...

    def done(self, stage: str) -> dict[int, Mapping[str, Any]]:
        """The notes of the tasks that are done, by number."""
        ...

    def keys(self, stage: str, tasks: Iterable[int]) -> set[int]:
        """The keys of which these tasks left pieces."""
        ...

    def schema(self, stage: str, number: int) -> pa.Schema:
        """The columns of a task's pieces."""
        ...

    def forget(self, stage: str) -> None:
        """Remove a stage's pieces."""
        ...


@dataclass(frozen=True)
class Shelf:
    """The files of one run's tasks on storage that all of its machines see.

    `own`: that is one machine, so files need not outlive it: they are neither flushed nor packed.
    """

    store: Store
    own: bool = False

    def begin(self) -> None:
        """Forget what was left by a machine that has started anew since."""
        if not self.own:
            return
        boot = machine()[0]
        try:
            before = self.store.get_text(_BOOT)
        except FileNotFoundError:
            before = ""
        if before != boot:
            self.forget("")
            self.store.put_text(_BOOT, boot)

    def put(self, stage: str, number: int, done: Done) -> None:
        """Keep what a task did; its file comes last, and says that it is done."""
        for name, pieces in done.beside.items():
            self.put(name, number, Done(pieces))
        places: dict[int, list[int]] = {}
        batches: list[pa.RecordBatch] = []
        for piece in done.pieces:
            for batch in piece.rows.to_batches():
                places.setdefault(piece.key, []).append(len(batches))
                batches.append(batch)
        told = {"note": dict(done.note), "places": [[k, v] for k, v in places.items()]}
        schema = done.schema or (batches[0].schema if batches else pa.schema([]))
        schema = schema.with_metadata({b"told": json.dumps(told).encode()})

        def save(sink: Any) -> None:
            with pa.ipc.new_file(sink, schema, options=_OWN if self.own else _SHARED) as file:
                for batch in batches:
                    file.write_batch(batch.replace_schema_metadata(schema.metadata))

        self.store.put(_name(stage, number), save, durable=not self.own)

    def done(self, stage: str) -> dict[int, Mapping[str, Any]]:
        """The notes of the tasks that are done, by number."""
        notes = {}
        for name in self.store.names(f"{stage}-"):
            if name.endswith(".arrow"):
                number = int(name.removesuffix(".arrow").rpartition("-")[2])
                notes[number] = self.note(stage, number)
        return notes

    def note(self, stage: str, number: int) -> Mapping[str, Any]:
        """What a task had to say."""
        with self.store.open(_name(stage, number)) as source:
            note: Mapping[str, Any] = _told(pa.ipc.open_file(source))["note"]
        return note

    def read(
        self, stage: str, tasks: Iterable[int], keys: Collection[int]
    ) -> Iterator[pa.RecordBatch]:
        """The batches of these keys of each of these tasks, in their order."""
        for number in tasks:
            with self.store.open(_name(stage, number)) as source:
                file = pa.ipc.open_file(source)
                places = dict(_told(file)["places"])
                for key in keys:
                    for place in places.get(key, []):
                        yield file.get_batch(place)

    def keys(self, stage: str, tasks: Iterable[int]) -> set[int]:
        """The keys of which these tasks left pieces."""
        found: set[int] = set()
        for number in tasks:
            with self.store.open(_name(stage, number)) as source:
                found |= dict(_told(pa.ipc.open_file(source))["places"]).keys()
        return found

    def schema(self, stage: str, number: int) -> pa.Schema:
        """The columns of a task's pieces."""
        with self.store.open(_name(stage, number)) as source:
            return pa.ipc.open_file(source).schema.remove_metadata()

    def forget(self, stage: str) -> None:
        """Remove a stage's files, or those of all."""
        for name in list(self.store.names(f"{stage}-" if stage else "")):
            if name.endswith(".arrow"):
                self.store.delete(name)


def by_key(table: pa.Table, keys: npt.NDArray[np.integer]) -> list[Piece]:
    """The rows of `table` as a piece for each of `keys`, in the order of the table.

    >>> pieces = by_key(pa.table({"x": [1, 2, 3]}), np.array([1, 0, 1]))
    >>> [(piece.key, piece.rows["x"].to_pylist()) for piece in pieces]
    [(0, [2]), (1, [1, 3])]
    """
    if not len(keys):
        return []
    if keys.max() < 1 << 16:  # small ones are sorted by their digits
        keys = keys.astype(np.uint16)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.diff(ordered.astype(np.int64), prepend=-1))
    ends = [*starts[1:], len(ordered)]
    # One chunk: taking from many costs a search for every row.
    rows = table.combine_chunks()
    if len(starts) > 1:
        rows = rows.take(pa.array(order)).combine_chunks()
    return [
        Piece(int(ordered[start]), rows.slice(start, end - start))
        for start, end in zip(starts, ends, strict=True)
    ]


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch without what its file says of itself."""
    return batch.replace_schema_metadata(None)


def _name(stage: str, number: int) -> str:
    return f"{stage}-{number:06d}.arrow"


def _told(file: pa.ipc.RecordBatchFileReader) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(file.schema.metadata[b"told"])
    return told
