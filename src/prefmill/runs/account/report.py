"""What a run did, as people and programs are told; and what all kinds of runs ask first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from prefmill.errors import BadArgument
from prefmill.plans.expect import Counted, plain
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import peak_rss_mb
from prefmill.runs.account.remedies import Ranking, remedies
from prefmill.runs.job.job import Job
from prefmill.shapes.source import Rowed, words_in
from prefmill.table.report import PairReport
from prefmill.table.roles import REQUIRED, RoleNames, Roles
from prefmill.table.showing import Showing
from prefmill.writers.write import Written


@dataclass(frozen=True)
class RunReport(Showing):
    """What a run did. The counts are those of `PairReport`; `rows_rejected` are malformed rows that
    never became rows.

    `labels` are the rows of output by label, `thresholds` the numbers that pairs or labels were
    made with, `notes` sentences for people. `bad_scores` are the first three different texts that
    are no number, where a row was dropped for one. `records` says what became of records that were
    made rows. `renamed` are columns of the input whose name
    the output needs itself, and what they are called in it. `seconds` of wall time, `peak_rss_mb`
    the largest resident size of this process so far, in MiB, and `worker_rss_mb` that of any
    worker, where a cluster ran the plan. `expected` is what the plan expects (`prefmill.Expect`):
    `name`, `got`, `expected`, `holds` of each; `sources`, where it expects some, the rows of each.
    """

    rows_in: int
    rows_used: int
    rows_not_selected: int
    dropped: Mapping[str, int]
    groups_in: int
    groups_used: int
    pairs_out: int
    rows_rejected: int
    seconds: float
    peak_rss_mb: float
    engine: str
    output: Mapping[str, str]
    split_rows: Mapping[str, int]
    plan_hash: str
    roles: Roles
    score_range: tuple[float, float] | None
    renamed: Mapping[str, str]
    length: Mapping[str, float | None] | None = None
    labels: Mapping[str, int] | None = None
    thresholds: Mapping[str, float | None] | None = None
    records: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    bad_scores: Sequence[str] = ()
    worker_rss_mb: float | None = None
    expected: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, int] | None = None

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with."""
        counts = {field.name: getattr(self, field.name) for field in fields(PairReport)}
        return Counted(PairReport(**counts), self.rows_rejected, self.sources)

    def as_json(self) -> dict[str, object]:
        """The report with plain values only; `output` is a path, or with splits a mapping of split
        to path.
        """
        out = asdict(self)
        out["output"] = self.output.get("", dict(self.output)) if self.output else None
        out["roles"] = {key: value for key, value in asdict(self.roles).items() if value}
        return out


def run_report(
    plan: FeedbackPlan,
    ranking: Ranking,
    job: Job,
    written: Written | None,
    *,
    figures: Counted,
    engine: str,
    started: float,
    plan_hash: str,
    notes: Sequence[str] = (),
    worker_rss_mb: float | None = None,
) -> RunReport:
    """What a run did, once its output is written: `ranking` ranked what `job` read.

    `figures` are what expectations are compared with, `started` is a time of `time.perf_counter`,
    and `notes` come after those of reading.
    """
    report = figures.report
    paths = written.paths if written else {}
    return RunReport(
        **asdict(report),
        rows_rejected=job.source.rejected,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_mb=peak_rss_mb(),
        engine=engine,
        output=paths,
        split_rows=written.rows if written and paths and "" not in paths else {},
        plan_hash=plan_hash,
        roles=said_roles(plan, job.roles),
        score_range=None if report.pairs_out else ranking.score_range(),
        renamed=job.assembly.renamed or {},
        thresholds=ranking.plan.thresholds or None,
        notes=[
            *job.source.notes,
            *notes,
            *(written.notes if written else ()),
            *ranking.plan.notes(plan, report, ranking.scale_told()),
            *remedies(ranking, report),
        ],
        bad_scores=ranking.bad_scores() if "bad_score" in report.dropped else (),
        worker_rss_mb=worker_rss_mb,
        expected=plain(plan.expect.looked_at(figures)) if plan.expect else (),
        sources=figures.sources,
    )


def with_words(plan: FeedbackPlan, roles: RoleNames | None, rowed: Rowed) -> FeedbackPlan:
    """The plan with the words of the call: they decide as much as its fields do."""
    words = words_in(plan.rows, roles or {})
    if rowed.shape is None or not words.named():
        return plan
    return replace(plan, rows=words)


def facts_of(plan: FeedbackPlan, roles: RoleNames | None, job: Job) -> dict[str, Any]:
    """What the record of a run of `plan` says besides its key.

    `read_as` are the words that would have to be typed for the columns that the run took.
    """
    if job.rowed.shape is not None:
        words = job.rowed.shape.words.named()
    else:
        guessed = {role: getattr(job.roles, role) for role in REQUIRED}
        words = {role: name for role, name in guessed.items() if name}
        words |= words_in(plan.rows, roles or {}).named()
    return {"plan": {plan.kind: plan.content()}, "seed": plan.seed, "read_as": words}


def said_roles(plan: FeedbackPlan, roles: Roles) -> Roles:
    """`roles` for people: a score that is a weighted sum of columns says so."""
    if not plan.weights or roles.aspect:
        return roles
    return replace(
        roles, score=" + ".join(f"{weight:g} * {name}" for name, weight in plan.weights.items())
    )


def whole_rows_of(plan: FeedbackPlan, layout: str, keep: Sequence[str]) -> bool:
    """Whether the output is whole rows of the input."""
    if layout != "pool":
        if plan.every_row:
            raise BadArgument(
                f"run: {plan.kind} are whole rows; got format {layout!r}, expected 'pool'.",
                hint="leave --format out.",
            )
        return False
    if plan.layout != "pool":
        raise BadArgument(
            f"run: format 'pool' is whole rows; got a plan of {plan.kind},"
            " expected best_of or advantages.",
            hint="leave --format out.",
        )
    if keep:
        raise BadArgument(
            "run: format 'pool' keeps every column; got --keep beside it.", hint="leave --keep out."
        )
    return True
