"""What is to be done with a table: a shape, in which every path is found.

    records ──helpers──▶ ──reason──▶ ──variants──▶ ──lists──▶ rows

A record passes unless a reason holds. It becomes a row for each variant (a judge's vote on an
answer), and for each element of the variant's lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from prefmill.shapes.cells import Cell
from prefmill.shapes.paths import Path
from prefmill.shapes.words import Rows
from prefmill.table.roles import OfRecords

#: What the number of a record is called in rows for people.
NUMBER = "record"
#: Why a record gives no row (a helper column), in the order in which reasons are tried.
REASON = "_reason"


@dataclass(frozen=True)
class Variant:
    """One of the rows, or lists of rows, that a record becomes."""

    cells: Mapping[str, Cell]  #: by the names of the columns of rows
    lists: tuple[Path, ...] = ()
    vote: Cell | None = None  #: whether there is such a row; None: always


@dataclass(frozen=True)
class Join:
    """Another file whose columns come along where keys are equal."""

    file: str
    keys: tuple[tuple[str, str], ...]  #: ours, and its own
    schema: pl.Schema  #: the columns that come along
    record: str = ""  #: the column that holds all of them, if they have a name
    fields: tuple[str, ...] = ()  #: of that record


@dataclass(frozen=True)
class Shape:
    """How the records of one table become rows."""

    words: Rows  #: all words, those that were found by names as well
    helpers: tuple[Mapping[str, Cell], ...]  #: columns of records, each stage over the one before
    variants: tuple[Variant, ...]
    roles: Mapping[str, Any]  #: names of columns of the rows, by role
    carried: tuple[str, ...]  #: columns of records that rows keep under their own names
    consumed: frozenset[str]  #: columns whose values are in the rows, so whole rows are without
    answers: int = 1  #: of a record side by side
    own_group: bool = False
    joins: tuple[Join, ...] = ()
    votes: bool = False
    prompt_parts: tuple[str, ...] = ()
    #: of pairs with scores: whether these contradict a pair, and what becomes of it then
    contradicted: tuple[str, Cell] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of rows, roles first."""
        return [*self.variants[0].cells, *self.carried]

    def told_of_scores(self, count: int) -> dict[str, int]:
        """So many pairs that their scores contradict, by what becomes of them."""
        return {self.contradicted[0]: count} if self.contradicted else {}

    @property
    def of_records(self) -> OfRecords:
        """What rows know of their records."""
        two = len(self.prompt_parts) == 2 and set(self.prompt_parts) <= set(self.carried)
        shared = self.carried if self.own_group else ()
        return OfRecords(shared, self.prompt_parts if two else ())

    @property
    def narrow(self) -> list[Path]:
        """Of each variant's lists the one that is cheapest to count: scores, if there are any."""

        def cost(path: Path) -> int:
            return int(path.dtype is None or not path.dtype.inner.is_numeric())  # type: ignore[attr-defined]

        return [min(each.lists, key=cost) for each in self.variants if each.lists]
