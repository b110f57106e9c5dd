"""`prefmill pairs --incremental`: what a run recomputes where most of its input is as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefmill.disk import records
from prefmill.disk.hidden import sweep
from prefmill.disk.targets import check_free
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress
from prefmill.runs.account.expecting import done_before
from prefmill.runs.account.remedies import refused_with_numbers
from prefmill.runs.account.report import RunReport, facts_of, with_words
from prefmill.runs.incremental.asked import CHANGES, Asked
from prefmill.runs.incremental.output import refuse_two_rows
from prefmill.runs.incremental.work import Incremental
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.records.commands import key_of_plan
from prefmill.runs.records.inputs import is_stdin
from prefmill.runs.records.recording import recording
from prefmill.shapes.source import Rowed
from prefmill.table.roles import NO_RECORDS, Inputs, RoleNames
from prefmill.writers.formats import in_parts


def run_incremental(
    plan: FeedbackPlan,
    inputs: Inputs,
    targets: Sequence[Path],
    output: Path,
    *,
    roles: RoleNames | None,
    layout: Mapping[str, Any],
    keep: Sequence[str],
    whole_rows: bool,
    overwrite: bool,
    allow_empty: bool,
    progress: Progress | None,
    started: float,
    reading: Reading,
) -> RunReport:
    """Run `plan` over what changed in `inputs`; `targets` are those of `targets_of(output)`.

    The same key but other inputs is what an incremental run is for. Raises what `prefmill.run`
    raises, and `RunDiffers` where `output` is of another plan or other options.
    """
    if is_stdin(inputs):
        raise BadArgument(
            "run: an incremental run reads its inputs again; got stdin.", hint="name a file."
        )
    refuse_two_rows(layout["format"], plan.rows_are)
    sweep(reading.get("temp_dir"))
    changes = targets[1]
    reading["without"] = [*reading.get("without", ()), *map(str, targets)]
    key = key_of_plan(plan, inputs, roles, reading, keep=keep, incremental=True, **layout)
    still = partial(_is_still, changes.name)
    with recording(
        plan.command, targets, key, overwrite=overwrite, free=("inputs",), still=still
    ) as record:
        if record.done:
            report = record.restored(RunReport)
            # The changes were those of that run: now there are none.
            notes = [note for note in report.notes if not note.startswith(CHANGES)]
            return done_before(plan, replace(report, notes=notes))
        check_free(*targets, overwrite=overwrite or record.previous is not None, where="run")
        parts = in_parts(layout["format"]) and not layout["chat"]
        job_here = opened(
            plan,
            inputs,
            roles=roles,
            engine="duckdb",
            keep=keep,
            whole_rows=whole_rows,
            parts=parts,
            ordered=True,
            apart=True,
            progress=progress,
            **reading,
        )
        with job_here as job, refused_with_numbers(job):
            record.facts |= facts_of(plan, roles, job)
            record.refuse_other_words()

            def make(rowed: Rowed, name: str, plan: FeedbackPlan | None = None) -> Job:
                home = job.home / name
                home.mkdir(exist_ok=True)
                return Job(
                    plan or job.plan,
                    rowed,
                    keep,
                    home,
                    "duckdb",
                    job.tell,
                    whole_rows=whole_rows,
                    of_records=(rowed.of_records or NO_RECORDS).for_layout(parts),
                    memory_bytes=reading.get("memory_bytes"),
                    threads=reading.get("threads"),
                    ordered=True,
                )

            asked = Asked(
                plan=plan,
                output=output,
                changes=changes,
                layout=layout,
                allow_empty=allow_empty,
                started=started,
                plan_hash=with_words(plan, roles, job.rowed).hash(),
                reading=reading,
            )
            return Incremental(asked, job, make, record).run()


def _is_still(changes: str, output: Mapping[str, Any], parent: Path) -> bool:
    """Whether an output of a record stands; a change file is its reader's, who may take it."""
    return output["path"] == changes or records.files_stand(output, parent)
