"""What would help where thresholds leave (nearly) no pair, although scores differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from prefmill.engines.steps import Output, Step
from prefmill.errors import ThresholdsUnfit
from prefmill.plans import FeedbackPlan
from prefmill.shown import amount
from prefmill.table.report import PairReport
from prefmill.table.roles import Roles
from prefmill.table.thresholds import AUTO, NAMES, QUANTILES, Scale

#: Fewer pairs than from one in so many prompts with contrast are nearly nothing.
_FEW = 20
#: The quantiles that are proposed, of the chosen and of the rejected.
SHARES = (0.7, 0.3)
_BY_THRESHOLD = {"below_chosen_min", "not_below_rejected", "no_adjacent_pair"}


class Ranked(Protocol):
    """Rows that were ranked by a plan: a job of one machine, or of many."""

    @property
    def plan(self) -> FeedbackPlan:
        """The plan, its thresholds settled as far as the scores are known."""
        ...

    @property
    def roles(self) -> Roles:
        """The column of every role."""
        ...

    @property
    def output(self) -> Output:
        """What the rows of the last step become."""
        ...

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        ...

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        ...

    def settled(self, plan: FeedbackPlan) -> FeedbackPlan:
        """`plan` with numbers for its thresholds."""
        ...


class Ranking(Ranked, Protocol):
    """Rows that can be ranked, by a job of one machine or of many."""

    def rank(self) -> None:
        """Rank the rows, once."""
        ...

    def report(self) -> PairReport:
        """The account of every row."""
        ...

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score."""
        ...

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate."""
        ...

    def scale_told(self) -> Scale:
        """The scale, where a number of the plan is in its units."""
        ...


def remedies(job: Ranked, report: PairReport | None) -> list[str]:
    """A sentence with the options that would give more pairs, and how many; or none.

    `job` has ranked; `report` None: its thresholds do not divide the scores. Cost: a pass over the
    ranked groups for each option, and one over the scores.
    """
    plan: Any = job.plan
    if not plan.unbounded or not any(bound is not None for bound in plan.thresholds.values()):
        return []
    used = pairs = 0
    if report is not None:
        used, pairs = report.groups_used, report.pairs_out
        if not _BY_THRESHOLD & set(report.dropped):
            return []
    contrast = job.contrast()
    if used * _FEW >= contrast:
        return []
    gains = _gains(job, plan, used, pairs)
    if not gains:
        return []
    kept = " and ".join(
        f"{name} {bound:g}" if isinstance(bound, int | float) else f"{name} by default"
        for name, bound in plan.thresholds.items()
        if bound is not None
    )
    left = f"{used:,} of the {contrast:,} prompts whose answers have different scores"
    return [f"with {kept} only {left} have a pair: instead {gains}"]


@contextmanager
def refused_with_numbers(job: Ranked) -> Iterator[None]:
    """Where `job` refuses the default thresholds in here, the hint has numbers."""
    try:
        yield
    except ThresholdsUnfit as error:
        plan: Any = job.plan
        gains = _gains(job, plan, 0, 0) if plan.unbounded else ""
        if not gains:
            raise
        raise ThresholdsUnfit(error.message, hint=f"{error.hint} Here {gains}.") from None


def _gains(job: Ranked, plan: Any, used: int, pairs: int) -> str:
    """The options that give more than `pairs` of `used` prompts, each with its number."""
    # What many answers propose is counted by prompts: the pairs could be billions.
    by_prompt = job.output.proposals is not None
    gains = []
    for option, other in _others(job, plan):
        count = job.count(other.program(job.roles).steps[-1])
        if count > (used if by_prompt else pairs):
            unit = f"at most {amount(count, 'prompt' if by_prompt else 'pair')}"
            gains.append(f"{option} gives {'pairs of ' if by_prompt else ''}{unit}")
    return ", or ".join(gains)


def _others(job: Ranked, plan: Any) -> Iterator[tuple[str, FeedbackPlan]]:
    """Options, each with the plan that it makes of `plan`, its thresholds settled."""
    counted = plan
    if job.output.proposals is not None:
        # One pair of a prompt stands if any does.
        counted = replace(
            plan, strategy="best_worst", max_pairs_per_prompt=None, top_k=None, bottom_k=None
        )
    if plan.strategy != "threshold":
        yield "--no-thresholds", replace(counted, **dict.fromkeys((*NAMES, *QUANTILES)))
    waiting = dict.fromkeys(NAMES, AUTO) | dict(zip(QUANTILES, SHARES, strict=True))
    asked = replace(counted, **waiting)
    option = "--chosen-quantile {} --rejected-quantile {}".format(*SHARES)
    yield option, job.settled(asked)
