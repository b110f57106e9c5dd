"""The scores of answers: columns, numbers, or a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from prefmill.errors import BadArgument
from prefmill.shapes.agreement import TwoScores, are_pair, stays_as
from prefmill.shapes.cells import Cell, Column, Constant
from prefmill.shapes.conditions import Meaning
from prefmill.shapes.negated import Negated
from prefmill.shapes.paths import Path, is_path
from prefmill.shapes.reader import Reader
from prefmill.shapes.verdicts import Scored
from prefmill.shapes.words import Rows, as_number
from prefmill.table.messages import is_text


class Scores:
    """The scores of the answers `names`, read of a table's types.

    `negate`: lower is better, which is known once a score was read.
    """

    def __init__(self, rows: Rows, reader: Reader, names: Sequence[str], where: str) -> None:
        self.rows, self.reader, self.names, self.where = rows, reader, names, where
        self.negate = False

    def of(self, judge: int, place: int, lists: list[Path]) -> Cell:
        """The score of the answer at `place`, by a judge where there are verdicts."""
        if self.rows.winner is not None:
            return Scored(Column(f"_verdict{judge}"), place)
        texts = self.reader.texts("score")
        count = max(1, len(self.names))
        if self.rows.disagree == "keep":
            texts = ["1", "0"]
        if len(texts) != count:
            raise BadArgument(
                f"{self.where}: {count} answers and {len(texts)} scores; got {texts}.",
                hint="name a score for each answer, --score a,b.",
            )
        text = texts[place]
        if self.is_constant(text):
            return Constant(float(text))
        return self._of_path(text, texts, lists)[0]

    def is_constant(self, text: Any) -> bool:
        """Whether a score is a number that is not a column's name."""
        if not isinstance(text, str):
            return True
        return not is_path(text, self.reader.schema) and as_number(text) is not None

    def _has_minus(self, text: Any) -> bool:
        """Whether a score is a path after a minus."""
        return isinstance(text, str) and text not in self.reader.schema and text.startswith("-")

    def _of_path(
        self, text: str, texts: Sequence[str], lists: list[Path]
    ) -> tuple[Cell, pl.DataType | None]:
        """The score at a path among those of all answers, and its type."""
        lower = [self._has_minus(each) for each in texts]
        if any(lower) and not all(lower):
            raise BadArgument(
                f"{self.where}: lower is better for some of the scores only; got {texts}.",
                hint="a minus before each of them, or before none.",
            )
        if lower[0]:
            text, self.negate = text[1:], True
        cell, dtype = self.reader.cell(text, "score", lists)
        if dtype is not None and isinstance(dtype, pl.List):
            raise BadArgument(
                f"{self.where}: the score {text!r} is a list; got the type {dtype}.",
                hint=f"name one of its elements, {text}[0], or make rows: --each.",
            )
        if self.rows.values:
            cell = Meaning(cell, dtype, tuple(self.rows.values.items()))
        if self.negate:
            cell = Negated(cell, dtype)
        if dtype is None or is_text(dtype):
            return cell, dtype
        return cell, pl.Float64() if self.negate or self.rows.values else dtype

    # Of two answers

    @property
    def columns(self) -> list[str]:
        """Those of the scores that are no numbers."""
        return [text for text in self.reader.texts("score") if not self.is_constant(text)]

    @property
    def two(self) -> TwoScores | None:
        """The scores of two answers that have a column each."""
        texts = self.columns
        if len(self.names) != 2 or len(texts) != 2 or self.rows.winner is not None:
            return None
        lists: list[Path] = []
        (one, of_one), (other, of_other) = (self._of_path(text, texts, lists) for text in texts)
        # Scores in lists belong to elements, and records have no order of their own.
        return None if lists else TwoScores(one, other, (of_one, of_other))

    @property
    def disagreement(self) -> Cell | None:
        """Whether a pair is left out that its scores contradict; raises `BadArgument`."""
        if self.rows.disagree is None:
            return None
        two = self.two
        if two is None:
            raise BadArgument(
                f"{self.where}: disagree is for pairs with a score of each answer;"
                f" got {len(self.names)} answers and {len(self.columns)} columns of scores.",
                hint="--completion chosen,rejected --score chosen_score,rejected_score.",
            )
        return two.not_above if self.rows.disagree == "drop" else None

    @property
    def contradicted(self) -> tuple[str, Cell] | None:
        """What becomes of pairs whose scores contradict them, and whether one is such a pair."""
        two, word = self.two, stays_as(self.rows.disagree)
        if two is None or not word or (self.rows.disagree is None and not are_pair(self.names)):
            return None
        return word, two.contradict
