"""Plans that divide scores by two thresholds, and what `auto` means for them.

The rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

from prefmill.errors import ThresholdsUnfit
from prefmill.plans.feedback import FeedbackOptions, FeedbackPlan
from prefmill.plans.scale import TOP, USUAL, Scale
from prefmill.table.fields import finite, key
from prefmill.table.report import PairReport

#: A number in units of the score, None for no bound, or what suits the scores.
Threshold = float | Literal["auto"] | None

_AUTO = "auto"
_is_number = finite()


def _is_threshold(value: object) -> str | None:
    if value is None or value == _AUTO or _is_number(value) is None:
        return None
    return "a finite number or None or 'auto'"


class ThresholdOptions(FeedbackOptions, total=False):
    """The fields of `ThresholdPlan` and the roles, as keyword arguments."""

    chosen_min: Threshold
    rejected_below: Threshold


@dataclass(frozen=True, kw_only=True)
class ThresholdPlan(FeedbackPlan):
    """A plan for which scores are good, bad, or between."""

    #: What becomes of scores that the default thresholds do not divide, and what else may be done.
    undivided: ClassVar[str]
    advice: ClassVar[str] = ""
    #: Whether a single score can be told to be good or bad.
    divides_one_score: ClassVar[bool] = True

    chosen_min: Threshold = key(
        _is_threshold,
        _AUTO,
        help="Smallest score of a chosen completion.",
        shown="4, or the larger of two labels",
    )
    rejected_below: Threshold = key(
        _is_threshold,
        _AUTO,
        help="A rejected score is below this.",
        shown="4, or the larger of two labels",
    )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The thresholds by name."""
        return {"chosen_min": self.chosen_min, "rejected_below": self.rejected_below}

    @property
    def waits(self) -> bool:
        """Whether a threshold waits for the scores.

        >>> from prefmill import Pairs
        >>> Pairs().waits, Pairs(chosen_min=4, rejected_below=None).waits
        (True, False)
        """
        return _AUTO in self.thresholds.values()

    def settled(self, scale: Scale, two_valued: Callable[[], bool]) -> Self:
        """This plan with numbers for its thresholds.

        `two_valued` says whether every score is the smallest or the largest one. Raises
        `ThresholdsUnfit` where the scores do not say what the thresholds should be.

        >>> from prefmill import Unpaired
        >>> Unpaired().settled(Scale(0, 1), lambda: True).chosen_min
        1
        """
        low, high = scale.low, scale.high
        if not self.waits:
            return self
        if low is None or high is None or (low == high and not self.divides_one_score):
            return self._with(USUAL)  # no threshold would change what comes out
        if scale.around_usual:
            plan = self._with(USUAL)
        elif scale.could_be_labels and two_valued():
            plan = self._with(high)
        else:
            raise self.unfit(scale)
        least, below = cast("tuple[float | None, ...]", tuple(plan.thresholds.values()))
        if (least is not None and high < least) or (below is not None and low >= below):
            raise self.unfit(scale)
        return plan

    def _with(self, usual: float) -> Self:
        """This plan with `usual` for thresholds that wait for the scores."""
        waiting = [name for name, value in self.thresholds.items() if value == _AUTO]
        numbers: dict[str, Any] = dict.fromkeys(waiting, usual)
        return replace(self, **numbers)

    def unfit(self, scale: Scale) -> ThresholdsUnfit:
        """The error for scores that the default thresholds do not divide."""
        values = self.thresholds
        default = " and ".join(
            f"{name} {USUAL}" for name, value in values.items() if value == _AUTO
        )
        fixed = [
            f"{name} {value:g}" for name, value in values.items() if value not in (_AUTO, None)
        ]
        with_ = f" (with {fixed[0]})" if fixed else ""
        return ThresholdsUnfit(
            f"{self.kind}: smallest score seen {scale.low:g}, largest score seen {scale.high:g}, "
            f"{default} by default{with_}: made for scores from 1 to {TOP}, that would "
            f"{self.undivided}.",
            hint="name both in units of the score: --chosen-min NUMBER --rejected-below NUMBER"
            f"{self.advice}.",
        )

    def notes(self, asked: FeedbackPlan, report: PairReport, scale: Scale) -> list[str]:
        """What people are told about numbers in units of the score; `asked` left some open."""
        notes = []
        if report.pairs_out:
            names = [name for name, value in asked.thresholds.items() if value == _AUTO]
            notes += self._notes_on({self.thresholds[name] for name in names}, scale)
        if report.labels and report.pairs_out and not all(report.labels.values()):
            only = "true" if report.labels["true"] else "false"
            notes.append(f"every label is {only}: a trainer of labels needs both kinds")
        return notes

    def _notes_on(self, defaults: set[Threshold], scale: Scale) -> list[str]:
        """What people are told about the thresholds that the scores decided."""
        notes = []
        low, high = scale.low, scale.high
        if defaults - {USUAL}:
            notes.append(
                f"there are two scores, {low:g} and {high:g}: they are labels, "
                f"and {high:g} is the good one"
            )
        if USUAL in defaults and not scale.usual:
            notes.append(
                f"the default threshold {USUAL} is made for scores from 1 to {TOP}, and these run "
                f"from {low:g} to {high:g}: check it, and name --chosen-min and --rejected-below"
            )
        return notes


def unsettled(plan: FeedbackPlan) -> bool:
    """As `plan.waits`."""
    return plan.waits


def settled(plan: FeedbackPlan, scale: Scale, two_valued: Callable[[], bool]) -> FeedbackPlan:
    """As `plan.settled`."""
    return plan.settled(scale, two_valued)


def thresholds_of(plan: FeedbackPlan) -> dict[str, Threshold] | None:
    """As `plan.thresholds`; None for a plan without."""
    return plan.thresholds or None


def notes(asked: FeedbackPlan, done: FeedbackPlan, report: PairReport, scale: Scale) -> list[str]:
    """As `done.notes`."""
    return done.notes(asked, report, scale)
