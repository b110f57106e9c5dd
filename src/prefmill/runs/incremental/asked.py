"""What is asked of an incremental run, where its outputs lie, and whether its plan has parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefmill.disk.targets import is_object
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.cluster.parts_out import PartsOut
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading
from prefmill.writers.place import Place

#: How the note begins that counts what is in the change file.
CHANGES = "changes: "


@dataclass(frozen=True)
class Asked:
    """What of the arguments of `prefmill.run` is asked of an incremental run."""

    plan: FeedbackPlan
    output: Path
    changes: Path
    layout: Mapping[str, Any]
    allow_empty: bool
    started: float
    plan_hash: str
    reading: Reading

    @property
    def parts(self) -> PartsOut | None:
        """The parts that the output names."""
        return PartsOut.of(self.output)

    @property
    def target(self) -> Path:
        """The file, or the folder, that appears."""
        return self.parts.folder if self.parts else self.output


def targets_of(output: str | Path, changes: str | Path | None) -> list[Path]:
    """What an incremental run publishes: the output, and the change file next to it.

    >>> targets_of("out/pairs.parquet", None)
    [PosixPath('out/pairs.parquet'), PosixPath('out/pairs-changes.parquet')]
    >>> targets_of("pairs/part-*.parquet", None)
    [PosixPath('pairs'), PosixPath('pairs-changes.parquet')]
    """
    if is_object(Path(output)) or Place.of(output).kind != "parquet":
        raise BadArgument(
            f"run: an incremental run writes local Parquet; got {str(output)!r}.",
            hint="name the output pairs.parquet, or pairs/part-*.parquet.",
        )
    parts = PartsOut.of(output)
    target = parts.folder if parts else Path(output)
    stem = target.name if parts else target.stem
    beside = Path(changes) if changes else target.with_name(f"{stem}-changes.parquet")
    if beside.suffix != ".parquet" or beside.absolute().parent != target.absolute().parent:
        raise BadArgument(
            f"run: the change file is Parquet, and next to the output; got {str(beside)!r}.",
            hint=f"name it {str(target.with_name('changes.parquet'))!r}.",
        )
    if beside.name == target.name:
        raise BadArgument(f"run: the change file is the output; got {str(beside)!r}.")
    return [target, beside]


def everything(plan: FeedbackPlan, job: Job) -> str:
    """Why all rows have to be read again, whatever changed; "" where they have not."""
    known = dict.fromkeys(plan.quantiles)
    if setting := replace(plan, **known).wide:  # type: ignore[arg-type]
        return f"{setting} needs all rows"
    if plan.expect is not None and plan.expect.sources is not None:
        return "expected sources are counted in all rows"
    if job.rowed.shape is not None:
        return "rows of records are made of all records"
    if job.plan.waits and job.plan.aggregate != "none":
        return "thresholds wait for the aggregated scores of all rows"
    return ""
