"""What `check` says of the shape of records: its name, the line to type, ranks that meet."""

from __future__ import annotations

from prefmill.runs.job.job import Job
from prefmill.runs.looks import counts
from prefmill.shapes.names import RANKS, plain
from prefmill.shapes.words import Rows
from prefmill.shown import amount
from prefmill.table.roles import named

_LONG = "one answer a row"
_NAMED = "as the options say"


def shape_told(job: Job) -> str:
    """The name of the shape of the records."""
    if job.rowed.shape is None:
        return _LONG
    name = job.rowed.recognised or _NAMED
    return f"{name}, each record a group" if job.rowed.inside_records else name


def line_told(job: Job) -> str:
    """The options that read the records so, with nothing left to recognition."""
    shape = job.rowed.shape
    return shape.words.options() if shape else Rows(**named(job.roles)).options()


def ranks_that_meet(job: Job, asks: counts.Asks) -> list[str]:
    """What is said of prompts whose ranks are those of several lists, once they are ranked."""
    if job.rowed.inside_records or not _is_rank(job):
        return []
    prompts = counts.meeting(asks)
    if not prompts:
        return []
    return [
        f"{amount(prompts, 'prompt has', 'prompts have')} one rank several times: ranks compare"
        " inside one list only, and these may be of several lists; --group COLUMN names what a list"
        " has for itself"
    ]


def _is_rank(job: Job) -> bool:
    shape = job.rowed.shape
    score = named(job.roles).get("score") if shape is None else shape.words.score
    if not isinstance(score, str) or not score.startswith("-"):
        return False
    return plain(score.removeprefix("-")) in RANKS
