"""Which of a model's outputs become columns, and which number of them is the score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmill.errors import BadArgument
from prefmill.models.labels import label_names
from prefmill.scoring.cache import Floats

#: what a caller names: one label, or several, by name or number; `all` that the model has
Label = str | int | Sequence[str | int] | None
ALL = "all"


@dataclass(frozen=True)
class Labels:
    """The labels of a score, as they were named.

    label    one, several, `all`, or None: the model's only one, or those that have weights
    weights  of some of them: the score is the sum of these, each times its weight

    One label alone is the score. Several need weights: a mean of outputs that may have any scale
    would be a number that nobody asked for. A label without a weight is a column all the same.

    >>> Labels(["helpful", "honest"], {"helpful": 0.7, "honest": 0.3}).columns
    ('score', 'helpful', 'honest')
    >>> Labels("helpful").columns
    ('score',)
    """

    label: Label = None
    weights: Mapping[str, float] | None = None

    @property
    def named(self) -> tuple[str | int, ...]:
        """The labels that were named; empty: none was."""
        if self.label is None:
            return tuple(self.weights or ())
        if isinstance(self.label, str | int):
            return (self.label,)
        return tuple(self.label)

    @property
    def columns(self) -> tuple[str, ...]:
        """The score, and where it is made of several labels each of them."""
        if self.weights is None and len(self.named) < 2:
            return ("score",)
        return ("score", *map(_column, self.named))

    def of(self, config: Any) -> Labels:
        """The same with `all` spelled out. Raises `BadArgument` for several without weights."""
        labels = self
        if self.named == (ALL,) and ALL not in label_names(config).values():
            labels = Labels(tuple(label_names(config).values()), self.weights)
        if len(labels.named) > 1 and self.weights is None:
            raise BadArgument(
                f"score: {len(labels.named)} labels need weights, which make one score of them;"
                f" got {list(labels.named)} and none.",
                hint="--weights NAME=NUMBER,... (a label without a weight is a column only).",
            )
        return labels

    def problems(self) -> list[str]:
        """What is wrong with them, before any model is looked at."""
        named = [str(name) for name in self.named]
        problems = []
        wrong = [name for name in self.named if not isinstance(name, str | int)]
        if wrong or (self.label is not None and not named):
            problems.append(f"label must be names or numbers of labels; got {self.label!r}")
        if len(set(named)) < len(named):
            problems.append(f"label names one label twice; got {named}")
        if self.weights is None:
            return problems
        if not _are_weights(self.weights):
            problems.append(
                "weights must be finite numbers by label, not all of them 0;"
                f" got {dict(self.weights)!r}"
            )
        others = [name for name in self.weights if str(name) not in named]
        if others and named != [ALL]:
            problems.append(f"weights are of labels that are not named; got {others} of {named}")
        return problems

    def combined(self, outputs: Floats) -> Floats:
        """The columns, shape (rows, columns), from the outputs, shape (rows, labels)."""
        if self.weights is None:
            return outputs
        names = [str(name) for name in self.named]
        weights = {str(name): weight for name, weight in self.weights.items()}
        unknown = [name for name in weights if name not in names]
        if unknown:
            raise BadArgument(f"score: the model has no label {unknown[0]!r}; got {names}.")
        # One label after the other: the sum of a row has the same bits among any rows.
        score = np.zeros(len(outputs))
        for number, name in enumerate(names):
            score = score + weights.get(name, 0.0) * outputs[:, number]
        return np.column_stack((score, outputs))

    @property
    def fingerprint(self) -> dict[str, str]:
        """What decides the score, by name."""
        if self.weights is None:
            (label,) = self.named or (None,)
            return {"label": str(label)}
        weights = {str(name): float(weight) for name, weight in self.weights.items()}
        return {
            "label": json.dumps([str(name) for name in self.named]),
            "weights": json.dumps(weights, sort_keys=True),
        }


def one_label(options: Mapping[str, Any]) -> dict[str, Any]:
    """`label` of a command line's options, a list, as it is meant: one label is itself.

    >>> one_label({"label": ["helpful"]}), one_label({"label": ["a", "b"]}), one_label({})
    ({'label': 'helpful'}, {'label': ['a', 'b']}, {})
    """
    label = options.get("label")
    if label is None:
        return {}
    if isinstance(label, list) and len(label) == 1:
        return {"label": label[0]}
    return {"label": label}


def _column(label: str | int) -> str:
    """The column of a label: its name, unless that is the score's own."""
    name = str(label)
    return f"label_{name}" if name == "score" else name


def _are_weights(weights: Mapping[str, float]) -> bool:
    numbers = [w for w in weights.values() if isinstance(w, int | float) and np.isfinite(w)]
    numbers = [number for number in numbers if not isinstance(number, bool)]
    return len(numbers) == len(weights) and any(numbers)
