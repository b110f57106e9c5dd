"""Sample answers from files to a file: a pool, with every distinct prompt's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from prefmill.disk.targets import target_of
from prefmill.errors import BadArgument
from prefmill.models.contract import check_on_bad_row
from prefmill.plans.bounds import SAMPLE
from prefmill.plans.expect import Expect
from prefmill.progress import Progress, silent
from prefmill.runs.account.expecting import expect_of
from prefmill.runs.job.opening import Reading
from prefmill.runs.resumable.chunks import check_chunk_rows
from prefmill.runs.resumable.sample_report import SampleReport
from prefmill.runs.resumable.sampling import COLUMNS, Sampling
from prefmill.runs.workers.workers import Workers, workers_of
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import as_sampler
from prefmill.sampling.seeds import Asked
from prefmill.shapes.words import Rows
from prefmill.telemetry.watch import watched

#: Of answers, where none are named.
TEMPERATURES = (0.8, 0.9)
CHUNK_ROWS = 256


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

    >>> import tempfile, polars as pl
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
    run = Sampling(
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


def _check_keep(keep: Sequence[str]) -> None:
    """Names that differ in case only cannot be read again."""
    folded = [name.casefold() for name in keep]
    taken = sorted(name for name in keep if name.casefold() in {"prompt", *COLUMNS})
    if taken or len(set(folded)) < len(folded):
        raise BadArgument(
            f"sample: cannot keep {taken or list(keep)};"
            " expected columns that the pool does not have, each once."
        )
