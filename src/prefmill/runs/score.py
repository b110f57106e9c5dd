"""Score a pool from files to a file: chunks of whole prompts, committed one by one, published at
once.

pool ──chunks (own thread)──▶ tokens (own thread) ──▶ model ──▶ ledger ... all there ──▶ rows of the
input + score columns
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import pyarrow as pa

from prefmill._version import __version__
from prefmill.disk.hidden import temporary
from prefmill.disk.ledger import Ledger, chunk_path, key_of, write_chunk
from prefmill.errors import BadArgument, BadInput, BadRow, ScorerDied
from prefmill.forks import refuse_fork
from prefmill.pools.pool import Chunk, Pool, open_pool
from prefmill.pools.stream import CHUNK_ROWS, ahead
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.runs.job import Reading
from prefmill.scoring.bad_rows import OnBadRow, RowGuard, check_on_bad_row, with_bad_rows
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import (
    Scored,
    as_scorer,
    on_device,
    on_its_date,
    printed_date,
    text_names,
)
from prefmill.scoring.stream import compares, score_arrays, score_names
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


@dataclass(frozen=True)
class ScoreReport:
    """What scoring did: rows_in = rows_scored + rows of `null` for each reason (`errors.BAD_ROW`);
    `first_null` is the first row of each.

    tokens: of all rows; tokens_run: that the model saw, after sharing, duplicates and the cache.
    duplicates: rows that took the score of another one. cut_by_template: rows whose template leaves
    out a part of the completion. template_date: the date that a template printed, where one does.
    chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the scorer.
    Of servers: requests sent, retries among them and why (retried), tokens_in and tokens_out as the
    server counts them, cost where prices are known.
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
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return {
            **asdict(self),
            "null": dict(self.null),
            "retried": dict(self.retried),
            "columns": list(self.columns),
            "notes": list(self.notes),
        }


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
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ScoreReport:
    """Write the rows of a pool with a score behind each; killed at any point and started again, it
    goes on where it was.

    Args:
        inputs: files, globs, folders or URLs as in `prefmill.run`, or a Polars, DuckDB, datasets or
            Arrow source.
        output: `.parquet`, `.jsonl`, `.csv`, `.arrow` or a datasets folder: the input's rows and
            columns, in order, then the score columns (float64; what a judge said: text).
        scorer: a model's folder or hub id, a `RewardModel`, `LogProb`, `ImplicitReward`,
            `JudgeScorer`, `EndpointScorer`, `Ensemble`, or a function over record batches.
        score_column: its name; further columns of a scorer are NAME_mean and the like.
        chunk_rows: about so many rows, of whole prompts, are committed at a time: at most that much
            work is lost. None is 512, and on a GPU more, where these are fewer than a million
            tokens.
        devices: several devices, each with a process of its own (`["cuda:0", "cuda:1"]`).
        on_bad_row: a row that cannot be scored (`errors.BAD_ROW`: too long, refused by template or
            server, NaN, ...) is an `error` that names it, or has a `null` score and is counted by
            reason. A run that failed goes on with `null` where it was.
        overwrite: replace an output, and forget what an interrupted run of it had done.

    A row with a null prompt or completion, and one that is too long where that is allowed, has a
    null score and is counted. The order of
    rows in the input does not matter: the candidates of a prompt are brought together, out of core.
    Starting again with another model, template, dtype, label or input is refused and the difference
    named; `batch_tokens`, `threads` and the like go on as they were, so that the column is bitwise
    that of an unbroken run. The same call after success does nothing. Raises `PrefmillError`s;
    `BadRow` for a row that cannot be scored.

    >>> import tempfile, polars as pl
    >>> pool = pl.DataFrame({"prompt": ["p", "q", "p"], "completion": ["a", "b", "long"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = score(pool, f"{folder}/scored.parquet", scorer=lambda batch: [len(t) for t in batch["completion"].to_pylist()])
    ...     pl.read_parquet(f"{folder}/scored.parquet")["score"].to_list(), done.rows_scored
    ([1.0, 1.0, 4.0], 3)
    """
    from prefmill.writers.write import check_target

    refuse_fork("score")
    started = time.perf_counter()
    tell = progress or silent
    staged: Any = RewardModel(model=scorer) if isinstance(scorer, str | Path) else as_scorer(scorer)
    check_on_bad_row("score", on_bad_row)
    staged = with_bad_rows(staged, on_bad_row)
    staged = on_device(staged, devices[0]) if devices else staged
    if chunk_rows is not None and (type(chunk_rows) is not int or chunk_rows < 1):
        raise BadArgument(
            f"score: chunk_rows must be a whole number >= 1 or None; got {chunk_rows!r}."
        )
    target = Path(output)
    check_target(target, overwrite=True)
    options: dict[str, Any] = {key: value for key, value in reading.items() if key != "temp_dir"}
    options["without"] = [str(target)]
    options["in_place"] = True  # every row and column stays
    if options.get("rejects"):
        options["rejects"] = Path(options["rejects"])
        options["without"].append(str(options["rejects"]))
    with temporary(reading.get("temp_dir")) as home:
        tell("reading", None)
        pool = open_pool(
            inputs,
            roles or {},
            home,
            chunk_rows=chunk_rows or CHUNK_ROWS,
            reads=getattr(staged, "reads", ()),
            whole=compares(staged),
            **options,
        )
        names = score_names(
            staged.columns, score_column, list(pool.source.columns.names), text_names(staged)
        )
        kinds = [pa.float64()] * len(staged.columns) + [pa.large_string()] * len(text_names(staged))
        _check_writable(
            _schema(pool, dict(zip(names, kinds, strict=True))), home / "trial" / target.name
        )
        tell("loading the scorer", None)
        if chunk_rows is None:
            tokens = getattr(staged, "chunk_tokens", None)
            chunk_rows = pool.rows_of(tokens, home, least=CHUNK_ROWS) if tokens else CHUNK_ROWS
            pool = pool.in_chunks(chunk_rows)
        staged = on_its_date(staged, {} if overwrite else key_of(target).get("scorer", {}))
        shape = {"chunk_rows": chunk_rows, "scorer": getattr(staged, "shape", {})}
        key = {
            "input": {"rows": pool.rows, "content": pool.identity},
            "roles": {"prompt": pool.roles.prompt, "completion": pool.roles.completion},
            "columns": names,
            "scorer": dict(staged.fingerprint),
            "on_bad_row": on_bad_row,
            "prefmill": __version__.split(".")[0],
        }
        with Ledger(target, key, shape, overwrite=overwrite) as ledger:
            if ledger.resumed:  # as it was begun, so that no bit differs
                pool = pool.in_chunks(ledger.shape["chunk_rows"])
                staged = (
                    staged.with_shape(ledger.shape["scorer"]) if ledger.shape["scorer"] else staged
                )
            missing = [] if ledger.done else ledger.missing(pool.sizes)
            run = _Run(pool, staged, ledger, home, tell, on_bad_row)
            seconds_model = run.all(missing, list(devices or []))
            if not ledger.done:
                tell("writing", None)
            report = run.publish(names)
            return replace(
                report,
                chunks_resumed=len(pool.sizes) - len(missing),
                seconds=round(time.perf_counter() - started, 3),
                seconds_model=round(seconds_model, 3),
                template_date=printed_date(staged),
            )


