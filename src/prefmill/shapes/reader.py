"""Words of `[rows]` read against the types of a table: each text a path, each path a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from prefmill.errors import BadArgument
from prefmill.shapes.cells import Cell, Element, Inside
from prefmill.shapes.paths import EXTRA, Field, Part, Path, find
from prefmill.shapes.words import Rows, split


@dataclass
class Reader:
    """What is read of a table's types, word by word."""

    rows: Rows
    schema: pl.Schema
    where: str
    each: list[Path] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)

    def texts(self, role: str) -> list[Any]:
        """The paths, or numbers, of a word: a list, or a text with commas."""
        value = getattr(self.rows, role)
        if value is None:
            return []
        if isinstance(value, str):
            plain = value.removeprefix("-") if role == "score" else value
            value = [value] if plain in self.schema else split(value)
        found: list[Any] = []
        for text in value:
            found += self._fields(text) if isinstance(text, str) else [text]
        return found

    def _fields(self, text: str) -> list[str]:
        """A path that ends in `.*` as the paths of all fields."""
        if not text.endswith(".*") or text in self.schema:
            return [text]
        record = self.find(text[:-2])
        if not isinstance(record.dtype, pl.Struct):
            raise BadArgument(
                f"{self.where}: {text!r} needs a record; got the type {record.dtype}.",
                hint="name the columns one by one, with commas.",
            )
        return [f'{text[:-2]}."{each.name}"' for each in record.dtype.fields]

    def find(self, text: str, role: str = "path") -> Path:
        """A path, or `ColumnMissing`."""
        return find(text, self.schema, where=self.where, role=role)

    def list_of(self, text: str) -> Path:
        """The path of a list of `each`."""
        path = self.find(text, "each")
        if path.json_from is None and not isinstance(path.dtype, pl.List):
            raise BadArgument(
                f"{self.where}: each {text!r} is not a list; got the type {path.dtype}.",
                hint="several columns of one role stand side by side: --completion a,b.",
            )
        if path.list_inside is not None:
            raise BadArgument(
                f"{self.where}: each {text!r} is a list inside of a list.",
                hint="write the outer list as rows first: prefmill rows FILE --each LIST"
                " -o rows.parquet.",
            )
        return path

    def cell(self, text: str, role: str, lists: list[Path]) -> tuple[Cell, pl.DataType | None]:
        """The value of a path and its type; what it goes through is added to `lists`."""
        path = self.find(text, role)
        if not path.parts and role not in ("group", "where", EXTRA):
            self.consumed.add(path.column)
        for each in self.each:
            rest = path.after(each)
            if rest is not None:
                return self._element(path, each, rest, lists)
        if (inside := path.list_inside) is not None:
            rest = path.parts[len(inside.parts) :]
            return self._element(path, inside, rest, lists)
        return Inside(path), path.dtype

    def _element(
        self, path: Path, each: Path, rest: Sequence[Part], lists: list[Path]
    ) -> tuple[Cell, pl.DataType | None]:
        if each not in lists:
            lists.append(each)
        parts = list(rest)
        json_from = None
        if path.json_from is not None and each.json_from is None:
            json_from = path.json_from - len(each.parts)
        dtype = path.dtype
        if parts and isinstance(parts[0], Field) and parts[0].through:
            parts[0] = replace(parts[0], through=False)
        if isinstance(dtype, pl.List):
            dtype = dtype.inner  # type: ignore[assignment]
        self.consumed.add(path.column)
        return Element(each, lists.index(each), tuple(parts), json_from), dtype
