"""What is expected of a run, looked at after the last row and before anything is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import polars as pl

from prefmill.connection import literal, quote
from prefmill.errors import ColumnMissing
from prefmill.plans.bounds import Bounds
from prefmill.plans.expect import NULL, SOURCE, Counted, Expect, Expectation, plain
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.plan import Plan
from prefmill.runs.job.job import Job

if TYPE_CHECKING:
    import duckdb

#: Sources that a report counts; new ones come first, so that none is missed.
_MOST = 1000
#: The rows of each source: a column of a relation.
BY_SOURCE = (
    f"SELECT coalesce({{column}}::VARCHAR, {literal(NULL)}) AS source, count(*) AS n FROM {{rows}}"
    " GROUP BY source"
)


class Told(Protocol):
    """A report: what came of what was expected, and the figures for it."""

    @property
    def expected(self) -> Sequence[Mapping[str, Any]]:
        """What was expected, as plain values."""

    @property
    def counted(self) -> Counted:
        """The figures that it has."""


_Told = TypeVar("_Told", bound=Told)


def expect_of(expect: Expect | Mapping[str, Any] | None, bounds: Bounds) -> Expect | None:
    """The argument `expect` of a command; raises `PlanError` for what is none of its `bounds`."""
    made = Expect(**expect) if isinstance(expect, Mapping) else expect
    return None if made is None else made.of(bounds)


def held(
    report: _Told,
    expect: Expect | None,
    *,
    where: str,
    publishes: bool = True,
    resumes: bool = False,
) -> _Told:
    """The report with what was expected; `ExpectationFailed` where it is to be published and does
    not hold all of it.
    """
    if expect is None:
        return replace(report, expected=()) if report.expected else report  # type: ignore[type-var]
    if publishes:
        found = expect.check(report.counted, where=where, resumes=resumes)
    else:
        found = expect.looked_at(report.counted)
    return replace(report, expected=plain(found))  # type: ignore[type-var]


def sources_asked(
    expect: Expect | None, columns: Sequence[str], *, where: str = "run"
) -> tuple[str, ...]:
    """The column of sources, where some of them are expected."""
    if expect is None or expect.sources is None:
        return ()
    if SOURCE not in columns:
        raise ColumnMissing(
            f"{where}: sources are expected, and no column is {SOURCE!r}; got {columns}.",
            hint="rename it, or name it where records become rows: --source COLUMN.",
        )
    return (SOURCE,)


def sources_in(
    con: duckdb.DuckDBPyConnection, relation: str, expect: Expect | None
) -> Mapping[str, int] | None:
    """The rows of each source, where some of them are expected."""
    if expect is None or expect.sources is None:
        return None
    query = BY_SOURCE.format(column=quote(SOURCE), rows=relation)
    return most_of(expect, pl.DataFrame(con.sql(query).to_arrow_table()))


def counted(plan: FeedbackPlan, job: Job) -> Counted:
    """The figures of what `job` ranked, for the expectations of `plan`."""
    sources_asked(plan.expect, job.source.columns.names)
    sources = sources_in(job.con, job.source.relation, plan.expect)
    return Counted(job.report(), job.source.rejected, sources)


def done_before(plan: Plan, report: _Told) -> _Told:
    """The report of a run that was done before, compared with what is expected now."""
    return held(report, plan.expect, where=plan.where)


def in_key(expect: Expect | None) -> list[str]:
    """What of expectations a run's key has: sources are counted only where they are expected."""
    return [SOURCE] if expect is not None and expect.sources is not None else []


def checked(plan: FeedbackPlan, figures: Counted) -> list[Expectation]:
    """What the plan expects, all of which holds; else `ExpectationFailed`."""
    return plan.expect.check(figures, where="run") if plan.expect else []


def most_of(expect: Expect, rows: pl.DataFrame) -> Mapping[str, int]:
    """The rows of each source that a report counts, of what `BY_SOURCE` gives, once or in parts."""
    sums = rows.group_by("source").agg(pl.col("n").sum())
    new = ~pl.col("source").is_in(list(expect.sources or ()))
    first = sums.sort(~new, -pl.col("n"), "source").head(_MOST)
    return {str(source): int(n) for source, n in first.iter_rows()}
