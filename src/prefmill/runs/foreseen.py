"""What a run says before it is run of where its rows go, and of what it would read again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from prefmill.runs.incremental.asked import targets_of
from prefmill.runs.records.inputs import known_of
from prefmill.runs.records.recording import Recording
from prefmill.table.roles import Inputs
from prefmill.warehouse.address import Address


def foreseen(
    inputs: Inputs,
    output: str | Path | None,
    *,
    partition_by: Sequence[str] = (),
    incremental: bool = False,
    changes: str | Path | None = None,
    without: Collection[str] = (),
) -> list[str]:
    """A line for each of these options; reads the record of `output`, and no row."""
    lines = []
    if partition_by:
        lines.append(f"folders: one for each value of {', '.join(partition_by)}, of the output")
    if incremental:
        lines.append(f"incremental: {_read_again(inputs, output, changes, without)}")
    return lines


def _read_again(
    inputs: Inputs, output: str | Path | None, changes: str | Path | None, without: Collection[str]
) -> str:
    if output is None or Address.of(output) is not None:
        return "new and changed files are read, which the run itself finds out"
    targets = targets_of(output, changes)
    known = known_of(inputs, without=[*without, *map(str, targets)])
    record = Recording("run", targets, {"inputs": known}, overwrite=False)
    record.look(None)
    if record.previous is None:
        return f"all {len(known)} files are read; {str(output)!r} is of no run before"
    if not record.previous["key"].get("incremental"):
        return (
            f"{str(output)!r} is of a run that was not incremental: with --overwrite all"
            f" {len(known)} files are read"
        )
    before, now = record.previous["key"].get("inputs", []), record.key["inputs"]
    again = [str(each[0]) for each in now if each not in before]
    gone = {str(each[0]) for each in before} - {str(each[0]) for each in now}
    told = f"of {len(now)} files {len(again)} are new or changed and read again"
    for word, names in (("read again", again), ("gone", sorted(gone))):
        if names:
            told += f"; {word}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
    return told
