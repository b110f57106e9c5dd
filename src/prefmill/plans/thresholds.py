"""Plans that divide scores by two thresholds, and what `auto` means for them.

The rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from prefmill.engines.steps import Cell, Step
from prefmill.plans.feedback import FeedbackOptions, FeedbackPlan
from prefmill.table.fields import finite, key
from prefmill.table.thresholds import (
    AUTO,
    NAMES,
    QUANTILES,
    TOP,
    USUAL,
    VERDICTS,
    Bound,
    Quantile,
    Scale,
    Scores,
    Threshold,
    settled,
    waits,
)

if TYPE_CHECKING:
    from prefmill.table.report import PairReport

_is_number = finite()


def _is_threshold(value: object) -> str | None:
    if value is None or value == AUTO or _is_number(value) is None:
        return None
    return "a finite number or None or 'auto'"


def _is_quantile(value: object) -> str | None:
    if value is None or (_is_number(value) is None and 0 < value < 1):  # type: ignore[operator]
        return None
    return "a number above 0 and below 1, or None"


class ThresholdOptions(FeedbackOptions, total=False):
    """The fields of `ThresholdPlan` and the roles, as keyword arguments."""

    chosen_min: Threshold
    rejected_below: Threshold
    chosen_quantile: float | None
    rejected_quantile: float | None


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

    chosen_quantile: float | None = key(
        _is_quantile,
        None,
        help="The smallest chosen score as a quantile of all scores, as 0.7.",
        metavar="SHARE|none",
        later=True,
    )
    rejected_quantile: float | None = key(
        _is_quantile,
        None,
        help="Rejected scores are below this quantile of all scores, as 0.3.",
        metavar="SHARE|none",
        later=True,
    )

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        problems = super().problems()
        for name, other in zip(NAMES, QUANTILES, strict=True):
            threshold, quantile = getattr(self, name), getattr(self, other)
            if quantile is not None and threshold != AUTO:
                got = f"got {threshold} and {quantile}"
                problems.append(f"{name} and {other} are one bound; {got}, expected one of them")
        return problems

    @property
    def bounds(self) -> dict[str, Bound]:
        """The thresholds by name, as rules take them."""
        bounds: dict[str, Bound] = {}
        for name, other in zip(NAMES, QUANTILES, strict=True):
            share = getattr(self, other)
            bounds[name] = getattr(self, name) if share is None else Quantile(share)
        return bounds

    @property
    def quantiles(self) -> dict[str, float]:
        """The quantiles that are given, by name."""
        shares = {name: getattr(self, name) for name in QUANTILES}
        return {name: share for name, share in shares.items() if share is not None}

    @property
    def wide(self) -> str:
        """The setting that needs more than one prompt's rows, if there is one."""
        if setting := super().wide:
            return setting
        return next((f"{name} {share:g}" for name, share in self.quantiles.items()), "")

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
        return any(map(waits, self.bounds.values()))

    def settled(self, scores: Scores) -> Self:
        """This plan with numbers for its thresholds.

        Raises `ThresholdsUnfit` where the scores do not say what the thresholds should be.

        >>> from prefmill import Unpaired
        >>> Unpaired().settled(Scores.of([0, 1])).chosen_min
        1
        """
        least, below = (self.bounds[name] for name in NAMES)
        least, below = settled(self.kind, least, below, scores)
        return replace(
            self,
            chosen_min=least,
            rejected_below=below,
            chosen_quantile=None,
            rejected_quantile=None,
        )

    def limits(self) -> dict[str, object]:
        """The thresholds as arguments of a macro, where they wait for the scores."""
        if not self.waits:
            return {}
        asked = {"what": self.kind, **self.thresholds, **self.quantiles}
        step = Step("limits", "limits.limits", ("candidates",), asked)
        return {name: Cell(step, f"_{name}") for name in NAMES}

    def quantile_step(self) -> Step | None:
        """What says the scores that the quantiles are, where there are any."""
        if not self.quantiles:
            return None
        return Step("quantiles", "limits.quantiles", ("candidates",), self.quantiles)

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
        if report.pairs_out and not asked.quantiles:
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
        if VERDICTS[1] in defaults:
            notes.append("the scores 0, 0.5 and 1 are verdicts: 1 is won, 0.5 is a tie, 0 is lost")
        elif defaults - {USUAL}:
            notes.append(
                f"the scores from {low:g} to {high:g} are labels, and {high:g} is the good one"
            )
        if USUAL in defaults and not scale.usual:
            notes.append(
                f"the default threshold {USUAL} is made for scores from 1 to {TOP}, and these run "
                f"from {low:g} to {high:g}: check it, and name --chosen-min and --rejected-below"
            )
        return notes
