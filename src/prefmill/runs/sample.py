"""Sample answers from files to a file: chunks of whole prompts, committed one by one, published at
once.

prompts ──distinct──▶ requests, each with its seed ──▶ sampler ──▶ ledger ... all there ──▶ a pool
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import polars as pl
import pyarrow as pa

from prefmill._version import __version__
from prefmill.disk.hidden import temporary
from prefmill.disk.ledger import Ledger, key_of
from prefmill.errors import BAD_ROW, AccountingError, BadArgument, BadInput, BadRow
from prefmill.forks import refuse_fork
from prefmill.models.remote import Remote
from prefmill.pools.prompts import Prompts, open_prompts
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.runs.job import Reading
from prefmill.sampling import Answer, LocalSampler, Request
from prefmill.sampling.samplers import whole_text
from prefmill.sampling.seeds import Asked
from prefmill.scoring.bad_rows import OnBadRow, check_on_bad_row, with_bad_rows
from prefmill.scoring.scorers import on_its_date, printed_date
from prefmill.table.chance import spelled
from prefmill.table.conversations import messages_of

#: Of answers, where none are named.
TEMPERATURES = (0.8, 0.9)
CHUNK_ROWS = 256
#: behind the prompt, in this order; kept columns come last
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
_MADE = (
    "completion",
    "id",
    "temperature",
    "seed",
    "finish_reason",
    "logprob",
    "n_tokens",
    "duplicate",
)


@dataclass(frozen=True)
class SampleReport:
    """What sampling did.

    prompts_in = prompts + null_prompts + duplicate_prompts (prompts that an earlier row of the
    input has; sampled once). answers = the sum of `finish_reasons`: `stop` (ended), `length` (cut
    off), what else a server says, and for answers that are not there, whose completion is null, the
    reason (`errors.BAD_ROW`, also in `null`; `first_null` is the first prompt of each). duplicates:
    answers with a text that the prompt already had; empty: answers without text.
    tokens: of all answers, as far as the sampler told (untold: answers whose number it did not
    tell). chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the sampler; tokens_sampled: in this call. Of servers: requests sent by
    this call, retries among them, and why (retried). template_date: the date that a template
    printed, where one does.
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
    keep: Sequence[str] = (),
    chunk_rows: int = CHUNK_ROWS,
    on_bad_row: Literal["error", "null"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> SampleReport:
    """Write a pool: `n` answers of every prompt, spread over the temperatures; killed at any point,
    the same call goes on.

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
        n: answers of a prompt in all; temperature 0 is greedy and gives one of them. The default
            temperatures, 0.8 and 0.9 (0.8 alone for one answer), are those that were found to
            balance exploration and quality in rejection sampling.
        seed, stage: decide, with prompt, temperature and index, the seed of every answer: neither
            order nor sharding nor resuming changes a text, and another stage draws anew.
        stage, source: columns of the pool; `source` is the sampler's name by default.
        prompt, id: the columns of prompt and of the row's id (for messages), where they are not
            called so.
        keep: further columns of the input to carry along, of each prompt's first row.
        chunk_rows: about so many answers, of whole prompts, are committed at a time: at most that
            much work is lost.
        on_bad_row: a prompt that cannot be answered (`errors.BAD_ROW`: too long, refused by
            template or server, ...) is an `error` that names it, or has null completions whose
            finish reason says why. A run that failed goes on with `null` where it was.
        overwrite: replace an output, and forget what an interrupted run of it had done.

    `logprob` is the sum of the log-probabilities of the drawn tokens at temperature 1 (natural
    logarithm), `n_tokens` their number, null where a server tells none. `duplicate` marks a text
    that the prompt already had in an earlier row. Starting again with another model, prompt,
    temperature or seed is refused and the difference named. The same call after success does
    nothing. Raises `PrefmillError`s; `BadRow` for a prompt that cannot be answered.

    >>> import tempfile
    >>> class Echo:
    ...     fingerprint = {"sampler": "echo"}
    ...     def sample(self, requests):
    ...         return [Answer(f"{request.prompt}!", "stop", None, None) for request in requests]
    >>> prompts = pl.DataFrame({"prompt": ["p", "q", None, "p"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = sample(prompts, f"{folder}/pool.parquet", sampler=Echo(), n=3, temperatures=[0.8, 0])
    ...     pool = pl.read_parquet(f"{folder}/pool.parquet")
    >>> pool.select("prompt", "completion", "temperature", "duplicate").rows()[:3]
    [('p', 'p!', 0.8, False), ('p', 'p!', 0.8, True), ('p', 'p!', 0.0, True)]
    >>> done.prompts, done.null_prompts, done.duplicate_prompts, done.answers
    (2, 1, 1, 6)
    """
    from prefmill.writers.write import check_target

    refuse_fork("sample")
    started = time.perf_counter()
    tell = progress or silent
    drawer: Any = LocalSampler(model=sampler) if isinstance(sampler, str | Path) else sampler
    if not callable(getattr(drawer, "sample", None)):
        raise BadArgument(
            f"sample: not a sampler; got {type(sampler).__name__}, expected a model, LocalSampler or EndpointSampler."
        )
    check_on_bad_row("sample", on_bad_row)
    if is_dataclass(drawer):
        drawer = with_bad_rows(drawer, on_bad_row)
    if temperatures is None:
        temperatures = TEMPERATURES[:1] if n == 1 else TEMPERATURES
    asked = Asked.of(n, temperatures, seed, stage, source or _source(drawer))
    if type(chunk_rows) is not int or chunk_rows < 1:
        raise BadArgument(f"sample: chunk_rows must be a whole number >= 1; got {chunk_rows!r}.")
    own = {"prompt", *COLUMNS}
    taken = [
        name for name in keep if name.casefold() in own
    ]  # names that differ in case only cannot be read again
    if taken or len({name.casefold() for name in keep}) < len(keep):
        raise BadArgument(
            f"sample: cannot keep {sorted(taken) or list(keep)}; expected columns that the pool does not have, each once."
        )
    target = Path(output)
    check_target(target, overwrite=True)
    options: dict[str, Any] = {key: value for key, value in reading.items() if key != "temp_dir"}
    options["without"] = [str(target)]
    if options.get("rejects"):
        options["rejects"] = Path(options["rejects"])
        options["without"].append(str(options["rejects"]))
    with temporary(reading.get("temp_dir")) as home:
        tell("reading", None)
        prompts = open_prompts(inputs, prompt, home, keep=keep, id=id, **options)
        _check_writable(prompts, home / "trial" / target.name)  # our own lock is on home
        tell("loading the model", None)
        drawer = on_its_date(drawer, {} if overwrite else key_of(target).get("sampler", {}))
        key = {
            "keep": list(keep),
            "input": {"prompts": prompts.count, "content": prompts.identity},
            **asked.key,
            "sampler": dict(drawer.fingerprint),
            "on_bad_row": on_bad_row,
            "prefmill": __version__.split(".")[0],
        }
        shape = {
            "chunk_prompts": max(1, chunk_rows // len(asked.draws)),
            "sampler": getattr(drawer, "shape", {}),
        }
        with Ledger(target, key, shape, overwrite=overwrite, where="sample") as ledger:
            if ledger.resumed and ledger.shape["sampler"] not in (
                {},
                shape["sampler"],
            ):  # as it was begun, so that no bit differs
                drawer = drawer.with_shape(ledger.shape["sampler"])
            run = _Run(prompts, asked, drawer, ledger, tell, home, on_bad_row)
            missing = [] if ledger.done else ledger.missing(run.sizes)
            before = drawer.usage if isinstance(drawer, Remote) else None
            way, seconds_model, tokens = run.all(missing)
            spent = drawer.usage.since(before) if before is not None else {}
            if not ledger.done:
                tell("writing", None)
                run.publish()
            return run.report(
                template_date=printed_date(drawer),
                way=way,
                seconds_model=round(seconds_model, 3),
                tokens_sampled=tokens,
                chunks_resumed=len(run.sizes) - len(missing),
                seconds=round(time.perf_counter() - started, 3),
                requests=spent.get("requests", 0),
                retries=spent.get("retries", 0),
                retried={
                    name.removeprefix("retry:"): times
                    for name, times in spent.items()
                    if name.startswith("retry:")
                },
            )


@dataclass
class _Run:
    """Prompts, what is asked of them, a sampler, and a ledger."""

    prompts: Prompts
    asked: Asked
    sampler: Any
    ledger: Ledger
    tell: Progress
    home: Path
    on_bad_row: OnBadRow

    @property
    def chunk_prompts(self) -> int:
        return int(self.ledger.shape["chunk_prompts"])

    @property
    def sizes(self) -> np.ndarray:
        """Answers of each chunk, shape (chunks,)."""
        bounds = np.append(np.arange(0, self.prompts.count, self.chunk_prompts), self.prompts.count)
        return np.diff(bounds) * len(self.asked.draws)

    def all(self, missing: list[int]) -> tuple[str, float, int]:
        """Sample the chunks `missing`: how the sampler runs, seconds in it, tokens sampled."""
        if not missing:
            return "", 0.0, 0
        load = getattr(self.sampler, "load", None)
        way = (
            load() if load is not None else ""
        )  # here, so that errors of loading are raised before anything is read
        total, seconds, tokens = int(self.sizes.sum()), 0.0, 0
        done = before = total - int(self.sizes[missing].sum())
        for number, frame in self.prompts.slices(self.chunk_prompts, missing):
            started = time.perf_counter()
            columns, counts = self._chunk(frame)
            seconds += time.perf_counter() - started
            self.ledger.write(number, columns, counts)
            done += int(self.sizes[number])
            tokens += counts["tokens"]
            told = f", {tokens / seconds:,.0f} tokens/s" if tokens else ""
            self.tell(
                f"{done:,} of {total:,} answers, {(done - before) / seconds:,.1f} answers/s{told}",
                done / total,
            )
        return str(way or ""), seconds, tokens

    def _chunk(self, frame: pl.DataFrame) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The columns of a chunk's answers, and what was counted."""
        draws = self.asked.draws
        texts = spelled(frame["prompt"]).to_list()
        prompts, bad = _plain_prompts(frame["prompt"].to_list())
        seeds = [seed for text in texts for seed in self.asked.seeds(text)]
        requests = [
            Request(p, temperature, seeds[i * len(draws) + k])
            for i, p in enumerate(prompts)
            for k, (temperature, _) in enumerate(draws)
        ]
        answers = self._answers(
            requests,
            frame,
            {k: each for k in range(len(requests)) if (each := bad.get(k // len(draws)))},
        )
        completions = [
            None if answer.finish_reason in BAD_ROW else whole_text(answer.text)
            for answer in answers
        ]
        columns = {
            "completion": pa.array(completions, pa.large_string()),
            "id": pa.array(
                [name for text in texts for name in self.asked.ids(text)], pa.large_string()
            ),
            "temperature": pa.array([request.temperature for request in requests], pa.float64()),
            "seed": pa.array(seeds, pa.int64()),
            "finish_reason": pa.array(
                [whole_text(answer.finish_reason) for answer in answers], pa.large_string()
            ),
            "logprob": pa.array([_finite(answer.logprob) for answer in answers], pa.float64()),
            "n_tokens": pa.array([answer.n_tokens for answer in answers], pa.int64()),
            "duplicate": pa.array(_repeated(completions, len(draws)), pa.bool_()),
        }
        counts = {
            "tokens": sum(answer.n_tokens or 0 for answer in answers),
            "untold": sum(answer.n_tokens is None for answer in answers),
            "empty": sum(text == "" for text in completions),
            "duplicates": columns["duplicate"].true_count,
        }
        for i, answer in enumerate(answers):
            reason = answer.finish_reason
            counts[f"finish_reason {reason}"] = counts.get(f"finish_reason {reason}", 0) + 1
            if reason in BAD_ROW:
                counts.setdefault(f"first {reason}", int(frame["row"][i // len(draws)]))
        return columns, counts

    def _answers(
        self, requests: list[Request], frame: pl.DataFrame, bad: dict[int, BadRow]
    ) -> list[Answer]:
        """The answer to every request; a bad one, such as `bad` already are, costs no other, unless
        it ends the run.
        """
        answers: list[Answer | None] = [None] * len(requests)
        left = list(range(len(requests)))
        while left:
            for i, each in bad.items():
                if self.on_bad_row == "error":
                    raise each.named(self._name(frame, i // len(self.asked.draws))) from each
                answers[i] = Answer("", each.reason, None, None)
            left = [i for i in left if i not in bad]
            try:
                found = list(self.sampler.sample([requests[i] for i in left])) if left else []
            except BadRow as error:
                bad = {left[each.row]: each for each in error.found}
                continue
            if len(found) != len(left):
                raise BadInput(
                    f"sample: the sampler gave {len(found)} answers; expected {len(left)}, one for every request."
                )
            for i, answer in zip(left, found, strict=True):
                answers[i] = answer
            break
        return [answer for answer in answers if answer is not None]

    def _name(self, frame: pl.DataFrame, place: int) -> str:
        """A prompt as its owner knows it: the row of the input, and its id where there is one."""
        return self.prompts.source.place_of(
            frame["row"][place], frame["name"][place], home=self.home
        )

    def publish(self) -> None:
        """Write the pool from the chunks, and count."""
        from prefmill.writers.write import write

        schema = _schema(self.prompts)
        counts: dict[str, int] = {}

        def frames() -> Iterator[pl.DataFrame]:
            for number, prompts in self.prompts.slices(self.chunk_prompts, range(len(self.sizes))):
                found = self.ledger.read(number, int(self.sizes[number]))
                if found is None:
                    raise BadInput(
                        f"sample: chunk {number} went away while it was needed; got no such file in {str(self.ledger.folder)!r}."
                    )
                batch, of_chunk = found
                for (
                    name,
                    value,
                ) in (
                    of_chunk.items()
                ):  # chunks come in the order of their prompts: the first is the first
                    counts[name] = (
                        counts.get(name, value)
                        if name.startswith("first ")
                        else counts.get(name, 0) + value
                    )
                made = pl.DataFrame(pa.Table.from_batches([batch]))
                given = prompts[np.repeat(np.arange(prompts.height), len(self.asked.draws))]
                columns = {"prompt": given["prompt"], **{name: made[name] for name in _MADE}}
                columns |= {name: given[f"keep{i}"] for i, name in enumerate(self.prompts.keep)}
                constant = {
                    "stage": pl.lit(self.asked.stage, pl.Int64()),
                    "source": pl.lit(self.asked.source, pl.String()),
                }
                yield (
                    pl.DataFrame(columns).with_columns(**constant).select(list(schema)).cast(schema)
                )

        self.ledger.publishing()
        write(frames(), schema, self.ledger.output, format="pool", overwrite=self.ledger.replaces)
        self.ledger.finish(counts)

    def report(self, **more: Any) -> SampleReport:
        """Account for every prompt and every answer."""
        prompts, counts = self.prompts, self.ledger.counts
        reasons = {
            name.partition(" ")[2]: value
            for name, value in counts.items()
            if name.startswith("finish_reason ")
        }
        firsts = {
            name.partition(" ")[2]: row for name, row in counts.items() if name.startswith("first ")
        }
        answers = int(self.sizes.sum())
        if (
            sum(reasons.values()) != answers
            or prompts.rows != prompts.count + prompts.nulls + prompts.duplicates
        ):
            raise AccountingError(
                f"sample: {answers} answers were asked for, and {reasons} are there; of {prompts.rows} rows."
            )
        return SampleReport(
            prompts_in=prompts.rows,
            prompts=prompts.count,
            null_prompts=prompts.nulls,
            duplicate_prompts=prompts.duplicates,
            answers=answers,
            finish_reasons=reasons,
            duplicates=counts.get("duplicates", 0),
            empty=counts.get("empty", 0),
            tokens=counts.get("tokens", 0),
            untold=counts.get("untold", 0),
            chunks=len(self.sizes),
            peak_rss_mb=peak_rss_mb(),
            output=str(self.ledger.output),
            columns=tuple(_schema(prompts)),
            notes=prompts.source.notes,
            first_null={
                reason: prompts.source.place_of(row, home=self.home)
                for reason, row in firsts.items()
            },
            **more,
        )


def _finite(logprob: float | None) -> float | None:
    """A log-probability, or None for what is none."""
    return logprob if logprob is not None and math.isfinite(logprob) else None


def _plain_prompts(prompts: list[Any]) -> tuple[list[Any], dict[int, BadRow]]:
    """Texts, and messages as samplers take them; and what is neither, by its place."""
    made: list[Any] = []
    bad = {}
    for place, prompt in enumerate(prompts):
        try:
            messages = messages_of(prompt, "user")
            made.append(prompt if isinstance(prompt, str) else messages)
        except BadRow as error:
            bad[place] = error.at(place, where="sample")
            made.append("")
    return made, bad


def _schema(prompts: Prompts) -> pl.Schema:
    """The columns of the pool."""
    own = prompts.schema
    return pl.Schema(
        {"prompt": own["prompt"], **COLUMNS, **{name: own[name] for name in prompts.keep}}
    )


def _check_writable(prompts: Prompts, trial: Path) -> None:
    """Raise now what writing such columns to such a file would raise after hours."""
    from prefmill.writers.write import write

    write([], _schema(prompts), trial, format="pool", overwrite=True)


def _repeated(texts: Sequence[str | None], size: int) -> list[bool]:
    """Which of the texts, `size` a prompt, stand earlier in their prompt.

    >>> _repeated(["a", "a", "a", "b"], 2)
    [False, True, False, False]
    """
    found: list[bool] = []
    left = iter(texts)
    while group := list(islice(left, size)):
        seen: set[str] = set()
        for text in group:
            found.append(text is not None and text in seen)  # no text is no duplicate
            seen |= set() if text is None else {text}
    return found


def _source(sampler: Any) -> str:
    """What the pool calls a sampler: its name, or that of its model."""
    return str(
        getattr(sampler, "name", None) or getattr(sampler, "model", None) or type(sampler).__name__
    )
