"""A file as a page reads it: some rows at a time, and never all of them.

ask ──rank──▶ the positions of the first rows, or of all ──gather──▶ the texts of one page
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from prefmill.connection import connect, quote, share_of
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument
from prefmill.readers import Source
from prefmill.table.roles import ALIASES
from prefmill.viewer.asked import Asked, Cells

#: Positions that are found at once: pages inside of these need no order of all rows.
HEAD = 1000
#: Characters of a cell in a list of rows, and of a text where one row is read.
BRIEF, LONG = 160, 20_000
#: Characters of a nested cell where one row is read: cut JSON is no JSON.
NESTED = 1_000_000
#: Answers to the same prompt that are listed, and orders of all rows that are kept.
SIBLINGS, ORDERS = 100, 4
_RESERVED = ("file_row_number", "file_index")
_SIDES = (("chosen", "rejected"), ("response_a", "response_b"), ("completion_a", "completion_b"))


@dataclass(frozen=True)
class Layout:
    """What is shown side by side: two columns of a row, or an answer and others to its prompt."""

    prompt: str | None
    sides: tuple[str, str] | None
    answer: str | None
    score: str | None

    @classmethod
    def of(cls, columns: Sequence[str]) -> Layout:
        """That of columns with these names."""
        known = {name.lower(): name for name in reversed(columns)}

        def role(name: str) -> str | None:
            return next((known[each] for each in ALIASES[name] if each in known), None)

        pairs = (pair for pair in _SIDES if set(pair) <= known.keys())
        sides = next(((known[a], known[b]) for a, b in pairs), None)
        answer = None if sides else role("completion")
        return cls(role("prompt"), sides, answer, role("score"))


class Table:
    """The rows of a source. Methods may be called from several threads."""

    def __init__(self, source: Source, home: Path, *, memory_bytes: int | None = None) -> None:
        self.source = source
        self._con = connect(
            temp_dir=home,
            reads=source.reads,
            memory_bytes=share_of(memory_bytes) if memory_bytes else None,
            remote=source.remote,
            ordered=True,
        )
        self._lock, self._ordering = threading.Lock(), threading.Lock()
        taken = [n for n in source.columns.names if n.lower() in _RESERVED]
        if taken:
            raise BadArgument(
                f"view: the column name {taken[0]!r} has a meaning of its own to the engine.",
                hint="rename that column.",
            )
        told = self._con.execute(f"DESCRIBE SELECT * FROM {source.relation}").fetchall()
        self.columns = {name: Cells(name, kind) for name, kind, *_ in told}
        self.layout = Layout.of(list(self.columns))
        self.rows = source.rows
        self._heads: OrderedDict[Asked, list[int]] = OrderedDict()
        self._orders: OrderedDict[Asked, str] = OrderedDict()
        self._made = 0
        self._id = self._id_called()
        install_used(self._con, [f"SELECT {self._id}"])

    def close(self) -> None:
        """No row is read after this."""
        with self._lock:  # not while a request opens its cursor
            self._con.close()

    def _run(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            cursor = self._con.cursor()
        try:
            return cursor.execute(query, list(values)).fetchall()
        except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
            raise BadArgument(
                f"view: a value cannot be compared with its column; {str(error).splitlines()[0]}"
            ) from None
        finally:
            cursor.close()

    # Rank

    def count(self, asked: Asked) -> int:
        """How many rows there are of what is asked."""
        if not (asked.filters or asked.search):
            return self.rows
        with self._lock:
            head = self._heads.get(asked)
        if head is not None and len(head) < HEAD:
            return len(head)
        where, values = asked.where(self.columns)
        query = f"SELECT count(*) FROM {self.source.relation} WHERE {where}"
        return int(self._run(query, values)[0][0])

    def positions(self, asked: Asked, first: int, count: int) -> list[int]:
        """The positions of some rows of what is asked, in its order."""
        if asked.is_all:
            return list(range(first, min(first + count, self.rows)))
        if first + count <= HEAD:
            return self._head(asked)[first : first + count]
        query = (
            f"SELECT pos FROM {self._ordered(asked)} WHERE rowid >= ? AND rowid < ? ORDER BY rowid"
        )
        return [pos for (pos,) in self._run(query, [first, first + count])]

    def _ranking(self, asked: Asked) -> tuple[str, list[Any]]:
        position = self.source.position
        where, values = asked.where(self.columns)
        query = f"SELECT {position} AS pos FROM {self.source.relation} WHERE {where}"
        # Files are read in the order of positions: without a sort the first rows found are enough.
        if asked.sort or self.source.select:
            query += f" ORDER BY {asked.order(self.columns, position)}"
        return query, values

    def _head(self, asked: Asked) -> list[int]:
        head = self._heads.get(asked)
        if head is None:
            query, values = self._ranking(asked)
            head = [pos for (pos,) in self._run(f"{query} LIMIT {HEAD}", values)]
            with self._lock:
                self._heads[asked] = head
                while len(self._heads) > 4 * ORDERS:
                    self._heads.popitem(last=False)
        return head

    def _ordered(self, asked: Asked) -> str:
        """A table of all positions of what is asked: 8 bytes a row, which DuckDB may spill."""
        with self._ordering:
            if asked not in self._orders:
                self._made += 1
                name = f"order_{self._made}"
                query, values = self._ranking(asked)
                self._run(f"CREATE TABLE {name} AS {query}", values)
                self._orders[asked] = name
                while len(self._orders) > ORDERS:
                    _, old = self._orders.popitem(last=False)
                    self._run(f"DROP TABLE {old}")
            self._orders.move_to_end(asked)
            return self._orders[asked]

    # Gather

    def page(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The beginnings of the cells of these rows, in their order."""
        cells = [
            each.cell if each.is_plain else f"left({each.brief}, {BRIEF})"
            for each in self.columns.values()
        ]
        found = {row[0]: row[1:] for row in self._gather(cells, positions)}
        return [
            dict(zip(self.columns, found[pos], strict=True)) for pos in positions if pos in found
        ]

    def row(self, position: int) -> dict[str, Any]:
        """A row: texts to `LONG` characters, and the length of each that is longer.

        Nested cells are JSON text. Raises `BadArgument` where there is no such row.
        """
        cells = []
        for each in self.columns.values():
            most = NESTED if each.is_nested else LONG
            cells += [each.cell if each.is_plain else f"left({each.text}, {most})"]
            cells += ["NULL" if each.is_plain else f"length({each.text})"]
        rows = self._gather([*cells, self._id], [position])
        if not rows:
            raise BadArgument(f"view: no row {position}; got {self.rows:,} rows.")
        _, *values, made = rows[0]
        return {
            "cells": dict(zip(self.columns, values[::2], strict=True)),
            "lengths": {
                name: size
                for name, size in zip(self.columns, values[1::2], strict=True)
                if size is not None and size > LONG
            },
            "id": made,
        }

    def text(self, position: int, column: str) -> str:
        """The whole text of a cell."""
        if column not in self.columns:
            raise BadArgument(f"view: no column {column[:80]!r}.")
        rows = self._gather([self.columns[column].text], [position])
        return "" if not rows or rows[0][1] is None else str(rows[0][1])

    def siblings(self, position: int) -> list[dict[str, Any]]:
        """Other answers to the prompt of a row, the best scores first."""
        layout = self.layout
        if layout.prompt is None or layout.answer is None:
            return []
        prompt, answer = self.columns[layout.prompt], self.columns[layout.answer]
        score = "NULL" if layout.score is None else self.columns[layout.score].cell
        at, relation = self.source.position, self.source.relation
        same = f"{prompt.text} = (SELECT {prompt.text} FROM {relation} WHERE {at} = ?)"
        rows = self._run(
            f"SELECT {at} AS pos, {score} AS score, left({answer.brief}, {BRIEF}) AS text"
            f" FROM {relation} WHERE {same} AND {at} <> ?"
            f" ORDER BY score DESC NULLS LAST, pos LIMIT {SIBLINGS}",
            [position, position],
        )
        return [{"row": row, "score": score, "text": text} for row, score, text in rows]

    def ids(self, positions: Sequence[int]) -> dict[int, str]:
        """The id of each row, of its texts alone."""
        return {row[0]: row[1] for row in self._gather([self._id], positions)}

    def _gather(self, cells: Sequence[str], positions: Sequence[int]) -> list[Any]:
        if not positions:
            return []
        listed = ", ".join(str(int(pos)) for pos in positions)
        at = self.source.position
        columns = ", ".join([at, *cells])
        return self._run(f"SELECT {columns} FROM {self.source.relation} WHERE {at} IN ({listed})")

    def _id_called(self) -> str:
        """The id of a row in SQL: of a pair, of an answer, or of all that is in the row."""
        layout = self.layout
        texts: tuple[str, ...]
        if layout.prompt and layout.sides and layout.sides[0].lower() == "chosen":
            texts = (layout.prompt, *layout.sides)
        elif layout.prompt and layout.answer:
            texts = (layout.prompt, layout.answer)
        else:
            return _whole(self.columns)
        return f"pair_id({', '.join(map(quote, texts))})"

    @property
    def known_by_texts(self) -> bool:
        """Whether ids are those that `--exclude` knows."""
        return self._id.startswith("pair_id")


def _whole(columns: Mapping[str, Cells]) -> str:
    texts = (f"coalesce({each.text}, '')" for each in columns.values())
    sized = (f"strlen({text}) || ':' || {text}" for text in texts)
    return f"md5({' || '.join(sized)})"
