"""Plans that divide scores by two thresholds, and what `auto` means for them.

The rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from prefmill.engines.steps import Cell, Step
from prefmill.plans.feedback import FeedbackOptions, FeedbackPlan
from prefmill.table.fields import finite, key
from prefmill.table.thresholds import AUTO, NAMES, TOP, USUAL, Scale, Threshold, settled

if TYPE_CHECKING:
    from prefmill.table.report import PairReport

_is_number = finite()


def _is_threshold(value: object) -> str | None:
    if value is None or value == AUTO or _is_number(value) is None:
        return None
    return "a finite number or None or 'auto'"


class ThresholdOptions(FeedbackOptions, total=False):
    """The fields of `ThresholdPlan` and the roles, as keyword arguments."""

    chosen_min: Threshold
    rejected_below: Threshold


@dataclass(frozen=True, kw_only=True)
class ThresholdPlan(FeedbackPlan):
    """A plan for which scores are good, bad, or between."""

    chosen_min: Threshold = key(
        _is_threshold,
        AUTO,
        help="Smallest score of a chosen completion.",
        shown="4, or the larger of two labels",
    )
    rejected_below: Threshold = key(
        _is_threshold,
        AUTO,
        help="A rejected score is below this.",
        shown="4, or the larger of two labels",
    )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The thresholds by name."""
        return {name: getattr(self, name) for name in NAMES}

    @property
    def waits(self) -> bool:
        """Whether a threshold waits for the scores.

        >>> from prefmill import Pairs
        >>> Pairs().waits, Pairs(chosen_min=4, rejected_below=None).waits
        (True, False)
        """
        return AUTO in self.thresholds.values()

    def settled(self, scale: Scale, two_valued: Callable[[], bool]) -> Self:
        """This plan with numbers for its thresholds.

        `two_valued` says whether every score is the smallest or the largest one. Raises
        `ThresholdsUnfit` where the scores do not say what the thresholds should be.

        >>> from prefmill import Unpaired
        >>> Unpaired().settled(Scale(0, 1), lambda: True).chosen_min
        1
        """
        limits = settled(self.kind, self.chosen_min, self.rejected_below, scale, two_valued)
        return replace(self, chosen_min=limits[0], rejected_below=limits[1])

    def limits(self) -> dict[str, object]:
        """The thresholds as arguments of a macro, where they wait for the scores."""
        if not self.waits:
            return {}
        asked = {"what": self.kind, **self.thresholds}
        step = Step("limits", "limits.limits", ("candidates",), asked)
        return {name: Cell(step, f"_{name}") for name in NAMES}

    def hint(self, dropped: Collection[str], low: float, high: float) -> str:
        """What to do where a bound of the scores leaves nothing; "" where none does."""
        # Where all rows tie, or stand alone, no threshold would change what comes out.
        if not {"below_chosen_min", "not_below_rejected", "between_thresholds"} & set(dropped):
            return ""
        least, below = self.thresholds.values()
        off = ", or --no-thresholds" if self.unbounded else ""
        if isinstance(least, int | float) and high < least:
            seen = f"largest score seen {high:g}, chosen_min {least:g}"
            return f"{seen}: lower --chosen-min and --rejected-below{off}."
        if isinstance(below, int | float) and low >= below:
            seen = f"smallest score seen {low:g}, rejected_below {below:g}"
            return f"{seen}: raise --rejected-below{off}."
        return ""

    def notes(self, asked: FeedbackPlan, report: PairReport, scale: Scale) -> list[str]:
        """What people are told about numbers in units of the score; `asked` left some open."""
        notes = []
        if report.pairs_out:
            names = [name for name, value in asked.thresholds.items() if value == AUTO]
            notes += self._notes_on({self.thresholds[name] for name in names} - {None}, scale)
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