@dataclass
class _Run:
    """One pool, one scorer, one ledger."""

    pool: Pool
    scorer: Any
    ledger: Ledger
    home: Path
    tell: Progress
    on_bad_row: OnBadRow
    ways: dict[str, None] = field(
        default_factory=dict
    )  #: how rows were run, as several devices tell it

    def all(self, missing: list[int], devices: list[str]) -> float:
        """Score the chunks `missing`; seconds inside the scorer."""
        if not missing:
            return 0.0
        if len(devices) > 1:
            return self._in_processes(missing, devices)
        scorer = on_device(self.scorer, devices[0]) if devices else self.scorer
        clock = _Clock(
            self.tell,
            int(self.pool.sizes.sum()),
            int(self.pool.sizes.sum() - self.pool.sizes[missing].sum()),
        )
        guard = RowGuard(scorer, self.on_bad_row)
        return score_chunks(self.pool, guard, missing, self.home, self.ledger.write, clock)

    def _in_processes(self, missing: list[int], devices: list[str]) -> float:
        """One process a device; chunks are dealt out in turn, so that a device's chunks lie all
        over the input.
        """
        # The first error ends the others: what they have committed is kept, and they have nothing
        # else to tell.
        started = time.perf_counter()
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        told = context.SimpleQueue()
        workers: dict[str, Any] = {}
        for i, device in enumerate(devices):
            guard = RowGuard(on_device(self.scorer, device), self.on_bad_row)
            arguments = (
                self.pool,
                guard,
                missing[i :: len(devices)],
                self.home,
                str(self.ledger.folder),
                told,
            )
            workers[f"{i}: {device}"] = context.Process(
                target=_on_one_device, args=arguments, name=device
            )
        rows = self.pool.sizes
        clock = _Clock(self.tell, int(rows.sum()), int(rows.sum() - rows[missing].sum()))
        left = set(missing)
        try:
            for worker in workers.values():
                worker.start()
            while workers:
                wait([worker.sentinel for worker in workers.values()], timeout=0.5)
                ended = [name for name, worker in workers.items() if worker.exitcode is not None]
                while not told.empty():
                    word = told.get()
                    if isinstance(word, BaseException):
                        raise word
                    self.ways[word] = None
                for name in ended:
                    worker = workers.pop(name)
                    if worker.exitcode:
                        raise ScorerDied(
                            f"score: the process on {worker.name} died; got exit code {worker.exitcode}.",
                            hint="out of memory, often; the same command goes on where it was.",
                        )
                for number in [n for n in left if chunk_path(self.ledger.folder, n).exists()]:
                    left.discard(number)
                    clock.chunk(int(rows[number]), {})
        finally:
            _end([worker for worker in workers.values() if worker.pid is not None])
        return time.perf_counter() - started

    def publish(self, names: list[str]) -> ScoreReport:
        """Write the output from the chunks (unless it is there), and account for every row."""
        pool = self.pool
        counts = self.ledger.counts
        if not self.ledger.done:
            counts = dict.fromkeys(_COUNTS, 0)
            numbers, texts = len(self.scorer.columns), text_names(self.scorer)
            columns, nulls = [np.zeros(pool.rows) for _ in range(numbers)], np.ones(pool.rows, bool)
            said: list[list[pa.Array]] = [[] for _ in texts]
            for number, rows in enumerate(pool.sizes.tolist()):
                found = self.ledger.read(number, rows)
                if found is None:
                    raise BadInput(
                        f"score: chunk {number} went away while it was needed; got no such file in {str(self.ledger.folder)!r}."
                    )
                batch, of_chunk = found
                positions = pool.positions(number)
                nulls[positions] = np.asarray(batch.column(0).is_null())
                for column, array in zip(columns, batch.columns[:numbers], strict=True):
                    column[positions] = array.fill_null(0.0).to_numpy()
                for parts, array in zip(said, batch.columns[numbers:], strict=True):
                    parts.append(array.cast(pa.large_string()))
                for name, value in of_chunk.items():
                    known = counts.get(name, value if name.startswith("first:") else 0)
                    counts[name] = min(known, value) if name.startswith("first:") else known + value
            made = [pa.array(column, mask=nulls) for column in columns] + [
                _in_place(pool, parts) for parts in said
            ]
            self.ledger.publishing()
            _write_scored(
                pool,
                self.home,
                self.ledger.output,
                dict(zip(names, made, strict=True)),
                overwrite=self.ledger.replaces,
            )
            self.ledger.finish(counts)
        null = {"null_prompt": pool.null_prompts, "null_completion": pool.null_completions}
        null = {
            reason: rows for reason, rows in (null | _of_reasons("null:", counts)).items() if rows
        }
        first_null = {
            reason: pool.name_of(row, self.home)
            for reason, row in _of_reasons("first:", counts).items()
        }
        engines = self.scorer.engines if getattr(self.scorer, "_state", {}).get("engines") else []
        counted: dict[str, Any] = {name: counts.get(name, 0) for name in _COUNTS}
        return ScoreReport(
            rows_in=pool.rows,
            rows_scored=pool.rows - sum(null.values()),
            null=null,
            **counted,
            first_null=first_null,
            chunks=len(pool.sizes),
            chunks_resumed=0,
            retried=_of_reasons("retry:", counts),
            cost=self.scorer.cost(counts) if hasattr(self.scorer, "cost") else None,
            way=self.scorer.load() if engines else "; ".join(self.ways),
            seconds=0.0,
            seconds_model=0.0,
            peak_rss_mb=peak_rss_mb(),
            output=str(self.ledger.output),
            columns=tuple(names),
            notes=pool.source.notes,
        )


