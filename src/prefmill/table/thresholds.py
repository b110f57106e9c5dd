"""What thresholds that were not given are, for scores that run from `low` to `high`.

The rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prefmill.errors import ThresholdsUnfit

#: A number in units of the score, None for no bound, or what suits the scores.
Threshold = float | Literal["auto"] | None

AUTO = "auto"
NAMES = ("chosen_min", "rejected_below")
#: What a threshold that is not given is on the scale for which it is made, from 1 to `TOP`.
USUAL, TOP = 4, 5


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
        """Whether two such scores are a label: whole numbers that differ, and not two ratings that
        are both good.
        """
        if self.low is None or self.high is None or self.low == self.high:
            return False
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        return whole and not (self.low >= USUAL and self.high <= TOP)

    @property
    def usual(self) -> bool:
        """Whether the scores could be ratings from 1 to `TOP`, or are all the same."""
        if self.low is None or self.high is None or self.low == self.high:
            return True
        return self.low >= 0 and self.high <= TOP


def settled(
    what: str,
    chosen_min: Threshold,
    rejected_below: Threshold,
    scale: Scale,
    two_valued: Callable[[], bool],
) -> tuple[float | None, float | None]:
    """Numbers for thresholds, of which one or both may be `auto`.

    Args:
        what: "pairs" or "unpaired": labels have to divide equal scores as well.
        two_valued: says whether every score is the smallest or the largest one.

    Raises `ThresholdsUnfit` when the scores do not say what the thresholds should be.

    >>> settled("unpaired", "auto", "auto", Scale(0, 1), lambda: True)
    (1, 1)
    """
    given = (chosen_min, rejected_below)

    def with_usual(usual: float) -> tuple[float | None, float | None]:
        high, low = (usual if value == AUTO else value for value in given)
        return high, low  # type: ignore[return-value]

    low, high = scale.low, scale.high
    if AUTO not in given or low is None or high is None or (low == high and what == "pairs"):
        return with_usual(USUAL)  # no threshold would change what comes out
    if scale.around_usual:
        least, below = with_usual(USUAL)
    elif scale.could_be_labels and two_valued():
        least, below = with_usual(high)
    else:
        raise unfit(what, chosen_min, rejected_below, scale)
    if (least is not None and high < least) or (below is not None and low >= below):
        raise unfit(what, chosen_min, rejected_below, scale)
    return least, below


def unfit(
    what: str, chosen_min: Threshold, rejected_below: Threshold, scale: Scale
) -> ThresholdsUnfit:
    """The error for scores that the default thresholds do not divide."""
    values = dict(zip(NAMES, (chosen_min, rejected_below), strict=True))
    default = " and ".join(f"{name} {USUAL}" for name, value in values.items() if value == AUTO)
    given = [f"{n} {v:g}" for n, v in values.items() if isinstance(v, int | float)]
    beside = f" (with {given[0]})" if given else ""
    line = "name both in units of the score: --chosen-min NUMBER --rejected-below NUMBER"
    outcome = "give every row the same label"
    if what == "pairs":
        outcome = "leave no pair"
        line += "; or `none` for both: any two different scores make a pair"
    return ThresholdsUnfit(
        f"{what}: smallest score seen {scale.low:g}, largest score seen {scale.high:g}, "
        f"{default} by default{beside}: made for scores from 1 to {TOP}, that would {outcome}.",
        hint=f"{line}.",
    )
