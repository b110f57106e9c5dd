"""The narrow rows of two runs: what each row is known by, and what is read of it but its texts.

Of a row a run reads columns by their role. Two runs may read other columns of the same files, so
the rows of both have all columns that either reads, under names that both share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.connection import literal, quote
from prefmill.engines.macros import install_used
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.incremental.rows import class_of
from prefmill.runs.job.job import Job
from prefmill.table.roles import RoleNames, Roles, named

#: Roles that are values of a row; two runs may take them from different columns.
_VALUES = ("score", "id", "annotator", "aspect", "stage", "weight", "logprob", "conclusion")
#: Those of them that say which judgement of an answer a row is.
_TELLING = ("id", "annotator", "aspect", "stage")


@dataclass(frozen=True)
class Layout:
    """How the rows of one run are laid out.

    columns  shared name of each column, with its column of the input (None: it has no such column)
    names    the roles of its plan, by shared names
    plan     its plan with settled thresholds, by shared names
    telling  shared names that say which judgement of an answer a row is
    text     ranking looks at completions themselves
    grouped  both runs group by the same columns, so these tell rows apart
    """

    columns: Mapping[str, str | None]
    names: RoleNames
    plan: FeedbackPlan
    telling: tuple[str, ...]
    text: bool
    grouped: bool


def layouts(a: Job, b: Job) -> tuple[Layout, Layout]:
    """The layouts of two jobs that were ranked: their columns have the same names in both."""
    own, other = _shared(a, b), _shared(b, a)
    told = tuple(
        f"c_{column}"
        for role in _TELLING
        if (column := getattr(a.roles, role)) and column == getattr(b.roles, role)
    )
    names = dict.fromkeys([*own.values(), *other.values()])
    text = any(_needs_text(job) for job in (a, b))
    groups = ([shared[name] for name in job.roles.group] for job, shared in ((a, own), (b, other)))
    grouped = next(groups) == next(groups)
    out = []
    for job, mine, others in ((a, own, other), (b, other, own)):
        inverse = {new: column for column, new in mine.items()}
        there = set(job.source.columns.names)
        back = {new: column for column, new in others.items() if column in there}
        columns = {name: inverse.get(name) or back.get(name) for name in names}
        out.append(Layout(columns, _names(job.roles, mine), _plan(job, mine), told, text, grouped))
    return out[0], out[1]


def _needs_text(job: Job) -> bool:
    """Whether ranking looks at completions, or at more than their equality."""
    by_length = getattr(job.plan, "length_control", False)
    return bool(by_length or job.dtypes[job.roles.completion] != pl.String())


def _shared(job: Job, other: Job) -> dict[str, str]:
    """The shared name of each column of values that a job reads."""
    mine, theirs = job.source.columns.names, other.source.columns.names
    shared: dict[str, str] = {}

    def add(role: str, column: str | None, others: str | None) -> None:
        if not column:
            return
        apart = others and others != column and column not in theirs and others not in mine
        shared.setdefault(column, f"r_{role}" if apart else f"c_{column}")

    for role in _VALUES:
        column = getattr(job.roles, role)
        if column in mine:
            add(role, column, getattr(other.roles, role))
    for place, column in enumerate(job.roles.group):
        groups = other.roles.group
        add(f"group{place}", column, groups[place] if place < len(groups) else None)
    for column in _weighed(job):
        add(column, column, None)
    return shared


def _weighed(job: Job) -> tuple[str, ...]:
    """The columns of scores whose weighted sum is the score."""
    return tuple(job.program.read.weights)


def _names(roles: Roles, shared: Mapping[str, str]) -> RoleNames:
    new: dict[str, Any] = {
        role: shared[column] for role in _VALUES if (column := getattr(roles, role)) in shared
    }
    group = tuple(shared[column] for column in roles.group)
    return named(replace(roles, prompt="prompt", completion="completion", group=group, **new))


def _plan(job: Job, shared: Mapping[str, str]) -> FeedbackPlan:
    plan = replace(job.plan, rows=None, expect=None, on_invalid="drop")
    if _weighed(job):
        weights = {shared[name]: weight for name, weight in (plan.weights or {}).items()}
        plan = replace(plan, weights=weights)
    return plan


def write_rows(job: Job, layout: Layout, path: Path) -> None:
    """A row of numbers and short texts for each row of input.

    pos      its position
    class    64 bits of its group key: rows that compare have the same
    who      128 bits of its prompt and completion; twin: how many rows before it have the same
    text     128 bits of its completion, in hexadecimal digits
    prompt, completion, and the columns of the layout. Completions are texts where ranking looks at
    them, else their 128 bits.
    """
    roles, source = job.roles, job.source
    columns = {
        new: job.scalars.get(column, quote(column)) if column else "NULL"
        for new, column in layout.columns.items()
    }
    listed = "".join(f", {column} AS {quote(new)}" for new, column in columns.items())
    text = "completion_text" if layout.text else "text"
    group = class_of(quote(roles.prompt), [quote(name) for name in roles.group])
    grouping = roles.group if layout.grouped else ()
    groups = "".join(f" || pref_part({quote(name)}::VARCHAR)" for name in grouping)
    telling = "".join(f" || pref_part({quote(name)}::VARCHAR)" for name in layout.telling)
    query = (
        "WITH told AS (SELECT pos, class, unhex(md5(parts || part)) AS who, md5(part) AS text,"
        f" prompt, completion_text, * EXCLUDE (pos, class, part, parts, prompt, completion_text)"
        " FROM (SELECT *, pref_part(completion_text) AS part FROM"
        f" (SELECT {source.position} AS pos, {group} AS class,"
        f" pref_part({quote(roles.prompt)}){groups} AS parts, {quote(roles.prompt)} AS prompt,"
        f" {quote(roles.completion)} AS completion_text{listed} FROM {source.relation})))"
        " SELECT * EXCLUDE (completion_text),"
        f" {text} AS completion,"
        " row_number() OVER (PARTITION BY who ORDER BY pos) - 1 AS twin,"
        f" unhex(md5(who::VARCHAR{telling})) AS vote"
        " FROM told"
    )
    install_used(job.con, [query])
    job.con.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION snappy)")
