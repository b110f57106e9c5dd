"""Run a plan from files to files: rank narrow, gather once, publish whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Literal, Unpack

import polars as pl
import polars.selectors as cs

from prefmill.arguments import closed
from prefmill.disk.hidden import temporary
from prefmill.engines import frames
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.pairs import Pairs
from prefmill.pools.frames import is_frame
from prefmill.progress import Progress
from prefmill.readers.find import is_same
from prefmill.runs.account.expecting import checked, counted, done_before, in_key, sources_asked
from prefmill.runs.account.remedies import refused_with_numbers
from prefmill.runs.account.report import RunReport, facts_of, run_report, whole_rows_of, with_words
from prefmill.runs.cluster.where import Looking, parted
from prefmill.runs.foreseen import foreseen
from prefmill.runs.incremental.asked import targets_of
from prefmill.runs.incremental.output import ID
from prefmill.runs.incremental.run import run_incremental
from prefmill.runs.job.exclude_file import check_exclude, excluded_in
from prefmill.runs.job.job import Engine, Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.job.together import NotTogether, picked_frames, picks_together
from prefmill.runs.pair_ids import check_ids, identified, wants_ids
from prefmill.runs.records.commands import recorded
from prefmill.shapes.source import words_in
from prefmill.shown import amount
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, RoleNames
from prefmill.telemetry.watch import watched
from prefmill.warehouse.address import Address
from prefmill.writers import write as writers
from prefmill.writers.formats import Format, in_parts
from prefmill.writers.write import outputs_of


@watched()
def run(
    plan: FeedbackPlan,
    inputs: Inputs,
    output: str | Path | None,
    *,
    roles: RoleNames | None = None,
    engine: Engine | Literal["ray"] = "auto",
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    keep: Sequence[str] = (),
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    allow_empty: bool = False,
    incremental: bool = False,
    changes: str | Path | None = None,
    spreadsheet_safe: bool = False,
    pair_id: bool | None = False,
    exclude: str | Path | None = None,
    partition_by: Sequence[str] = (),
    progress: Progress | None = None,
    **looking: Unpack[Looking],
) -> RunReport:
    """Run a plan over feedback; the arguments are those of `prefmill.run`."""
    if incremental or changes is not None:
        _refuse_incremental(output, engine, split, incremental)
        if spreadsheet_safe:
            raise BadArgument(
                "run: an incremental run writes Parquet; got spreadsheet_safe, which is of CSV.",
                hint="leave --spreadsheet-safe out.",
            )
    layout = format or plan.layout
    check_ids(pair_id, layout, plan.rows_are, engine)
    if partition_by and (incremental or engine == "ray" or output is None):
        _refuse_partitions(incremental, engine)
    excluded = None
    if exclude is not None:
        check_exclude(plan, incremental=incremental)
        excluded = excluded_in(exclude, **parted("run", engine, looking)[1])
    if engine == "ray":
        from prefmill.runs.cluster import spread

        return spread.run(
            plan,
            inputs,
            output,
            roles=roles,
            format=format,
            chat=chat,
            margin_scale=margin_scale,
            keep=keep,
            split=split,
            overwrite=overwrite,
            allow_empty=allow_empty,
            spreadsheet_safe=spreadsheet_safe,
            excluded=excluded,
            progress=progress,
            **looking,
        )
    _, reading = parted("run", engine, looking)
    started = time.perf_counter()
    # Who names no format and keeps a column has it.
    whole_rows = whole_rows_of(plan, layout, keep if format else ())
    if incremental and output is not None:
        return run_incremental(
            plan,
            inputs,
            targets_of(output, changes),
            Path(output),
            roles=roles,
            layout={"format": layout, "chat": chat, "margin_scale": margin_scale},
            keep=keep,
            whole_rows=whole_rows,
            overwrite=overwrite,
            allow_empty=allow_empty,
            progress=progress,
            started=started,
            reading=reading,
        )
    laid_out = {"format": layout, "chat": chat, "margin_scale": margin_scale, "keep": keep}
    recording = recorded(
        plan.command,
        inputs,
        output,
        reading,
        overwrite=overwrite,
        split=split,
        spreadsheet_safe=spreadsheet_safe,
        in_place=plan.every_row,
        words=words_in(plan.rows, roles or {}).named(),
        plan=plan.content(),
        carried=in_key(plan.expect),
        pair_id=pair_id,
        partition_by=partition_by,
        exclude=excluded and excluded.digest,
        **laid_out,
    )
    with recording as record:
        if record.done:
            return done_before(plan, record.restored(RunReport))
        job_here = opened(
            plan,
            inputs,
            roles=roles,
            engine=engine,
            keep=keep,
            whole_rows=whole_rows,
            parts=in_parts(layout) and not chat,
            excluded=frozenset() if excluded is None else excluded.ids,
            progress=progress,
            **reading,
        )
        with job_here as job, refused_with_numbers(job):
            record.facts |= facts_of(plan, roles, job)
            sources_asked(plan.expect, job.source.columns.names)  # before an hour of ranking

            def report(written: writers.Written | None) -> RunReport:
                return run_report(
                    plan,
                    job,
                    job,
                    written,
                    figures=counted(plan, job),
                    engine=job.engine,
                    started=started,
                    plan_hash=with_words(plan, roles, job.rowed).hash(),
                    notes=excluded.told(job.pairs_excluded, job.ids_met) if excluded else (),
                )

            if output is None:
                return report(None)
            if plan.every_row:
                _refuse_loss(job, output)
            record.read(job.records.inputs)
            unwritten, columns = job.assembly.unwritten, job.assembly.schema()
            given = {name: kind for name, kind in columns.items() if name not in unwritten}
            schema = pl.Schema(given)
            ids = wants_ids(pair_id, schema)
            if ids:
                schema[ID] = pl.String()
            write = partial(
                writers.write,
                schema=schema,
                target=output,
                format=layout,
                chat=chat,
                margin_scale=margin_scale,
                split=split,
                seed=plan.seed,
                overwrite=record.overwrites,
                prompt=job.roles.prompt if whole_rows else "prompt",
                publish_empty=allow_empty,
                memory_bytes=reading.get("memory_bytes"),
                spreadsheet_safe=spreadsheet_safe,
                partition_by=partition_by,
                publish=record.publisher(report),
            )
            ways: list[Callable[[], Iterator[pl.DataFrame]]] = [job.frames]
            if ids:
                ways = [partial(identified, job, reading)]
            elif engine == "auto" and picks_together(job):
                ways.insert(0, partial(picked_frames, job))
            written = None
            while written is None:
                with suppress(NotTogether):  # then nothing was published
                    frames_out = _expected(plan, job, ways.pop(0)())
                    # By selector: a name may look like a pattern.
                    columns_out = cs.by_name(*schema.names())
                    written = write(frame.select(columns_out) for frame in frames_out)
            return record.made or report(None)


@closed("pair_report")
def pair_report(
    data: Inputs, plan: FeedbackPlan | None = None, **roles: Unpack[RoleNames]
) -> PairReport:
    """What `plan` (default `Pairs()`) uses of `data` and why it drops the rest, writing nothing.

    `data` is whatever `run` takes; of a Polars frame only the columns of roles are read.

    >>> answers = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 5, 1]}
    >>> account = pair_report(pl.DataFrame(answers))
    >>> account.pairs_out, dict(account.dropped)
    (0, {'single_completion': 1, 'tie': 2})
    """
    plan = plan or Pairs()
    if is_frame(data):
        return frames.report(plan, data, **roles)
    done = run(plan, data, None, roles=roles)
    return PairReport(**{field.name: getattr(done, field.name) for field in fields(PairReport)})


def explain(
    plan: FeedbackPlan,
    inputs: Inputs,
    *,
    roles: RoleNames | None = None,
    engine: Engine | Literal["ray"] = "auto",
    output: str | Path | None = None,
    partition_by: Sequence[str] = (),
    incremental: bool = False,
    changes: str | Path | None = None,
    **reading: Unpack[Reading],
) -> str:
    """What `run` would do with these arguments: inputs, roles, the plan, and the query of its
    engine; the folders of its output, and which files an incremental run would read again. Reads
    the inputs, writes nothing. Raises what `run` raises for options that do not go together.
    """
    written: list[Path] = []
    if output is None or Address.of(output) is None:
        if incremental or changes is not None:
            _refuse_incremental(output or "", engine, None, incremental)
        if partition_by and (incremental or engine == "ray"):
            _refuse_partitions(incremental, engine)
        if output is not None and str(output) != "-":
            written = (
                targets_of(output, changes)
                if incremental
                else [Path(path) for path in outputs_of(output, None, partition_by)]
            )
    rejects = reading.get("rejects")
    reading["without"] = [*reading.get("without", ()), *map(str, written)]
    if rejects is not None:
        reading["without"] = [*reading["without"], str(rejects)]
    further = foreseen(
        inputs,
        output,
        partition_by=partition_by,
        incremental=incremental,
        changes=changes,
        without=reading["without"],
    )
    local: Engine = "duckdb" if engine == "ray" else engine
    in_buckets = "ray, which runs the steps of duckdb over buckets of whole prompts"
    with temporary(reading.get("temp_dir")) as home:
        # What is malformed is set aside here too, and goes with the folder.
        reading["rejects"] = None if rejects is None else home / "rejects.jsonl"
        with opened(plan, inputs, roles=roles, engine=local, **reading) as job:
            told = in_buckets if engine == "ray" else job.engine
            rejected = f", {job.source.rejected:,} malformed" if job.source.rejected else ""
            lines = [
                f"inputs: {amount(job.source.rows, 'row')}{rejected}",
                f"roles: {job.roles}",
                f"engine: {told}",
                *further,
                f"plan {plan.hash()}:",
                plan.to_toml(),
                job.explain(),
            ]
    return "\n".join(lines) + "\n"


def _refuse_incremental(
    output: str | Path | None, engine: str, split: Mapping[str, float] | None, incremental: bool
) -> None:
    if not incremental:
        raise BadArgument("run: changes is of incremental runs.", hint="--incremental.")
    if output is None:
        raise BadArgument("run: an incremental run has an output; got None.")
    if split is not None:
        raise BadArgument(
            "run: an incremental run writes one output; got split.",
            hint="split it later: split_of(prompt, ...) in SQL gives the split of a prompt.",
        )
    if engine not in ("auto", "duckdb"):
        raise BadArgument(
            f"run: incremental runs have the engine 'duckdb'; got {engine!r}.",
            hint="leave --engine out.",
        )


def _refuse_partitions(incremental: bool, engine: str) -> None:
    what = "engine 'ray'" if engine == "ray" else "no output"
    if incremental:
        what = "an incremental run"
    raise BadArgument(
        f"run: partitions are written by a whole run on one machine; got {what}.",
        hint="leave partition_by out.",
    )


def _expected(
    plan: FeedbackPlan, job: Job, output: Iterable[pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """The frames of the output; after the last one it is known whether it may be published."""
    yield from output
    if plan.expect is not None:
        checked(plan, counted(plan, job))


def _refuse_loss(job: Job, output: str | Path) -> None:
    """Advantages may replace their input, but then every row has to stay."""
    named = [label for label, _ in job.source.inputs]
    if not any(is_same(file, output) for file in (*job.source.files, *named)):
        return
    account = job.report()
    lost = account.rows_in - account.pairs_out + job.source.rejected
    if lost:
        raise BadArgument(
            f"run: {str(output)!r} is the input, and {lost:,} of its rows would be lost.",
            hint="write to another name.",
        )