class _Clock:
    """Progress in words: rows, rows a second, tokens a second."""

    def __init__(self, tell: Progress, rows: int, done: int) -> None:
        self.tell, self.rows, self.done, self.before = tell, rows, done, done
        self.tokens = 0
        self.started = time.perf_counter()

    def chunk(self, rows: int, counts: Mapping[str, int]) -> None:
        """A chunk is done."""
        self.done += rows
        self.tokens += counts.get("tokens", 0)
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rate = f"{(self.done - self.before) / seconds:,.0f} rows/s"
        if self.tokens:
            rate += f", {self.tokens / seconds:,.0f} tokens/s"
        self.tell(f"{self.done:,} of {self.rows:,} rows, {rate}", self.done / max(1, self.rows))


Commit = Callable[[int, Mapping[str, pa.Array], Mapping[str, int]], None]


def score_chunks(
    pool: Pool,
    guard: RowGuard,
    numbers: list[int],
    home: Path,
    commit: Commit,
    clock: _Clock | None = None,
) -> float:
    """Score the chunks `numbers` and commit each; reading and tokenising run ahead in their own
    threads. Seconds inside the scorer.
    """

    def prepared() -> Iterator[tuple[Chunk, Any]]:
        for chunk in ahead(pool.chunks(numbers, home), name="prefmill-read"):
            try:
                yield chunk, guard.prepare(chunk.batch)
            except BadRow as error:
                raise error.named(pool.name_of(int(chunk.positions[error.row]), home)) from error

    inside = 0.0
    if hasattr(guard.scorer, "load"):
        # here, so that errors of loading are raised here, and not after the reading of chunks
        guard.scorer.load()
    waiting: deque[tuple[Chunk, Future[Scored]]] = deque()

    def deliver(chunk: Chunk, fetch: Callable[[], Scored]) -> Scored:
        scored = fetch()
        counts = dict(scored.counts)
        for row, reason in enumerate(scored.reasons):
            if reason is not None:
                counts[f"null:{reason}"] = counts.get(f"null:{reason}", 0) + 1
                at = int(chunk.positions[row])
                counts[f"first:{reason}"] = min(counts.get(f"first:{reason}", at), at)
        rows = len(chunk.positions)
        arrays = score_arrays(scored, np.arange(rows), rows)
        commit(
            chunk.number, dict(zip((*scored.columns, *scored.texts), arrays, strict=True)), counts
        )
        return scored

    def named(chunk: Chunk, error: BadRow) -> BadRow:
        return error.named(pool.name_of(int(chunk.positions[error.row]), home))

    def settle(most: int) -> None:
        """Wait until at most so many chunks are on their way."""
        while len(waiting) > most:
            chunk, delivered = waiting.popleft()
            try:
                scored = delivered.result()
            except BadRow as error:
                raise named(chunk, error) from error
            if clock is not None:
                clock.chunk(len(chunk.positions), scored.counts)

    # Scores leave the device and go to the disk in a thread of their own, while the next chunk
    # runs.
    with ThreadPoolExecutor(1, thread_name_prefix="prefmill-commit") as committer:
        for chunk, work in ahead(prepared(), name="prefmill-tokenise"):
            began = time.perf_counter()
            settle(1)
            try:
                fetch = guard.start(work)
            except BadRow as error:
                raise named(chunk, error) from error
            inside += time.perf_counter() - began
            waiting.append((chunk, committer.submit(deliver, chunk, fetch)))
        began = time.perf_counter()
        settle(0)
        inside += time.perf_counter() - began
    return inside


