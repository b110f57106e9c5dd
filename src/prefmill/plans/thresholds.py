"""Thresholds that were not given: what `auto` means for scores that run from `low` to `high`. The
rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from prefmill.errors import ThresholdsUnfit
from prefmill.plans import BestOf, Pairs, Plan, Unpaired
from prefmill.table.report import PairReport

#: What a threshold that is not given is on the scale for which it is made, from 1 to `TOP`.
USUAL, TOP = 4, 5
_AUTO = "auto"
_NAMES = ("chosen_min", "rejected_below")


@dataclass(frozen=True)
class Scale:
    """Smallest and largest score of all candidates; None where there is no candidate."""

    low: float | None
    high: float | None

    @property
    def around_usual(self) -> bool:
        """Whether there are scores on both sides of the usual threshold."""
        return self.low is not None and self.high is not None and self.low < USUAL <= self.high

    @property
    def could_be_labels(self) -> bool:
        """Whether two such scores are a label: whole numbers that differ, not both of them good
        ratings.
        """
        if self.low is None or self.high is None or self.low == self.high:
            return False
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        return whole and not (self.low >= USUAL and self.high <= TOP)


def unsettled(plan: Plan) -> bool:
    """Whether a threshold of `plan` waits for the scores.

    >>> unsettled(Pairs()), unsettled(Pairs(chosen_min=4, rejected_below=None))
    (True, False)
    """
    return isinstance(plan, Pairs | Unpaired) and any(
        getattr(plan, name) == _AUTO for name in _NAMES
    )


def settled(plan: Plan, scale: Scale, two_valued: Callable[[], bool]) -> Plan:
    """`plan` with numbers for its thresholds; `two_valued` says whether every score is the smallest
    or the largest one.

    Raises `ThresholdsUnfit` where the scores do not say what the thresholds should be.

    >>> settled(Unpaired(), Scale(0, 1), lambda: True).chosen_min
    1
    """
    if not (isinstance(plan, Pairs | Unpaired) and unsettled(plan)):
        return plan
    low, high = scale.low, scale.high
    if low is None or high is None or (low == high and isinstance(plan, Pairs)):
        return _with(plan, USUAL)  # no threshold would change what comes out
    if scale.around_usual:
        found = _with(plan, USUAL)
    elif scale.could_be_labels and two_valued():
        found = _with(plan, high)
    else:
        raise unfit(plan, scale)
    least, below = cast(tuple[float | None, float | None], (found.chosen_min, found.rejected_below))
    if (least is not None and high < least) or (below is not None and low >= below):
        raise unfit(plan, scale)
    return found


def _with(plan: Pairs | Unpaired, usual: float) -> Pairs | Unpaired:
    """`plan` with `usual` for thresholds that wait for the scores."""
    least, below = (
        usual if value == _AUTO else value for value in (plan.chosen_min, plan.rejected_below)
    )
    return replace(plan, chosen_min=least, rejected_below=below)


def unfit(plan: Pairs | Unpaired, scale: Scale) -> ThresholdsUnfit:
    """The error for scores that the default thresholds of `plan` do not divide."""
    values = {name: getattr(plan, name) for name in _NAMES}
    default = " and ".join(f"{name} {USUAL}" for name, value in values.items() if value == _AUTO)
    given = [f"{name} {value:g}" for name, value in values.items() if value not in (_AUTO, None)]
    beside = f" (with {given[0]})" if given else ""
    outcome = "leave no pair"
    line = "name both in units of the score: --chosen-min NUMBER --rejected-below NUMBER"
    if isinstance(plan, Unpaired):
        outcome = "give every row the same label"
    else:
        line += "; or `none` for both: any two different scores make a pair"
    return ThresholdsUnfit(
        f"{plan.kind}: smallest score seen {scale.low:g}, largest score seen {scale.high:g}, {default} by default{beside}:"
        f" made for scores from 1 to {TOP}, that would {outcome}.",
        hint=f"{line}.",
    )


def thresholds_of(plan: Plan) -> dict[str, float | None] | None:
    """The thresholds of a plan that has been settled, by name; None for a plan without."""
    if not isinstance(plan, Pairs | Unpaired):
        return None
    return {name: getattr(plan, name) for name in _NAMES}


def notes(asked: Plan, done: Plan, report: PairReport, scale: Scale) -> list[str]:
    """What people are told about numbers in units of the score that `done` has, of which `asked`
    left some open.
    """
    if (
        isinstance(done, BestOf)
        and done.pick == "rso"
        and scale.low is not None
        and scale.high is not None
    ):
        return [
            f"rso: beta {done.beta:g} is in units of the score, and scores run from {scale.low:g} to {scale.high:g}"
        ]
    if not isinstance(done, Pairs | Unpaired):
        return []
    told = []
    if unsettled(asked) and report.pairs_out:
        used = {getattr(done, name) for name in _NAMES if getattr(asked, name) == _AUTO}
        low, high = scale.low, scale.high
        if used != {USUAL}:
            told.append(
                f"there are two scores, {low:g} and {high:g}: they are labels, and {high:g} is the good one"
            )
        if (
            USUAL in used
            and low is not None
            and high is not None
            and not 0 <= low <= high <= TOP
            and low != high
        ):
            told.append(
                f"the default threshold {USUAL} is made for scores from 1 to {TOP}, and these run from {low:g} to {high:g}:"
                " check it, and name --chosen-min and --rejected-below"
            )
    if report.labels and report.pairs_out and not all(report.labels.values()):
        only = "true" if report.labels["true"] else "false"
        told.append(f"every label is {only}: a trainer of labels needs both kinds")
    return told
