"""What an input is told apart by: a run goes on, or is done, where all of it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefmill.disk.targets import version_of
from prefmill.objects import is_object
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading

#: Options of reading that decide what rows are.
_MEANING = ("encoding", "delimiter")


def identity_of(job: Job, reading: Reading) -> dict[str, Any]:
    """The files that a job reads, those that are joined to them, and how their text is read."""
    source, shape = job.records, job.rowed.shape
    stays = source.stays or [None] * len(source.files)
    files = []
    for label, rows, version in zip(source.labels, source.file_rows, stays, strict=True):
        known = _version(label, job.home) if version is None else [version.tag]
        # A table in memory has a file of ours, whose name is of this life only.
        name = "a table in memory" if Path(label).is_relative_to(job.home) else label
        files.append([name, rows, *known])
    joins = shape.joins if shape else ()
    options: Mapping[str, Any] = dict(reading)
    return {
        "files": files,
        "joined": [[join.file, *_version(join.file, job.home)] for join in joins],
        **{name: options[name] for name in _MEANING if options.get(name) is not None},
    }


def _version(label: str, home: Path) -> list[Any]:
    """What changes with the content of a file: its size and time, an object's tag, our own's hash.

    Nothing is known of what is behind a URL of other kinds.
    """
    path = Path(label)
    if is_object(label):
        return [version_of(path)]
    try:
        if path.is_relative_to(home):
            with path.open("rb") as file:
                return [hashlib.file_digest(file, "sha256").hexdigest()]
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