def _of_reasons(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts whose names begin with `prefix`, by what follows."""
    return {
        name.removeprefix(prefix): value
        for name, value in counts.items()
        if name.startswith(prefix)
    }


def _end(workers: list[Any]) -> None:
    """End processes that nobody waits for: a chunk is committed whole or not at all."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(5)
        if worker.exitcode is None:
            worker.kill()
            worker.join()


def _on_one_device(
    pool: Pool, guard: RowGuard, numbers: list[int], home: Path, folder: str, told: Any
) -> None:
    """A worker's whole life: its chunks, written where the ledger looks for them; `told` gets how
    they ran, or the error.
    """
    parent = os.getppid()

    def commit(number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]) -> None:
        write_chunk(Path(folder), number, columns, counts)
        if os.getppid() != parent:  # it was killed: nobody will use what comes
            os._exit(1)

    scratch = home / f"device-{os.getpid()}"
    scratch.mkdir()
    try:
        score_chunks(pool, guard, numbers, scratch, commit)
        told.put(str(guard.scorer.load()) if hasattr(guard.scorer, "load") else "")
    except BaseException as error:
        error.add_note(
            "".join(traceback.format_exception(error))
        )  # a traceback does not go to another process
        told.put(_portable(error))
        raise SystemExit(1) from None


