"""What the answers of a server of scores say: one score a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmill.errors import BadInput
from prefmill.models.client import Broken
from prefmill.models.labels import is_softmax, label_index
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Floats
from prefmill.scoring.serving.requests import Kind

#: where vLLM's answers have the scores of a row
_FIELDS = {"vllm-classify": "probs", "vllm-pooling": "data", "vllm-score": "score"}


@dataclass(frozen=True)
class Answers:
    """How the answers of a server are read.

    kind    of the server
    label   which score it is, where the model has several
    parity  the model that is compared, which knows the names of labels; None: there is none
    """

    kind: Kind
    label: int | str | None
    parity: RewardModel | None

    def scores(self, answer: Any, rows: int) -> Floats:
        """The scores of one answer, in the order of its rows.

        Raises `Broken` for an answer about other rows, and `BadInput` where the label is not one
        of the model's.
        """
        if self.kind in _FIELDS:
            name = _FIELDS[self.kind]
            values = {each["index"]: self._one(each[name]) for each in answer["data"]}
        elif self.kind == "sglang-classify":
            several = answer if isinstance(answer, list) else [answer]
            values = {i: self._one(each["embedding"]) for i, each in enumerate(several)}
        elif self.kind == "tei-predict":
            values = {i: self._named(each) for i, each in enumerate(answer)}
        else:  # sorted by score: the index says which text it is
            values = {each["index"]: float(each["score"]) for each in answer}
        if sorted(values) != list(range(rows)):
            raise Broken(f"scores for {sorted(values)[:20]}, expected {rows} rows")
        return np.array([values[row] for row in range(rows)], np.float64)

    def _one(self, values: Any) -> float:
        while isinstance(values, list) and len(values) == 1:
            values = values[0]
        scores = values if isinstance(values, list) else [values]
        number = self._number(len(scores))
        if number is not None and not isinstance(scores[0], list) and 0 <= number < len(scores):
            return self._of_label([float(score) for score in scores], number)
        raise BadInput(
            f"endpoint: the model has {len(scores)} scores a row;"
            f" got label {self.label!r}, expected the number of one of them.",
            hint=f"--label 0 to --label {len(scores) - 1}; with --parity also its name.",
        )

    def _named(self, values: list[dict[str, Any]]) -> float:
        scores = {str(each["label"]): float(each["score"]) for each in values}
        if len(scores) == 1 and self.label is None:
            return next(iter(scores.values()))
        # The second is the name that a model's label has without one of its own.
        for name in (str(self.label), f"LABEL_{self._number(len(scores))}"):
            if name in scores:
                return self._of_label(list(scores.values()), list(scores).index(name))
        raise BadInput(
            f"endpoint: the model has the labels {sorted(scores)}; got label {self.label!r}.",
            hint="--label NAME",
        )

    def _number(self, scores: int) -> int | None:
        """Which of so many scores it is; names are those of the model that is compared."""
        if self.label is None:
            return 0 if scores == 1 else None
        if self.parity is not None:
            return label_index(self.parity.config, self.label, scores)
        if str(self.label).isdecimal():
            return int(str(self.label))
        return None

    def _of_label(self, scores: list[float], number: int) -> float:
        """The label's raw score, or its log-odds.

        Those are meant where the model that is compared says that labels exclude each other.
        """
        if self.parity is None or not is_softmax(self.parity.config, len(scores), is_stock=True):
            return scores[number]
        others = np.array([score for i, score in enumerate(scores) if i != number])
        return scores[number] - float(np.logaddexp.reduce(others))
