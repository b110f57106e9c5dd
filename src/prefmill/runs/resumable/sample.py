"""Sample answers from files to a file: a pool, with every distinct prompt's answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.disk.targets import shown, target_of
from prefmill.errors import BAD_ROW, AccountingError, BadArgument, BadRow
from prefmill.models.contract import check_on_bad_row
from prefmill.plans.bounds import EMPTY, SAMPLE
from prefmill.plans.expect import Counted, Expect
from prefmill.pools.pool import Longs
from prefmill.pools.prompts import DistinctPrompts, open_prompts
from prefmill.progress import Progress, silent
from prefmill.readers import Source
from prefmill.runs.account.expecting import expect_of
from prefmill.runs.job.opening import Reading
from prefmill.runs.resumable.answers import REASON, Answering
from prefmill.runs.resumable.chunks import (
    BEFORE,
    FIRST,
    Pace,
    Resumable,
    by_reason,
    check_chunk_rows,
)
from prefmill.runs.resumable.grown_prompts import (
    Merged,
    counts_of,
    earlier_answers,
    earlier_frames,
    only,
    places_in,
)
from prefmill.runs.workers.workers import Workers, workers_of
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Sampler, as_sampler
from prefmill.sampling.seeds import Asked
from prefmill.shapes.words import Rows
from prefmill.table.report import PairReport
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched

#: Of answers, where none are named.
TEMPERATURES = (0.8, 0.9)
CHUNK_ROWS = 256
#: After the prompt, in this order; kept columns come last.
COLUMNS: Mapping[str, pl.DataType] = {
    "completion": pl.String(),
    "id": pl.String(),
    "stage": pl.Int64(),
    "source": pl.String(),
    "temperature": pl.Float64(),
    "seed": pl.Int64(),
    "finish_reason": pl.String(),
    "logprob": pl.Float64(),
    "n_tokens": pl.Int64(),
    "duplicate": pl.Boolean(),
}


@dataclass(frozen=True)
class SampleReport(Showing):
    """What sampling did.

    prompts_in = prompts + null_prompts + duplicate_prompts (prompts that an earlier row of the
    input has; sampled once). prompts = prompts_before + prompts_new: of prompts that grew, those
    whose answers are the ones of the output as it stood, and those sampled since. answers = the sum
    of `finish_reasons`: `stop` (ended), `length` (cut off), what else a server says, and for
    answers that are not there, whose completion is null, the reason (`errors.BAD_ROW`, also in
    `null`; `first_null` is the first prompt of each). duplicates:
    answers with a text that the prompt already had; empty: answers without text.
    tokens: of all answers, as far as the sampler told (untold: answers whose number it did not
    tell). chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the sampler; tokens_sampled: in this call. Of servers: requests sent by
    this call, retries among them, and why (retried). template_date: the date that a template
    printed, where one does. workers: the most at a time, on a cluster; workers_lost: that ended on
    their own; worker_peak_rss_mb: of the largest one, peak_rss_mb is of this process. expected:
    what came of what was expected (`prefmill.Expect`): name, got, expected, holds of each.
    """

    prompts_in: int
    prompts: int
    null_prompts: int
    duplicate_prompts: int
    answers: int
    finish_reasons: Mapping[str, int]
    duplicates: int
    empty: int
    tokens: int
    untold: int
    tokens_sampled: int
    chunks: int
    chunks_resumed: int
    way: str
    seconds: float
    seconds_model: float
    peak_rss_mb: float
    output: str
    columns: tuple[str, ...]
    template_date: str | None = None
    requests: int = 0
    retries: int = 0
    retried: Mapping[str, int] = field(default_factory=dict)
    first_null: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    workers: int = 0
    workers_lost: int = 0
    worker_peak_rss_mb: float = 0.0
    prompts_before: int = 0
    expected: Sequence[Mapping[str, Any]] = ()

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with: of answers."""
        failed = {**self.null, **({EMPTY: self.empty} if self.empty else {})}
        there = self.answers - sum(failed.values())
        return Counted(
            PairReport(self.answers, there, 0, failed, groups_used=self.prompts, pairs_out=there)
        )

    @property
    def prompts_new(self) -> int:
        """Prompts that no earlier run had sampled."""
        return self.prompts - self.prompts_before

    @property
    def null(self) -> dict[str, int]:
        """Answers that are not there, by reason."""
        return {
            reason: answers for reason, answers in self.finish_reasons.items() if reason in BAD_ROW
        }

    @property
    def stopped(self) -> int:
        """Answers that ended by themselves or at a stop string."""
        return self.finish_reasons.get("stop", 0)

    @property
    def cut_off(self) -> int:
        """Answers that were cut off at the limit of tokens."""
        return self.finish_reasons.get("length", 0)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of this call a second in the sampler; None where nothing was sampled."""
        return (
            self.tokens_sampled / self.seconds_model
            if self.seconds_model and self.tokens_sampled
            else None
        )

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        derived = {
            "prompts_new": self.prompts_new,
            "null": self.null,
            "stopped": self.stopped,
            "cut_off": self.cut_off,
            "tokens_per_second": self.tokens_per_second,
        }
        plain = {
            "finish_reasons": dict(self.finish_reasons),
            "retried": dict(self.retried),
            "columns": list(self.columns),
            "notes": list(self.notes),
        }
        return {**asdict(self), **plain, **derived, "notes": list(self.notes)}


@watched("sample")
def sample(
    inputs: Any,
    output: str | Path,
    *,
    sampler: Any,
    n: int = 8,
    temperatures: Sequence[float] | None = None,
    seed: int = 0,
    stage: int = 0,
    source: str | None = None,
    prompt: str | None = None,
    id: str | None = None,
    rows: Rows | Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    chunk_rows: int = CHUNK_ROWS,
    on_bad_row: Literal["error", "null"] = "error",
    workers: int | Sequence[int] | Workers | None = None,
    overwrite: bool = False,
    expect: Expect | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> SampleReport:
    """Write a pool: `n` answers of every prompt; a run that was killed goes on.

    Args:
        inputs: files, globs, folders or URLs as in `prefmill.run`, or a Polars, DuckDB, datasets or
            Arrow source. Further columns are ignored, so that a pool or pairs will do; a prompt
            that comes again is sampled once.
        output: `.parquet`, `.jsonl`, `.csv`, `.arrow` or a datasets folder, with the columns prompt
            (as it was), completion (text), id, stage, source, temperature, seed, finish_reason,
            logprob, n_tokens, duplicate, and those of `keep`. Prompts stand in the order of the
            input, then temperatures as given.
        sampler: a model's folder or hub id, a `LocalSampler`, an `EndpointSampler`, or whatever is
            a `prefmill.sampling.Sampler`.
        n: answers of a prompt in all, spread over the temperatures; temperature 0 is greedy and
            gives one of them. The default temperatures, 0.8 and 0.9 (0.8 alone for one answer), are
            those that were found to balance exploration and quality in rejection sampling.
        seed, stage: decide, with prompt, temperature and index, the seed of every answer: neither
            order nor sharding nor resuming changes a text, and another stage draws anew.
        stage, source: columns of the pool; `source` is the sampler's name by default.
        prompt, id: the columns of prompt and of the row's id (for messages), where they are not
            called so.
        rows: how records become prompts (`prefmill.Rows`): further words of `[rows]`.
        keep: further columns of the input to carry along, of each prompt's first row.
        chunk_rows: about so many answers, of whole prompts, are committed at a time: at most that
            much work is lost.
        on_bad_row: a prompt that cannot be answered (`errors.BAD_ROW`: too long, refused by
            template or server, ...) is an `error` that names it, or has null completions whose
            finish reason says why. A run that failed goes on with `null` where it was.
        workers: processes on the machines of a Ray cluster, each with a sampler of its own: a
            number, a least and a most, or `prefmill.Workers`. Their loss costs no answer.
        overwrite: replace an output, and forget what an interrupted run of it had done.
        expect: what must hold before anything is published (`prefmill.Expect`): `min_rows` (answers
            with a text), `min_prompts`, `max_dropped` (answers that failed or are `empty`), by
            reason. A call that breaks it keeps the answers: without `overwrite` the same call, with
            another contract, goes on from them.

    `logprob` is the sum of the log-probabilities of the drawn tokens at temperature 1 (natural
    logarithm), `n_tokens` their number, null where a server tells none. `duplicate` marks a text
    that the prompt already had in an earlier row. Starting again with another model, prompt,
    temperature or seed is refused and the difference named. The same call after success does
    nothing. After prompts came, changed or went it keeps the answers that the output has for equal
    prompts, samples the others, and replaces the output (docs/sampling.md). Raises
    `PrefmillError`s; `BadRow` for a prompt that cannot be answered.

    >>> import tempfile
    >>> from prefmill.sampling import Answer
    >>> class Echo:
    ...     fingerprint = {"sampler": "echo"}
    ...     def sample(self, requests):
    ...         return [Answer(f"{request.prompt}!", "stop", None, None) for request in requests]
    >>> prompts = pl.DataFrame({"prompt": ["p", "q", None, "p"]})
    >>> asked = {"n": 3, "temperatures": [0.8, 0]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = sample(prompts, f"{folder}/pool.parquet", sampler=Echo(), **asked)
    ...     pool = pl.read_parquet(f"{folder}/pool.parquet")
    >>> pool.select("prompt", "completion", "temperature", "duplicate").rows()[:3]
    [('p', 'p!', 0.8, False), ('p', 'p!', 0.8, True), ('p', 'p!', 0.0, True)]
    >>> done.prompts, done.null_prompts, done.duplicate_prompts, done.answers
    (2, 1, 1, 6)
    """
    is_model = isinstance(sampler, str | Path)
    part = as_sampler(LocalSampler(model=sampler) if is_model else sampler)
    if part is None:
        raise BadArgument(
            f"sample: not a sampler; got {type(sampler).__name__},"
            " expected a model, LocalSampler or EndpointSampler."
        )
    check_on_bad_row("sample", on_bad_row)
    if temperatures is None:
        temperatures = TEMPERATURES[:1] if n == 1 else TEMPERATURES
    check_chunk_rows("sample", chunk_rows)
    _check_keep(keep)
    asked = Asked.of(n, temperatures, seed, stage, source or part.name or type(sampler).__name__)
    part = part.with_bad_rows(on_bad_row)
    run = _Sampling(
        part=part,
        target=target_of(output, "sample"),
        on_bad_row=on_bad_row,
        overwrite=overwrite,
        expect=expect_of(expect, SAMPLE),
        tell=progress or silent,
        inputs=inputs,
        prompt=prompt,
        id=id,
        words=rows.named() if isinstance(rows, Rows) else rows or {},
        keep=tuple(keep),
        asked=asked,
        chunk_rows=chunk_rows,
    )
    hands = workers_of(workers)
    if hands is None:
        return run.run(reading)
    from prefmill.runs.resumable.jobs import SampleJob
    from prefmill.runs.workers.away import hired

    job = SampleJob(part, on_bad_row, asked)
    with hired(hands, job, where="sample", tell=run.tell) as (away, run.crew):
        run.part = away
        return run.run(reading)


@dataclass(kw_only=True)
class _Sampling(Resumable[Sampler, SampleReport]):
    """Prompts, what is asked of them, and a sampler."""

    command: ClassVar[str] = "sample"
    reports: ClassVar[type] = SampleReport
    part_name: ClassVar[Literal["sampler"]] = "sampler"

    inputs: Any
    prompt: str | None
    id: str | None
    words: Mapping[str, Any]
    keep: tuple[str, ...]
    asked: Asked
    chunk_rows: int
    prompts: DistinctPrompts = field(init=False)
    fresh: DistinctPrompts = field(init=False)  #: those that are to be sampled
    places: Longs = field(init=False)  #: where these stand among all prompts, ascending
    #: answers of the other ones
    earlier: pa.RecordBatchFileReader | None = field(init=False, default=None)
    chunk_prompts: int = field(init=False)
    way: str = field(init=False, default="")
    tokens_sampled: int = field(init=False, default=0)
    spent: Mapping[str, int] = field(init=False, default_factory=dict)

    def open(self, **reading: Any) -> None:
        """The distinct prompts."""
        self.prompts = open_prompts(
            self.inputs,
            self.prompt or self.words.get("prompt"),
            self.home,
            keep=self.keep,
            id=self.id or self.words.get("id"),
            words=self.words,
            **reading,
        )
        self.fresh, self.places = self.prompts, np.arange(self.prompts.count)

    @property
    def asked_for(self) -> dict[str, Any]:
        """The words, what is kept, and what is asked of every prompt."""
        words = {"prompt": self.prompt, "id": self.id, **self.words}
        return {"rows": words, "keep": list(self.keep), "asked": self.asked.key}

    @property
    def source(self) -> Source:
        """The files as they are."""
        return self.prompts.source

    @property
    def schema(self) -> pl.Schema:
        """The columns of the pool."""
        own = self.prompts.schema
        kept = {name: own[name] for name in self.keep}
        return pl.Schema({"prompt": own["prompt"], **COLUMNS, **kept})

    def key(self) -> dict[str, Any]:
        """The content of the prompts, and what is asked of them."""
        return {
            "keep": list(self.keep),
            "input": {"prompts": self.prompts.count, "content": self.prompts.identity},
            **self.asked.key,
        }

    def shape(self) -> dict[str, Any]:
        """Prompts of a chunk."""
        return {"chunk_prompts": max(1, self.chunk_rows // len(self.asked.draws))}

    def take_over(self) -> None:
        """Answers of prompts that the output has."""
        draws = len(self.asked.draws)
        output = shown(self.target)
        earlier = earlier_answers(output, self.prompts, draws, self.home, **self.limits)
        with earlier.con:
            if not earlier.shared:
                self.ledger.refuse()
            self.ledger.take_over(earlier.save)

    def leave_out(self, earlier: pa.RecordBatchFileReader) -> None:
        """Prompts that have their answers."""
        self.earlier, places = earlier, places_in(earlier)
        self.taken = counts_of(earlier)
        if len(places):
            self.places = np.setdiff1d(np.arange(self.prompts.count), places)
            self.fresh = only(self.prompts, self.places, self.home)

    def divide(self, shape: Mapping[str, Any]) -> None:
        """Chunks of so many prompts."""
        self.chunk_prompts = int(shape["chunk_prompts"])

    @property
    def together(self) -> str | None:
        """The prompt: each was asked once."""
        return "prompt"

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Answers of each chunk, shape (chunks,)."""
        bounds = np.append(np.arange(0, self.fresh.count, self.chunk_prompts), self.fresh.count)
        return np.diff(bounds) * len(self.asked.draws)

    def work(self, missing: list[int]) -> None:
        """Sample the chunks."""
        if self.crew is not None:
            self._work_on_workers(missing)
            return
        before = self.part.usage
        # Here, so that errors of loading are raised before anything is read.
        self.way = self.part.load()
        pace = Pace(self, missing, "answers", digits=1)
        for number, frame in self.fresh.slices(self.chunk_prompts, missing):
            started = time.perf_counter()
            with self._naming_prompts(frame):
                columns, counts = self._answering(self.part).chunk(frame)
            self.seconds_model += time.perf_counter() - started
            self._commit(number, columns, counts)
            pace.add(int(self.sizes[number]), counts["tokens"], self.seconds_model)
        after = self.part.usage
        if before is not None and after is not None:
            self.spent = after.since(before)

    def _work_on_workers(self, missing: list[int]) -> None:
        started = time.perf_counter()
        pace = Pace(self, missing, "answers", digits=1)

        def commit(number: int, columns: Mapping[str, pa.Array], counts: dict[str, int]) -> None:
            self._commit(number, columns, counts)
            passed = time.perf_counter() - started
            pace.add(int(self.sizes[number]), counts["tokens"], passed)

        def place_of(number: int, place: int) -> str:
            ((_, frame),) = self.fresh.slices(self.chunk_prompts, [number])
            return self._name(frame, place)

        slices = self.fresh.slices(self.chunk_prompts, missing)
        crew = self.part.work(slices, len(missing), commit, place_of)  # type: ignore[attr-defined]
        self.seconds_model = time.perf_counter() - started
        self.way, self.spent = crew.way, crew.spent

    def _commit(
        self, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
    ) -> None:
        self.ledger.write(number, columns, counts)
        self.tokens_sampled += counts["tokens"]

    def rehearse(self, part: Sampler, missing: list[int]) -> None:
        """Ask what the chunks ask."""
        for _, frame in self.fresh.slices(self.chunk_prompts, missing):
            with self._naming_prompts(frame):
                self._answering(self.part).chunk(frame)

    def _answering(self, part: Sampler) -> Answering:
        return Answering(part, self.asked, self.on_bad_row)

    @contextmanager
    def _naming_prompts(self, frame: pl.DataFrame) -> Iterator[None]:
        """A bad prompt as its owner knows it: its row, and its id where there is one."""
        try:
            yield
        except BadRow as error:
            raise error.named(self._name(frame, error.row)) from error

    def _name(self, frame: pl.DataFrame, place: int) -> str:
        row, name = frame["row"][place], frame["name"][place]
        return self.prompts.source.place_of(row, name, home=self.home)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The answers of every prompt, in the order of the prompts."""
        schema = self.schema
        asked = {
            "stage": pl.lit(self.asked.stage, pl.Int64()),
            "source": pl.lit(self.asked.source, pl.String()),
        }
        draws, size = len(self.asked.draws), self.chunk_prompts
        answers = self._answers()
        made = {
            name: kind for name, kind in schema.items() if name in COLUMNS and name not in asked
        }
        every = range(-(-self.prompts.count // size))
        for number, prompts in self.prompts.slices(size, every):
            repeated = prompts[np.repeat(np.arange(prompts.height), draws)]
            kept = {name: repeated[f"keep{i}"] for i, name in enumerate(self.keep)}
            rows = answers.before(number * size + prompts.height, made)
            rows = rows.with_columns(repeated["prompt"], **kept, **asked)
            yield rows.select(list(schema)).cast(schema)

    def _answers(self) -> Merged:
        """What was taken over and what was sampled, by the places of prompts."""
        earlier = iter(()) if self.earlier is None else earlier_frames(self.earlier)
        return Merged(earlier, self._sampled())

    def _sampled(self) -> Iterator[pl.DataFrame]:
        draws, first = len(self.asked.draws), 0
        for batch in self.chunks():
            places = self.places[first : first + batch.num_rows // draws]
            first += len(places)
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            yield frame.with_columns(place=pl.Series(np.repeat(places, draws)))

    def report(self, **common: Any) -> SampleReport:
        """Account for every prompt and every answer."""
        prompts, counts = self.prompts, self.ledger.counts
        reasons = by_reason(REASON, counts)
        answers = prompts.count * len(self.asked.draws)
        rows = prompts.count + prompts.nulls + prompts.duplicates
        if sum(reasons.values()) != answers or prompts.rows != rows:
            raise AccountingError(
                f"sample: {answers} answers were asked for, and {reasons} are there;"
                f" of {prompts.rows} rows."
            )
        places = {
            reason: prompts.source.place_of(row, home=self.home)
            for reason, row in by_reason(FIRST, counts).items()
        }
        return SampleReport(
            prompts_in=prompts.rows,
            prompts=prompts.count,
            prompts_before=counts.get(BEFORE, 0),
            null_prompts=prompts.nulls,
            duplicate_prompts=prompts.duplicates,
            answers=answers,
            finish_reasons=reasons,
            duplicates=counts.get("duplicates", 0),
            empty=counts.get("empty", 0),
            tokens=counts.get("tokens", 0),
            untold=counts.get("untold", 0),
            tokens_sampled=self.tokens_sampled,
            way=self.way,
            columns=tuple(self.schema),
            requests=self.spent.get("requests", 0),
            retries=self.spent.get("retries", 0),
            retried=by_reason("retry:", self.spent),
            first_null=places,
            notes=(*prompts.source.notes, *self.remarks),
            **common,
        )


def _check_keep(keep: Sequence[str]) -> None:
    """Names that differ in case only cannot be read again."""
    folded = [name.casefold() for name in keep]
    taken = sorted(name for name in keep if name.casefold() in {"prompt", *COLUMNS})
    if taken or len(set(folded)) < len(folded):
        raise BadArgument(
            f"sample: cannot keep {taken or list(keep)};"
            " expected columns that the pool does not have, each once."
        )
