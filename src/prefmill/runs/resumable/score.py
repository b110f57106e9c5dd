"""Score a pool from files to a file: the rows of the input, and score columns after theirs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.disk.targets import shown, target_of
from prefmill.errors import BadArgument, BadInput
from prefmill.models.contract import check_on_bad_row
from prefmill.plans.bounds import SCORE
from prefmill.plans.expect import Counted, Expect
from prefmill.pools.pool import Longs, Pool, open_pool
from prefmill.pools.sides import columns_out
from prefmill.pools.stream import CHUNK_ROWS, ahead
from prefmill.progress import Progress, silent
from prefmill.readers import Source
from prefmill.runs.account.expecting import expect_of
from prefmill.runs.job.opening import Reading
from prefmill.runs.resumable.chunks import (
    BEFORE,
    FIRST,
    Pace,
    Resumable,
    by_reason,
    check_chunk_rows,
)
from prefmill.runs.resumable.devices import Done, guards_on, score_chunks, score_on_devices
from prefmill.runs.resumable.grown import earlier_scores, without
from prefmill.runs.workers.workers import Workers, workers_of
from prefmill.scoring.bad_rows import RowGuard
from prefmill.scoring.ensemble import FLAT
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Staged, as_scorer
from prefmill.scoring.stream import score_names, score_types
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched

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


@dataclass(frozen=True)
class ScoreReport(Showing):
    """What scoring did.

    rows_in = rows_scored + rows of `null` for each reason (`errors.BAD_ROW`); `first_null` is the
    first row of each. rows_scored = rows_before + rows_new: of a pool that grew, rows whose scores
    are those of the output as it stood, and those scored since. Counts of the scorer, from tokens
    to reasons, leave the former out.
    tokens: of all rows; tokens_run: that the model saw, after sharing, duplicates and the cache.
    duplicates: rows that took the score of another one. cut_by_template: rows whose template leaves
    out a part of the completion. template_date: the date that a template printed, where one does.
    chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the scorer.
    flat: of an ensemble, the groups to which a scorer gave one score, by scorer.
    reasons: of a check, rows that have a score below 1, by the first word of their reason.
    Of servers: requests sent, retries among them and why (retried), tokens_in and tokens_out as the
    server counts them, cost where prices are known.
    workers: the most at a time, on a cluster; workers_lost: that ended on their own;
    worker_peak_rss_mb: of the largest one, peak_rss_mb is of this process. expected: what came of
    what was expected (`prefmill.Expect`): name, got, expected, holds of each.
    """

    rows_in: int
    rows_scored: int
    null: Mapping[str, int]
    tokens: int
    tokens_run: int
    duplicates: int
    truncated: int
    cached: int
    splits: int
    chunks: int
    chunks_resumed: int
    way: str
    seconds: float
    seconds_model: float
    peak_rss_mb: float
    output: str
    columns: tuple[str, ...]
    cut_by_template: int = 0
    template_date: str | None = None
    requests: int = 0
    retries: int = 0
    retried: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    first_null: Mapping[str, str] = field(default_factory=dict)
    flat: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    workers: int = 0
    workers_lost: int = 0
    worker_peak_rss_mb: float = 0.0
    rows_before: int = 0
    expected: Sequence[Mapping[str, Any]] = ()

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with."""
        scored = self.rows_scored
        return Counted(PairReport(self.rows_in, scored, 0, self.null, pairs_out=scored))

    @property
    def rows_new(self) -> int:
        """Rows that have a score which no earlier run had given."""
        return self.rows_scored - self.rows_before

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return {
            **asdict(self),
            "rows_new": self.rows_new,
            "null": dict(self.null),
            "retried": dict(self.retried),
            "flat": dict(self.flat),
            "reasons": dict(self.reasons),
            "columns": list(self.columns),
            "notes": list(self.notes),
            "expected": list(self.expected),
        }


