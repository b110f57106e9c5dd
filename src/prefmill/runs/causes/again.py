"""A run that was done, opened again from its record: the same plan over the same inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from prefmill.disk import records
from prefmill.disk.hidden import temporary
from prefmill.disk.records import Document
from prefmill.disk.targets import from_here, shown
from prefmill.errors import BadInput
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.kinds import FEEDBACK_KINDS
from prefmill.progress import Progress
from prefmill.readers.find import find_files
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.records.inputs import IN_MEMORY, Known, known_of, stat_of
from prefmill.runs.records.kept import record_named
from prefmill.table.roles import RoleNames

#: What of a key says how the inputs were read.
_READING = ("encoding", "delimiter", "rejects")


@dataclass(frozen=True)
class Run:
    """A run as its record has it: the plan, the inputs, how they are read, and what came out."""

    where: str
    output: str
    plan: FeedbackPlan
    inputs: Sequence[str]
    words: RoleNames
    reading: Reading
    document: Document
    parent: Path

    @property
    def rows_out(self) -> int | None:
        """Pairs, labels or picks that came out, as the record counts them."""
        rows = self.document.get("report", {}).get("pairs_out")
        return None if rows is None else int(rows)

    @property
    def files(self) -> list[Path]:
        """The files of the output."""
        outputs = self.document["outputs"]
        if self.document["key"].get("incremental"):
            outputs = outputs[:1]
        return [self.parent / file["path"] for each in outputs for file in each.get("files", ())]

    @contextmanager
    def opened(self, reading: Reading, progress: Progress | None) -> Iterator[Job]:
        """The job of the run, on our own engine, with `reading` on top of how it was read."""
        with temporary(reading.get("temp_dir")) as home:
            again: Reading = {**self.reading, **reading}
            if rejects := again.get("rejects"):
                again["rejects"] = home / Path(rejects).name  # the run's own stays as it is
            job_here = opened(
                self.plan,
                list(self.inputs),
                roles=self.words,
                engine="duckdb",
                progress=progress,
                **again,
            )
            with job_here as job:
                yield job

    def check_rows(self, rows: int) -> None:
        """Raise `BadInput` where the same plan over the same inputs gives another number of rows.

        Then the record does not say all that decided: another version of the program, say.
        """
        if self.rows_out not in (None, rows):
            raise self.another(f"{rows:,} rows, expected {self.rows_out:,}")

    def another(self, got: str) -> BadInput:
        """The error for a run that gives other rows when it is played again."""
        return BadInput(
            f"{self.where}: the run of {self.output!r} cannot be played again; got {got}.",
            hint="another version of prefmill may have written it: make it again with --overwrite.",
        )


def run_of(output: str | Path, where: str) -> Run:
    """The run that wrote `output`.

    Raises `BadInput` where nothing is known of it, where the output or an input is another than the
    record says, and where the inputs cannot be read again.
    """
    document, parent = record_named(output)
    told = document.get("plan") or {}
    word = next(iter(told), "")
    if word not in FEEDBACK_KINDS:
        raise BadInput(
            f"{where}: {shown(output)!r} was written by {document.get('command')!r}; expected a run"
            " of pairs, unpair, best or advantages.",
            hint="prefmill runs lists what was written, and by which command.",
        )
    key = document["key"]
    outputs = document["outputs"][:1] if key.get("incremental") else document["outputs"]
    if not all(records.files_stand(each, parent) for each in outputs):
        raise BadInput(
            f"{where}: {shown(output)!r} is not what its run left.",
            hint=f"prefmill runs verify {shown(output)} says what differs.",
        )
    if key.get("exclude"):
        raise BadInput(
            f"{where}: {shown(output)!r} was made with --exclude, by a file that its record does"
            " not keep; expected a run without it.",
            hint="run without --exclude into another output, and ask of that one.",
        )
    inputs = [*key.get("inputs", ()), *key.get("joined", ())]
    _check_inputs(inputs, where, shown(output))
    reading = {name: key[name] for name in _READING if key.get(name)}
    return Run(
        where,
        shown(output),
        _plan(word, told[word], document.get("seed")),
        _inputs([str(name) for name, *_ in key["inputs"]], key.get("rows") or {}, where),
        cast(RoleNames, key.get("rows") or {}),
        cast(Reading, reading),
        document,
        parent,
    )


def _plan(word: str, told: Mapping[str, Any], seed: object) -> FeedbackPlan:
    """The plan of a record, where every number is a float."""
    kind = FEEDBACK_KINDS[word]
    known = {field.name for field in fields(kind)}
    values = {name: _whole(value) for name, value in told.items() if name in known}
    if seed is not None:
        values["seed"] = seed
    return kind(**values)


def _inputs(names: Sequence[str], words: Mapping[str, Any], where: str) -> list[str]:
    """The files of a record as they are to be read: a folder where a role is its hive partition.

    A record names files, and the folders above a file that is named itself are no columns.
    """
    columns = {text for value in words.values() for text in _listed(value)}
    found = list(dict.fromkeys(_above_partition(name, columns) for name in names))
    if found != list(names):
        now = [item.path for each in found for item in find_files(each)]
        if now != list(names):
            raise BadInput(
                f"{where}: other files lie next to the inputs; got {len(now)}, expected"
                f" {len(names)}.",
                hint="move files that came later out of the folder of partitions.",
            )
    return [from_here(each) for each in found]


def _above_partition(path: str, columns: set[str]) -> str:
    """The folder above the first partition of a path whose key is one of the columns."""
    parts = path.split(os.sep)
    for place, part in enumerate(parts[:-1]):
        if "=" in part and part.partition("=")[0] in columns:
            return os.sep.join(parts[:place])
    return path


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value or ()]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_inputs(inputs: Sequence[Known], where: str, output: str) -> None:
    for name, *facts in inputs:
        if name == IN_MEMORY or facts[-1] is None:
            raise BadInput(
                f"{where}: {output!r} was made of {name!r}, which cannot be read again;"
                " expected files.",
                hint="write the input to a file, and run again.",
            )
        now = _facts(str(name), len(facts))
        if now != facts:
            raise BadInput(
                f"{where}: the input {shown(name)!r} of {output!r} is not what it was;"
                f" got {_told(now)}, expected {_told(facts)}.",
                hint="bring it back as it was, or keep a copy of the inputs of each run.",
            )


def _facts(name: str, count: int) -> list[Any]:
    """What tells an input's content now."""
    if count == 2:
        path = name if os.path.exists(name) else name.rpartition("#")[0]
        return stat_of(path or name)
    try:
        ((_, *facts),) = known_of([name])
    except (BadInput, ValueError):
        return [None]
    return facts


def _told(facts: Sequence[Any]) -> str:
    if facts[-1] is None:
        return "no such file"
    if len(facts) == 2:
        return f"{facts[0]:,} bytes and the time {facts[1]}"
    return f"the version {facts[0]}"
