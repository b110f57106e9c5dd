"""What people are told of how the input of a proxy was read."""

from __future__ import annotations

import re

from prefmill.runs.job.job import Job

_READ = "read as: "
#: Columns of these names are what everybody expects.
_USUAL = {"prompt", "completion", "score", "chosen", "rejected", "common", "1", "0"}


def notes_of(job: Job) -> list[str]:
    """The notes of a job, with how rows were read where a column has an unusual name."""
    return [note for note in job.notes if not note.startswith(_READ) or not _is_usual(note)]


def _is_usual(note: str) -> bool:
    values = re.sub(r"--\w+", "", note.removeprefix(_READ))
    return set(re.split(r"[\s,]+", values.strip())) <= _USUAL