@watched("score")
def score(
    inputs: Any,
    output: str | Path,
    *,
    scorer: Any,
    roles: RoleNames | None = None,
    score_column: str = "score",
    chunk_rows: int | None = None,
    devices: Sequence[str] | None = None,
    on_bad_row: Literal["error", "null"] = "error",
    workers: int | Sequence[int] | Workers | None = None,
    overwrite: bool = False,
    expect: Expect | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ScoreReport:
    """Write the rows of a pool with a score after each; a run that was killed goes on.

    Args:
        inputs: files, globs, folders or URLs as in `prefmill.run`, or a Polars, DuckDB, datasets or
            Arrow source.
        output: `.parquet`, `.jsonl`, `.csv`, `.arrow` or a datasets folder: the input's rows and
            columns, in order, then the score columns (float64; scores of steps are lists, what a
            judge said is text).
        scorer: a model's folder or hub id, a `RewardModel`, `LogProb`, `ImplicitReward`,
            `JudgeScorer`, `EndpointScorer`, `Verifier`, `Ensemble`, or a function over record
            batches.
        score_column: its name; further columns of a scorer are NAME_mean and the like.
        chunk_rows: about so many rows, of whole prompts, are committed at a time: at most that much
            work is lost. None is 512, and on a GPU more, where these are fewer than a million
            tokens.
        devices: several devices, each with a process of its own (`["cuda:0", "cuda:1"]`).
        workers: processes on the machines of a Ray cluster, each with a scorer of its own: a
            number, a least and a most, or `prefmill.Workers`. Their loss costs no score.
        on_bad_row: a row that cannot be scored (`errors.BAD_ROW`: too long, refused by template or
            server, NaN, ...) is an `error` that names it, or has a `null` score and is counted by
            reason. A run that failed goes on with `null` where it was.
        overwrite: replace an output, and forget what an interrupted run of it had done.
        expect: what must hold before anything is published (`prefmill.Expect`): `min_rows` with a
            score, `max_dropped` without one, by reason. A call that breaks it keeps the scores:
            without `overwrite` the same call, with another contract, goes on from them.

    Pairs (`chosen` and `rejected`, or a completion of several columns) keep their rows. Every
    answer is scored, a text of a prompt once, and the columns are `chosen_score` and
    `rejected_score`; earlier ones of these names become `chosen_score_in` and so on. Counts of the
    report are answers then.

    A row with a null prompt or completion, and one that is too long where that is allowed, has a
    null score and is counted. The order of rows in the input does not matter: the candidates of a
    prompt are brought together, out of core.

    Starting again with another model, template, dtype, label or input is refused and the difference
    named. `batch_tokens`, `threads` and the like go on as they were: the column is bitwise that of
    an unbroken run. The same call after success does nothing. After rows came, changed or went it
    takes the scores that the output has for equal rows, scores the others, and replaces the output
    (docs/scoring.md). Raises `PrefmillError`s; `BadRow` for
    a row that cannot be scored.

    >>> import tempfile, polars as pl
    >>> pool = pl.DataFrame({"prompt": ["p", "q", "p"], "completion": ["a", "b", "long"]})
    >>> def length(batch):
    ...     return [len(text) for text in batch["completion"].to_pylist()]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = score(pool, f"{folder}/scored.parquet", scorer=length)
    ...     pl.read_parquet(f"{folder}/scored.parquet")["score"].to_list(), done.rows_scored
    ([1.0, 1.0, 4.0], 3)
    """
    check_on_bad_row("score", on_bad_row)
    check_chunk_rows("score", chunk_rows, optional=True)
    is_model = isinstance(scorer, str | Path)
    part = as_scorer(RewardModel(model=scorer) if is_model else scorer).with_bad_rows(on_bad_row)
    if devices:
        part = part.on_device(devices[0])
    hands = workers_of(workers)
    if hands and devices and len(devices) > 1:
        raise BadArgument(
            f"score: devices are of one machine, workers of a cluster; got {list(devices)}"
            " and workers, expected one of them.",
            hint="each worker has a GPU of its own: workers alone.",
        )
    run = _Scoring(
        part=part,
        target=target_of(output, "score"),
        on_bad_row=on_bad_row,
        overwrite=overwrite,
        expect=expect_of(expect, SCORE),
        tell=progress or silent,
        inputs=inputs,
        roles=roles or {},
        score_column=score_column,
        chunk_rows=chunk_rows,
        devices=tuple(devices or ()),
    )
    if hands is None:
        return run.run(reading)
    from prefmill.runs.resumable.jobs import ScoreJob
    from prefmill.runs.workers.away import hired

    job = ScoreJob(part, on_bad_row)
    with hired(hands, job, where="score", tell=run.tell) as (away, run.crew):
        run.part = away
        return run.run(reading)


@dataclass(kw_only=True)
class _Scoring(Resumable[Staged, ScoreReport]):
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
