"""Score a pool from files to a file: the rows of the input, and score columns after theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from prefmill.disk.targets import target_of
from prefmill.errors import BadArgument
from prefmill.models.contract import check_on_bad_row
from prefmill.plans.bounds import SCORE
from prefmill.plans.expect import Expect
from prefmill.progress import Progress, silent
from prefmill.runs.account.expecting import expect_of
from prefmill.runs.job.opening import Reading
from prefmill.runs.resumable.chunks import check_chunk_rows
from prefmill.runs.resumable.score_report import ScoreReport
from prefmill.runs.resumable.scoring import Scoring
from prefmill.runs.workers.workers import Workers, workers_of
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import as_scorer
from prefmill.table.roles import RoleNames
from prefmill.telemetry.watch import watched


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
    run = Scoring(
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
