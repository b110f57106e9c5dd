"""What thresholds that were not given are, for scores that run from `low` to `high`.

The rule is in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from prefmill.errors import ThresholdsUnfit

AUTO = "auto"
NAMES = ("chosen_min", "rejected_below")
QUANTILES = ("chosen_quantile", "rejected_quantile")
#: What a threshold that is not given is on the scale for which it is made, from 1 to `TOP`.
USUAL, TOP = 4, 5
#: The scores of verdicts: lost, a tie, won.
VERDICTS = (0.0, 0.5, 1.0)
# Shares are counted in billionths, so that no host rounds 0.07 of 100 up to 8.
_WHOLE = 1_000_000_000


@dataclass(frozen=True)
class Quantile:
    """A threshold that is the smallest score with at least this share of all scores at or below
    it.
    """

    share: float

    def place(self, count: int) -> int:
        """Which of `count` scores in order it is, counted from 1.

        >>> Quantile(0.07).place(100), Quantile(0.5).place(3), Quantile(0.001).place(3)
        (7, 2, 1)
        """
        billionths = int(self.share * _WHOLE + 0.5)
        return max(1, -(-billionths * count // _WHOLE))


#: A number in units of the score, None for no bound, or what suits the scores.
Threshold = float | Literal["auto"] | None
#: The same, as rules take it.
Bound = Threshold | Quantile


def waits(bound: Bound) -> bool:
    """Whether a bound is a number only once the scores are known."""
    return bound == AUTO or isinstance(bound, Quantile)


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

    def is_one_sided(self, least: float | None, below: float | None) -> bool:
        """Whether no score reaches `least`, or none is under `below`."""
        if self.low is None or self.high is None:
            return False
        return (least is not None and self.high < least) or (
            below is not None and self.low >= below
        )


@dataclass(frozen=True)
class Scores:
    """What the scores of all candidates answer, each host in its way.

    `only` says whether every score is one of these, `at` the score of a quantile.
    """

    scale: Scale
    only: Callable[[Sequence[float]], bool]
    at: Callable[[Quantile], float]

    @classmethod
    def of(cls, scores: Sequence[float]) -> Scores:
        """The answers of a few scores."""
        ordered = sorted(scores)
        scale = Scale(ordered[0], ordered[-1]) if ordered else Scale(None, None)
        return cls(
            scale,
            lambda some: set(ordered) <= set(some),
            lambda quantile: ordered[quantile.place(len(ordered)) - 1],
        )


def settled(
    what: str, chosen_min: Bound, rejected_below: Bound, scores: Scores
) -> tuple[float | None, float | None]:
    """Numbers for thresholds, of which one or both wait for the scores.

    `what` is "pairs" or "unpaired": labels have to divide equal scores as well. Raises
    `ThresholdsUnfit` when the scores do not say what the thresholds should be.

    >>> settled("unpaired", "auto", "auto", Scores.of([0, 1]))
    (1, 1)
    >>> settled("pairs", "auto", "auto", Scores.of([0, 0.5, 1, 1]))
    (1.0, 0.5)
    >>> settled("pairs", Quantile(0.7), Quantile(0.3), Scores.of(range(10)))
    (6, 2)
    """
    bounds, scale = (chosen_min, rejected_below), scores.scale
    # Where there is nothing to divide, no threshold would change what comes out.
    nothing = scale.low is None or (scale.low == scale.high and what == "pairs")
    usual: tuple[float, float] = (USUAL, USUAL)
    if AUTO in bounds and not nothing:
        usual = _usual(what, chosen_min, rejected_below, scores)
    least, below = (_number(*each, scores) for each in zip(bounds, usual, strict=True))
    if AUTO in bounds and not nothing and scale.is_one_sided(least, below):
        raise unfit(what, chosen_min, rejected_below, scale)
    if what == "unpaired" and least is not None and below is not None and below > least:
        raise ThresholdsUnfit(
            f"{what}: {crossed(below, least)}.", hint="name both thresholds, or both quantiles."
        )
    return least, below


def _usual(
    what: str, chosen_min: Bound, rejected_below: Bound, scores: Scores
) -> tuple[float, float]:
    """What each of two thresholds is where it is `auto`."""
    for bound in (chosen_min, rejected_below):
        if isinstance(bound, Quantile):  # one cut divides all
            return scores.at(bound), scores.at(bound)
    scale = scores.scale
    if scale.around_usual:
        return USUAL, USUAL
    if scale.could_be_labels and scale.low is not None and scale.high is not None:
        if scores.only((scale.low, scale.high)):
            return scale.high, scale.high
        lost, tie, won = VERDICTS
        if scale == Scale(lost, won) and scores.only(VERDICTS):
            return won, tie
    raise unfit(what, chosen_min, rejected_below, scale)


def _number(bound: Bound, usual: float, scores: Scores) -> float | None:
    if isinstance(bound, Quantile) and scores.scale.low is not None:
        return scores.at(bound)
    return usual if isinstance(bound, str | Quantile) else bound


def crossed(below: float, least: float) -> str:
    """What is wrong with labels whose thresholds overlap."""
    both = f"{below} > {least}: a score between would be both"
    return f"rejected_below must not exceed chosen_min; got {both}"


def unfit(what: str, chosen_min: Bound, rejected_below: Bound, scale: Scale) -> ThresholdsUnfit:
    """The error for scores that the thresholds do not divide, one of which is a default."""
    values = dict(zip(NAMES, (chosen_min, rejected_below), strict=True))
    default = " and ".join(f"{name} {USUAL}" for name, value in values.items() if value == AUTO)
    told = [f"{name} {_told(value)}" for name, value in values.items() if value not in (AUTO, None)]
    beside = f" (with {told[0]})" if told else ""
    by_default = f"{default} by default{beside}: made for scores from 1 to {TOP}, that would"
    if any(isinstance(value, Quantile) for value in values.values()):
        by_default = f"{told[0]}: that would"
    line = "name both in units of the score: --chosen-min NUMBER --rejected-below NUMBER"
    outcome = "give every row the same label"
    if what == "pairs":
        outcome = "leave no pair"
        line += "; or `none` for both: any two different scores make a pair"
    line += "; or as shares of the scores: --chosen-quantile 0.7 --rejected-quantile 0.3"
    return ThresholdsUnfit(
        f"{what}: smallest score seen {scale.low:g}, largest score seen {scale.high:g}, "
        f"{by_default} {outcome}.",
        hint=f"{line}.",
    )


def _told(bound: Bound) -> str:
    return f"at the quantile {bound.share:g}" if isinstance(bound, Quantile) else f"{bound:g}"