def _portable(error: BaseException) -> BaseException:
    """`error`, or what it says if another process cannot take it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # what breaks when it is pickled is anybody's guess
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _in_place(pool: Pool, parts: list[pa.Array]) -> pa.Array:
    """Texts of the chunks, one behind the other, as a column over the rows of the input; null where
    a row is in no chunk.
    """
    texts = pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
    if pool.order is None:
        return texts
    place = np.zeros(pool.rows, np.int64)
    place[pool.order] = np.arange(len(pool.order))
    absent = np.ones(pool.rows, bool)
    absent[pool.order] = False
    return texts.take(pa.array(place, mask=absent))


def _schema(pool: Pool, made: Mapping[str, pa.DataType]) -> Any:
    """The columns of the output: those of the input, then those that are made."""
    import polars as pl

    empty = pool.source.columns.empty_table()
    for name, kind in made.items():
        empty = empty.append_column(pa.field(name, kind), pa.array([], kind))
    return pl.DataFrame(empty).schema


def _check_writable(schema: Any, trial: Path) -> None:
    """Raise now what writing such columns to such a file would raise after hours."""
    from prefmill.writers.write import write

    write([], schema, trial, format="pool", overwrite=True)


def _write_scored(
    pool: Pool, home: Path, target: Path, columns: Mapping[str, pa.Array], *, overwrite: bool
) -> None:
    """The rows of the input, in their order, with the columns behind, each over all rows."""
    import polars as pl

    from prefmill.writers.write import write

    schema = _schema(pool, {name: column.type for name, column in columns.items()})

    def frames() -> Iterator[pl.DataFrame]:
        at = 0
        for batch in pool.all_rows(home):
            table = pa.table(batch)
            end = at + table.num_rows
            for name, column in columns.items():
                table = table.append_column(name, column.slice(at, end - at))
            at = end
            yield pl.DataFrame(table).cast(schema)
        if at != pool.rows:
            raise BadInput(
                f"score: the input changed while it was scored; got {at} rows, expected {pool.rows}."
            )

    write(frames(), schema, target, format="pool", overwrite=overwrite)
