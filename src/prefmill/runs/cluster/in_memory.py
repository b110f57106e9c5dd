"""A shuffle through the memory of a Ray cluster: no file between stages.

Each piece is an object that a task returned, so Ray makes a lost one again by running its task
again. It is the quick way while data fit; the driver's death is the end of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from prefmill.progress import peak_rss_mb
from prefmill.runs.cluster.executor import Call, Note, Stage
from prefmill.runs.cluster.on_ray import RayTasks
from prefmill.runs.cluster.pieces import Done
from prefmill.runs.cluster.work import Work

#: Where a piece comes from: its stage, task and key.
Origin = tuple[str, int, int]


@dataclass(frozen=True)
class Given:
    """The pieces that one task reads, which came with it."""

    pieces: Mapping[Origin, pa.Table | None]

    def read(
        self, stage: str, tasks: Iterable[int], keys: Collection[int]
    ) -> Iterator[pa.RecordBatch]:
        """As `Shelf.read`."""
        for number in tasks:
            for key in keys:
                rows = self.pieces.get((stage, number, key))
                yield from rows.to_batches() if rows is not None else ()


NOTHING = Given({})


def task_in_memory(
    told: tuple[Work, Call], number: int, keys: int, origins: list[Origin], *rows: pa.Table | None
) -> Any:
    """One task: its note, its pieces with negative keys and which keys it deals; then these."""
    work, call = told
    given = Given(dict(zip(origins, rows, strict=True)))
    done = call(replace(work, shelf=given), number)
    pieces = [*done.pieces, *(piece for each in done.beside.values() for piece in each)]
    schema = done.schema
    by_key: dict[int, list[pa.Table]] = {}
    for piece in pieces:  # a task may leave several of one key
        by_key.setdefault(piece.key, []).append(piece.rows)
    rows_of = {key: pa.concat_tables(tables) for key, tables in by_key.items()}
    own = {key: table for key, table in rows_of.items() if key < 0}
    dealt = {key: table for key, table in rows_of.items() if key >= 0}
    head = ({**done.note, "rss_mb": peak_rss_mb()}, own, schema, frozenset(dealt))
    # One return value is the value itself, several are a list.
    return [head, *(dealt.get(key) for key in range(keys))] if keys else head


@dataclass
class MemoryShelf:
    """The objects of a run by where they come from; the driver's own pieces are here as well."""

    got: Callable[[Any], Any]  #: the value of an object
    objects: dict[Origin, Any] = field(default_factory=dict)
    own: dict[Origin, pa.Table] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    dealt: dict[tuple[str, int], frozenset[int]] = field(default_factory=dict)

    def done(self, stage: str) -> dict[int, Mapping[str, Any]]:
        """Nothing: what is in memory does not outlive its driver."""
        return {}

    def put(self, stage: str, number: int, done: Done) -> None:
        """Keep pieces that the driver made."""
        by_key: dict[int, list[pa.Table]] = {}
        for piece in done.pieces:
            by_key.setdefault(piece.key, []).append(piece.rows)
        for key, tables in by_key.items():
            self.own[stage, number, key] = pa.concat_tables(tables)

    def read(
        self, stage: str, tasks: Iterable[int], keys: Collection[int]
    ) -> Iterator[pa.RecordBatch]:
        """As `Shelf.read`."""
        for number in tasks:
            for key in keys:
                origin = (stage, number, key)
                rows = self.own.get(origin)
                if rows is None and origin in self.objects:
                    rows = self.got(self.objects[origin])
                yield from rows.to_batches() if rows is not None else ()

    def keys(self, stage: str, tasks: Iterable[int]) -> set[int]:
        """The keys of which these tasks, or the driver, left pieces."""
        numbers = set(tasks)
        own = {key for name, number, key in self.own if name == stage and number in numbers}
        return own.union(*(self.dealt.get((stage, number), ()) for number in numbers))

    def schema(self, stage: str, number: int) -> pa.Schema:
        """The columns of a stage's pieces."""
        return self.schemas[stage]

    def forget(self, stage: str) -> None:
        """Let go of a stage's pieces."""
        for held in (self.objects, self.own):
            for origin in [each for each in held if each[0] == stage]:
                del held[origin]


@dataclass
class MemoryTasks(RayTasks):
    """Runs tasks whose pieces stay in the cluster's memory, on the shelf of its driver."""

    shelf: MemoryShelf = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shelf = MemoryShelf(self.got)

    def _remote(self, work: Work, stage: Stage) -> Callable[[int], Any]:
        ray, keys = self.session.ray, stage.deals
        options = {"num_returns": 1 + keys, **self._options(stage)}
        remote = ray.remote(task_in_memory).options(**options)
        told = ray.put((replace(work, shelf=NOTHING), stage.call))

        def submit(number: int) -> Any:
            origins, objects = [], []
            for name, tasks, wanted in stage.reads(number):
                for origin in ((name, task, key) for task in tasks for key in wanted):
                    held = self.shelf.objects.get(origin)
                    if held is None and origin in self.shelf.own:
                        held = ray.put(self.shelf.own[origin])
                    if held is not None:
                        origins.append(origin)
                        objects.append(held)
            made = remote.remote(told, number, keys, origins, *objects)
            head, *pieces = made if keys else [made]
            for key, piece in enumerate(pieces):
                self.shelf.objects[stage.dealt_as or stage.name, number, key] = piece
            return head

        return submit

    def _told(self, stage: Stage, number: int, answer: Any) -> Note:
        note, own, schema, dealt = answer
        self.shelf.dealt[stage.dealt_as or stage.name, number] = dealt
        self.shelf.own |= {(stage.name, number, key): rows for key, rows in own.items()}
        if schema is not None:
            self.shelf.schemas[stage.name] = schema
        told: Note = note
        return told
