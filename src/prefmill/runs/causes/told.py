"""Why one row of output is there, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefmill.plans.feedback import FeedbackPlan
from prefmill.table.showing import Showing
from prefmill.table.thresholds import NAMES, QUANTILES, waits


@dataclass(frozen=True)
class Side:
    """An answer: what it is in the row of output, where it lies, and what was read of it.

    `values` are the columns of scores, and others that are read, as they are in the input; `score`
    is the number by which it was ranked, of `votes` rows. `scorer` is the fingerprint of who wrote
    the scores, where the record of the input has it.
    """

    role: str
    place: str
    score: float | None
    votes: int | None
    values: Mapping[str, Any]
    scorer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Other:
    """Another row of the same prompt, and what became of it."""

    place: str
    score: float | None
    reason: str


@dataclass(frozen=True)
class WhyReport(Showing):
    """Why a row of output is there.

    `rule` is the plan in words, `bounds` each threshold in words with how it was settled, `draw`
    the draw that decided, if one did. `others` are the other rows of the prompt, in the order of
    the input.
    """

    pair_id: str
    run: str
    plan: str
    sides: Sequence[Side]
    rule: str
    bounds: Sequence[str]
    draw: str | None
    others: Sequence[Other]

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.pair_id} of {self.run}"]
        for side in self.sides:
            score = "" if side.score is None else f"   ranked by {side.score:g}"
            merged = f" (of {side.votes} rows)" if (side.votes or 1) > 1 else ""
            values = ", ".join(f"{name}={value}" for name, value in side.values.items())
            lines += [f"{side.role}: {side.place}{score}{merged}", f"  {values}"]
            if side.scorer:
                made = ", ".join(f"{name} {value}" for name, value in side.scorer.items())
                lines.append(f"  scored by: {made}")
        lines.append(f"rule: {self.rule}")
        lines += [f"threshold: {bound}" for bound in self.bounds]
        if self.draw:
            lines.append(f"draw: {self.draw}")
        if self.others:
            lines.append(f"the other rows of the prompt ({len(self.others):,}):")
        for other in self.others:
            score = "" if other.score is None else f"   {other.score:g}"
            lines.append(f"  {other.place}{score}   {other.reason}")
        return "\n".join(lines)


def rule_of(plan: FeedbackPlan) -> str:
    """A plan in words, with the fields that are not at their default."""
    head = plan.in_words()
    told = ("strategy", "pick", "method", "rows", "expect", "seed", *NAMES, *QUANTILES)
    kept = {
        name: value
        for name, value in vars(plan).items()
        if name not in told and value != type(plan).__dataclass_fields__[name].default
    }
    if not kept:
        return head
    return f"{head}; {', '.join(f'{name} {value}' for name, value in kept.items())}"


def bounds_of(asked: FeedbackPlan, settled: FeedbackPlan) -> list[str]:
    """Each threshold as a number, and how it came to be one."""
    out = []
    shares = asked.quantiles
    for name, quantile in zip(NAMES, QUANTILES, strict=True):
        if name not in settled.thresholds:
            continue
        number, was = getattr(settled, name), getattr(asked, name)
        told = f"{name} {'none' if number is None else f'{number:g}'}"
        if quantile in shares:
            how = f"the quantile {shares[quantile]:g} of all scores"
        elif name in shares:
            how = f"the quantile {shares[name]:g} of all scores"
        elif waits(was):
            how = "nobody gave it: what suits the scores (docs/semantics.md)"
        else:
            how = "given"
        out.append(f"{told}: {how}")
    return out
