"""A pool and a scorer, as a run that goes on: its chunks, its key, and its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import IO, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.disk.targets import shown
from prefmill.errors import BadInput
from prefmill.pools.pool import Longs, Pool, open_pool
from prefmill.pools.sides import columns_out
from prefmill.pools.stream import CHUNK_ROWS, ahead
from prefmill.readers import Source
from prefmill.runs.resumable.chunks import (
    BEFORE,
    FIRST,
    Pace,
    Resumable,
    by_reason,
)
from prefmill.runs.resumable.devices import Done, guards_on, score_chunks, score_on_devices
from prefmill.runs.resumable.grown import earlier_scores, without
from prefmill.runs.resumable.score_report import ScoreReport
from prefmill.scoring.bad_rows import RowGuard
from prefmill.scoring.combining import FLAT
from prefmill.scoring.scorers import Staged
from prefmill.scoring.stream import score_names, score_types
from prefmill.table.roles import RoleNames

_SERVED = ("requests", "retries", "tokens_in", "tokens_out")
_COUNTS = (
    "tokens",
    "tokens_run",
    "duplicates",
    "truncated",
    "cut_by_template",
    "cached",
    "splits",
    *_SERVED,
)


@dataclass(kw_only=True)
class Scoring(Resumable[Staged, ScoreReport]):
    """One pool and one scorer."""

    command: ClassVar[str] = "score"
    reports: ClassVar[type] = ScoreReport
    part_name: ClassVar[Literal["scorer"]] = "scorer"

    inputs: Any
    roles: RoleNames
    score_column: str
    chunk_rows: int | None
    devices: tuple[str, ...]
    pool: Pool = field(init=False)
    names: list[str] = field(init=False)
    #: columns of the input whose names new scores take, and their names in the output
    renamed: dict[str, str] = field(init=False)
    #: positions and scores of rows that had been scored before
    earlier: pa.RecordBatch | None = field(init=False, default=None)
    #: how rows were run, as several devices tell it
    ways: dict[str, None] = field(init=False, default_factory=dict)

    def open(self, **reading: Any) -> None:
        """The pool, in whole prompts."""
        self.pool = open_pool(
            self.inputs,
            self.roles,
            self.home,
            chunk_rows=self.chunk_rows or CHUNK_ROWS,
            reads=self.part.reads,
            whole=self.part.compares is not False,
            in_place=True,  # every row and column stays
            **reading,
        )
        columns, self.renamed = list(self.pool.records.columns.names), {}
        if sides := self.pool.sides:
            scores = score_names(self.part, self.score_column, [])
            made = columns_out(columns, sides.names, scores, where="score")
            self.names, self.renamed = made
        else:
            self.names = score_names(self.part, self.score_column, columns)

    @property
    def asked_for(self) -> dict[str, Any]:
        """The roles and the column's name."""
        return {"rows": dict(self.roles), "score_column": self.score_column}

    @property
    def source(self) -> Source:
        """The files as they are."""
        return self.pool.records

    @property
    def _columns(self) -> pa.Schema:
        return self.pool.records.columns

    @property
    def _answers(self) -> int:
        """Answers of a row of the input, each with a score of its own."""
        return len(self.pool.sides.names) if self.pool.sides else 1

    @property
    def schema(self) -> pl.Schema:
        """The columns of the input, then those that are made."""
        types = score_types(self.part, pa.large_string())
        kinds = [kind for kind in types for _ in range(self._answers)]
        columns = pa.schema(
            [each.with_name(self.renamed.get(each.name, each.name)) for each in self._columns]
        )
        for name, kind in zip(self.names, kinds, strict=True):
            columns = columns.append(pa.field(name, kind))
        return pl.DataFrame(columns.empty_table()).schema

    def key(self) -> dict[str, Any]:
        """The content of the pool, its roles, and the columns that are made."""
        roles, sides = self.pool.roles, self.pool.sides
        completion = ",".join(sides.names) if sides else roles.completion
        return {
            "input": {"rows": self.pool.rows, "content": self.pool.identity},
            "roles": {"prompt": roles.prompt, "completion": completion},
            "columns": self.names,
        }

    def shape(self) -> dict[str, Any]:
        """Rows of a chunk; on a GPU as many as keep it busy."""
        rows = self.chunk_rows or CHUNK_ROWS
        tokens = None if self.chunk_rows else self.part.chunk_tokens
        if tokens:
            rows = self.pool.rows_of(tokens, self.home, least=CHUNK_ROWS)
        return {"chunk_rows": rows}

    def take_over(self) -> None:
        """Scores of rows that the output has, of a scorer that does not compare the whole pool."""
        names, answers = [*self.part.columns, *self.part.lists, *self.part.texts], self._answers
        types = score_types(self.part, pa.large_string())
        columns = [self.names[i * answers : (i + 1) * answers] for i in range(len(names))]
        earlier = earlier_scores(
            shown(self.target),
            self.pool,
            self.roles,
            list(zip(names, columns, types, strict=True)),
            self.home,
            renamed=self.renamed,
            **self.limits,
        )
        if not earlier.shared:
            self.ledger.refuse()
        batch = earlier.batch
        if self.part.over_pool:
            batch = batch.slice(0, 0)
            self.remarks.append("this scorer compares all rows of a pool: all are scored again.")

        def save(file: IO[bytes]) -> None:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)

        self.ledger.take_over(save)

    def leave_out(self, earlier: pa.RecordBatchFileReader) -> None:
        """Rows that have their scores."""
        self.earlier = earlier.get_batch(0)
        self.taken = {BEFORE: self.earlier.num_rows}
        self.pool = without(self.pool, self.earlier["position"].to_numpy(), self.home)

    def divide(self, shape: Mapping[str, Any]) -> None:
        """Chunks of about so many rows."""
        self.pool = self.pool.in_chunks(shape["chunk_rows"])

    @property
    def together(self) -> str | None:
        """The prompt, if all its rows stand together."""
        return self.pool.roles.prompt if self.pool.together and not self.pool.sides else None

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows of each chunk, shape (chunks,)."""
        return self.pool.sizes

    def work(self, missing: list[int]) -> None:
        """Score the chunks, on one device or several."""
        pace = Pace(self, missing, "rows", digits=0)
        started = time.perf_counter()

        def done(rows: int, tokens: int) -> None:
            pace.add(rows, tokens, time.perf_counter() - started)

        if self.crew is not None:
            self._work_on_workers(missing, done)
            self.seconds_model = time.perf_counter() - started
            return
        guard = RowGuard(self.part, self.on_bad_row)
        if len(self.devices) > 1:
            guards = guards_on(self.devices, guard)
            store = self.ledger.store
            self.ways = score_on_devices(self.pool, guards, missing, self.home, store, done)
            self.seconds_model = time.perf_counter() - started
        else:
            commit = self.ledger.write
            self.seconds_model = score_chunks(self.pool, guard, missing, self.home, commit, done)

    def _work_on_workers(self, missing: list[int], done: Done) -> None:
        pool, home = self.pool, self.home
        chunks = ahead(pool.chunks(missing, home), name="prefmill-read")

        def commit(number: int, columns: Mapping[str, pa.Array], counts: dict[str, int]) -> None:
            self.ledger.write(number, columns, counts)
            done(int(pool.sizes[number]), counts.get("tokens", 0))

        def place_of(number: int, row: int) -> str:
            return pool.name_of(int(pool.positions(number)[row]), home)

        numbered = ((chunk.number, chunk) for chunk in chunks)
        self.part.work(numbered, len(missing), commit, place_of)  # type: ignore[attr-defined]

    def rehearse(self, part: Staged, missing: list[int]) -> None:
        """Score the chunks with `part`, and keep nothing."""
        # Anew, so that what it learns of empty replies is forgotten.
        part = replace(part) if is_dataclass(part) else part
        guard = RowGuard(part, self.on_bad_row)
        score_chunks(self.pool, guard, missing, self.home, lambda *_: None)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows of the input, in their order, with the columns after theirs."""
        numbers, types = len(self.part.columns), score_types(self.part, pa.large_string())
        columns = [np.zeros(self.pool.rows) for _ in range(numbers)]
        nulls = np.ones(self.pool.rows, bool)
        # Lists and texts are kept as they come, and put into place at the end.
        others = types[numbers:]
        parts: list[list[pa.Array]] = [[] for _ in others]
        places: list[Longs] = []
        for positions, batch in self._scored():
            places.append(positions)
            nulls[positions] = np.asarray(batch.column(0).is_null())
            for column, array in zip(columns, batch.columns[:numbers], strict=True):
                column[positions] = array.fill_null(0.0).to_numpy()
            for part, kind, array in zip(parts, others, batch.columns[numbers:], strict=True):
                part.append(array.cast(kind))
        if self.part.over_pool:
            settled, counts = self.part.settled(
                dict(zip(self.part.columns, columns, strict=True)), nulls
            )
            columns = list(settled.values())
            self.counts |= counts
        made = [pa.array(column, mask=nulls) for column in columns]
        order = np.concatenate(places) if places else np.zeros(0, np.int64)
        made += [
            _in_place(order, self.pool.rows, *each) for each in zip(parts, others, strict=True)
        ]
        sides = [np.arange(side, self.pool.rows, self._answers) for side in range(self._answers)]
        if len(sides) > 1:
            made = [column.take(pa.array(side)) for column in made for side in sides]
        return self._with_columns(made)

    def _scored(self) -> Iterator[tuple[Longs, pa.RecordBatch]]:
        """Where rows stand in the input, and their scores: what was taken over, then the chunks."""
        if self.earlier is not None:
            columns = self.earlier.drop_columns("position")
            yield self.earlier["position"].to_numpy(), columns
        for number, batch in enumerate(self.chunks()):
            yield self.pool.positions(number), batch

    def _with_columns(self, made: Sequence[pa.Array]) -> Iterator[pl.DataFrame]:
        schema, start = self.schema, 0
        for batch in self.pool.all_rows(self.home):
            table = pa.table(batch)
            table = table.rename_columns([self.renamed.get(n, n) for n in table.column_names])
            for name, column in zip(self.names, made, strict=True):
                table = table.append_column(name, column.slice(start, batch.num_rows))
            start += batch.num_rows
            yield pl.DataFrame(table).cast(schema)
        expected = self.pool.rows // self._answers
        if start != expected:
            raise BadInput(
                f"score: the input changed while it was scored; got {start} rows,"
                f" expected {expected}."
            )

    def report(self, **common: Any) -> ScoreReport:
        """Account for every row."""
        pool, counts, part = self.pool, self.ledger.counts, self.part
        null = {"null_prompt": pool.null_prompts, "null_completion": pool.null_completions}
        null |= by_reason("null:", counts)
        null = {reason: rows for reason, rows in null.items() if rows}
        first_null = {
            reason: pool.name_of(row, self.home) for reason, row in by_reason(FIRST, counts).items()
        }
        counted: dict[str, Any] = {name: counts.get(name, 0) for name in _COUNTS}
        return ScoreReport(
            rows_in=pool.rows,
            rows_before=counts.get(BEFORE, 0),
            rows_scored=pool.rows - sum(null.values()),
            null=null,
            first_null=first_null,
            retried=by_reason("retry:", counts),
            flat=by_reason(FLAT, counts),
            reasons=by_reason("reason:", counts),
            cost=part.cost(counts | counted),
            way=part.way or "; ".join(self.ways),
            columns=tuple(self.names),
            notes=(*pool.records.notes, *self._notes(), *self.remarks),
            **counted,
            **common,
        )

    def _notes(self) -> Iterator[str]:
        """What people should know of pairs."""
        if sides := self.pool.sides:
            records, names = sides.records.rows, " and ".join(sides.names)
            yield f"{names} of {records:,} records are scored; counts are of answers."
        for old, new in self.renamed.items():
            yield f"the input's column {old!r} is {new!r} in the output."


def _in_place(order: Longs, rows: int, parts: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Values of the chunks, at `order` in the input, as a column over its rows.

    They are null where a row has no chunk.
    """
    values = pa.concat_arrays(parts) if parts else pa.array([], kind)
    place = np.zeros(rows, np.int64)
    place[order] = np.arange(len(order))
    absent = np.ones(rows, bool)
    absent[order] = False
    return values.take(pa.array(place, mask=absent))
