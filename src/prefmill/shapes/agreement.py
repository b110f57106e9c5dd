"""Two answers with a score each: which of them is higher, and whether a pair agrees with that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from prefmill.shapes.cells import Cell
from prefmill.shapes.conditions import All, Not, NotAbove
from prefmill.shapes.verdicts import own_parts
from prefmill.shapes.words import Disagree

_PAIR = ["chosen", "rejected"]
#: What becomes of a pair whose scores contradict it, where it stays.
_STAYS: Mapping[Disagree, str] = {"flip": "flipped", "keep": "kept"}


@dataclass(frozen=True)
class TwoScores:
    """The scores of the first and the second answer, with their types."""

    one: Cell
    other: Cell
    dtypes: tuple[pl.DataType | None, pl.DataType | None]

    @property
    def not_above(self) -> NotAbove:
        """Whether the first is as high as the second at most."""
        return NotAbove(self.one, self.other, self.dtypes)

    @property
    def not_below(self) -> NotAbove:
        """Whether the first is as high as the second at least."""
        return NotAbove(self.other, self.one, self.dtypes[::-1])

    @property
    def contradict(self) -> Cell:
        """Whether the second is higher."""
        return All((self.not_above, Not(self.not_below)))


def are_pair(names: Sequence[str]) -> bool:
    """Whether answers of these names are a chosen and a rejected one.

    >>> are_pair(["chosen_text", "rejected_text"]), are_pair(["response_a", "response_b"])
    (True, False)
    """
    return [part.lower() for part in own_parts(list(names))] == _PAIR


def stays_as(disagree: Disagree | None) -> str:
    """The word for pairs that stay although their scores contradict them; "" where none does.

    >>> stays_as(None), stays_as("keep"), stays_as("drop")
    ('flipped', 'kept', '')
    """
    return _STAYS.get(disagree or "flip", "")
