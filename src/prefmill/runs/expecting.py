"""What a plan expects of a run, looked at after the last row and before anything is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import polars as pl

from prefmill.connection import literal, quote
from prefmill.errors import ColumnMissing
from prefmill.plans.expect import NULL, SOURCE, Counted, Expectation, plain
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.job import Job
from prefmill.table.report import PairReport

if TYPE_CHECKING:
    from prefmill.runs.cluster.driver import Spread
    from prefmill.runs.report import RunReport

#: Sources that a report counts; new ones come first, so that none is missed.
_MOST = 1000
_BY_SOURCE = (
    f"SELECT coalesce({{column}}::VARCHAR, {literal(NULL)}) AS source, count(*) AS n FROM {{rows}}"
    " GROUP BY source"
)


def sources_asked(plan: FeedbackPlan, job: Job) -> tuple[str, ...]:
    """The column of sources, where the plan expects some of them."""
    if plan.expect is None or plan.expect.sources is None:
        return ()
    columns = job.source.columns.names
    if SOURCE not in columns:
        raise ColumnMissing(
            f"run: sources are expected, and no column is {SOURCE!r}; got {columns}.",
            hint="rename it, or name it where records become rows: --source COLUMN.",
        )
    return (SOURCE,)


def counted(plan: FeedbackPlan, job: Job) -> Counted:
    """The figures of what `job` ranked, for the expectations of `plan`."""
    sources = None
    if sources_asked(plan, job):
        query = _BY_SOURCE.format(column=quote(SOURCE), rows=job.source.relation)
        sources = _most(plan, pl.DataFrame(job.con.sql(query).to_arrow_table()))
    return Counted(job.report(), job.source.rejected, sources)


def counted_apart(plan: FeedbackPlan, spread: Spread) -> Counted:
    """The same of what a cluster ranked; the column of sources travels with narrow rows."""
    sources = None
    if sources_asked(plan, spread.job):
        place = spread.carried.index(SOURCE)
        query = _BY_SOURCE.format(column=f"_keep{place}", rows="numbered")
        sources = _most(plan, spread.ask(query, until="judged"))
    return Counted(spread.report(), spread.job.source.rejected, sources)


def counted_before(report: RunReport) -> Counted:
    """The figures that the report of an earlier run has."""
    counts = {field.name: getattr(report, field.name) for field in fields(PairReport)}
    return Counted(PairReport(**counts), report.rows_rejected, report.sources)


def done_before(plan: FeedbackPlan, report: RunReport) -> RunReport:
    """The report of a run that was done before, compared with what is expected now."""
    return replace(report, expected=plain(checked(plan, counted_before(report))))


def in_key(plan: FeedbackPlan) -> list[str]:
    """What of expectations a run's key has: sources are counted only where they are expected."""
    return [SOURCE] if plan.expect is not None and plan.expect.sources is not None else []


def checked(plan: FeedbackPlan, figures: Counted) -> list[Expectation]:
    """What the plan expects, all of which holds; else `ExpectationFailed`."""
    return plan.expect.check(figures, where="run") if plan.expect else []


def _most(plan: FeedbackPlan, rows: pl.DataFrame) -> Mapping[str, int]:
    assert plan.expect is not None
    sums = rows.group_by("source").agg(pl.col("n").sum())
    new = ~pl.col("source").is_in(list(plan.expect.sources or ()))
    first = sums.sort(~new, -pl.col("n"), "source").head(_MOST)
    return {str(source): int(n) for source, n in first.iter_rows()}
