"""Scores of steps: how they are asked for, and how they become the score of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from prefmill.models.described import unlike
from prefmill.models.steps import StepLayout
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring.cache import Floats

Reduce = Literal["last", "min", "product", "mean"]
StepValues = Literal["auto", "output", "probability"]


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """The fields of a scorer that scores every step of a completion.

    Args:
        step_separator: ends a step; None: a row is scored as a whole.
        step_marker: put after each step instead of the separator, where the model wants another.
        steps_apart: tokenise every step by itself.
        reduce: how the scores of steps become the score: the `last`, the `min`, their `product`
            (of probabilities) or `mean`.
        step_values: `probability` of the label (of a model with one output its sigmoid), or the
            model's raw `output` (of a classifier the log-odds). `auto`: the probability of
            classifiers, and the output of models with one.
    """

    step_separator: str | None = None
    step_marker: str | None = None
    steps_apart: bool = False
    reduce: Reduce = "min"
    step_values: StepValues = "auto"

    @property
    def layout(self) -> StepLayout | None:
        """How steps stand in the text; None: a row is scored as a whole."""
        if self.step_separator is None:
            return None
        return StepLayout(self.step_separator, self.step_marker, self.steps_apart)

    @property
    def lists(self) -> tuple[str, ...]:
        """The scores of steps."""
        return () if self.step_separator is None else ("steps",)

    def _step_problems(self) -> list[str]:
        problems = unlike(self, reduce=get_args(Reduce), step_values=get_args(StepValues))
        problems += [
            f"{name} must be a text that is not empty, or None; got {getattr(self, name)!r}"
            for name in ("step_separator", "step_marker")
            if getattr(self, name) is not None and not _is_text(getattr(self, name))
        ]
        if self.step_separator is None:
            own = {"step_marker": None, "steps_apart": False, "reduce": "min"}
            own["step_values"] = "auto"
            named = [name for name, value in own.items() if getattr(self, name) != value]
            problems += [f"{name} is of steps, which need a step_separator" for name in named]
        if self.reduce == "product" and self.step_values == "output":
            problems.append("a product is of probabilities; got step_values 'output'")
        return problems

    @property
    def _step_fingerprint(self) -> dict[str, str]:
        if self.step_separator is None:
            return {}
        return {"reduce": self.reduce, "step_values": self.step_values}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def step_columns(outputs: Floats, rows: TokenRows, reduce: Reduce, *, squash: bool) -> Floats:
    """The score of each row and then its steps, shape (rows, 1 + most steps).

    outputs  shape (rows, most steps): those of the steps of a row first
    squash   the scores are the sigmoid of them: of log-odds, the probability

    >>> rows = TokenRows.of([[1, 2, 3]])
    >>> from dataclasses import replace
    >>> two = replace(rows, marks=np.array([False, True, True]))
    >>> step_columns(np.array([[0.0, 1.0]]), two, "min", squash=True).round(2).tolist()
    [[0.5, 0.5, 0.73]]
    """
    # log p = -log (1 + exp(-x)), exact where p is near 0 too.
    steps = np.exp(-np.logaddexp(0.0, -outputs)) if squash else outputs
    scores = np.zeros((len(steps), 1))
    for row, count in enumerate(rows.mark_counts.tolist()):
        scores[row] = _reduced(steps[row, :count], reduce)
    return np.hstack((scores, steps))


def step_lists(values: Floats, counts: Longs) -> list[list[float]]:
    """The values of each row's own steps, from those of all, shape (rows, most steps)."""
    return [row[:count].tolist() for row, count in zip(values, counts.tolist(), strict=True)]


def _reduced(steps: Floats, reduce: Reduce) -> float:
    if not len(steps):
        return 0.0
    if reduce == "last":
        return float(steps[-1])
    if reduce == "min":
        return float(steps.min())
    if reduce == "product":
        return float(np.multiply.reduce(steps))
    return float(steps.mean())
