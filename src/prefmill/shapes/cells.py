"""Values of a row as expressions over a record, each in the words of both engines.

A cell is data: what a role of a row is made of. `sql()` is DuckDB's expression, `polars()` that of
Polars. Both give the same values; `tests/shapes` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl
import polars.selectors as cs

from prefmill.connection import literal, quote
from prefmill.errors import BadArgument
from prefmill.shapes.paths import At, Field, Part, Path, Slice
from prefmill.table.json_values import JSON_FIELD

#: Who says an answer, in the words of the formats that are in use.
ASSISTANTS = ("assistant", "gpt", "model", "bot", "chatbot")
_SPACE = " \t\r\n"
_TRUTH = {"true": 1.0, "false": 0.0}
_BLANK_LINE, _BLANK_LINE_SQL = "\n\n", r"E'\n\n'"
_SPELLS_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
#: The number of an element in its list, and the column of that list's elements.
ELEMENT, EACH = "_element", "_each"
#: The record of a row, by its number; what groups where scores compare inside a record only.
RECORD = "_record"
#: How DuckDB's errors about one record begin; then comes its number.
UNEQUAL = "rows: the lists of a record have different lengths: record "
NOT_LIST = "rows: a record has another value where a list was expected: record "
THROUGH = "rows: a list where a record was expected; --each PATH makes its elements rows: record "
NOT_TEXT = "rows: a record has an object or a list where text was expected: record "


class Cell(Protocol):
    """A value of a row."""

    def sql(self) -> str:
        """As DuckDB writes it."""
        ...

    def polars(self) -> pl.Expr:
        """As Polars writes it."""
        ...


@dataclass(frozen=True)
class Column:
    """A column that a stage before has made."""

    name: str

    def sql(self) -> str:
        """The column."""
        return quote(self.name)

    def polars(self) -> pl.Expr:
        """The column; `pl.col` would read `*` and `^a$` as patterns."""
        return cs.by_name(self.name).as_expr()


@dataclass(frozen=True)
class Constant:
    """The same number in every row."""

    value: float | None

    def sql(self) -> str:
        """A number."""
        return "NULL::DOUBLE" if self.value is None else f"{float(self.value)!r}::DOUBLE"

    def polars(self) -> pl.Expr:
        """A number."""
        return pl.lit(self.value, pl.Float64)


@dataclass(frozen=True)
class Inside:
    """What a path gives of a record."""

    path: Path

    def sql(self) -> str:
        """Fields and elements, one in the other."""
        path = self.path
        if path.json_from is None:
            return _sql(quote(path.column), path.parts)
        inner = _sql(quote(path.column), path.parts[: path.json_from])
        return _json_leaf(_json_text(inner), path.parts[path.json_from :])

    def polars(self) -> pl.Expr:
        """Fields and elements, one in the other."""
        _refuse_json(self.path)
        return _polars(Column(self.path.column).polars(), self.path.parts)


@dataclass(frozen=True)
class Element:
    """What the rest of a path gives of an element of the list number `place` of its variant."""

    path: Path
    place: int
    rest: tuple[Part, ...]
    #: the parts of `rest` up to here lead to JSON text
    json_from: int | None = None

    def sql(self) -> str:
        """By the element's number."""
        if self.path.json_from is not None:
            element = f"list_extract({_json_array(self.path)}, {ELEMENT} + 1)"
            return _json_leaf(element, self.rest)
        element = f"list_extract({Inside(self.path).sql()}, {ELEMENT} + 1)"
        if self.json_from is None:
            return _sql(element, self.rest)
        inner = _sql(element, self.rest[: self.json_from])
        return _json_leaf(_json_text(inner), self.rest[self.json_from :])

    def polars(self) -> pl.Expr:
        """Of the column of elements."""
        _refuse_json(self.path)
        return _polars(pl.col(f"{EACH}{self.place}"), self.rest)


def length_sql(path: Path) -> str:
    """How many elements the list at the end of a path has; null where there is none."""
    return f"len({_json_array(path) if path.json_from is not None else Inside(path).sql()})"


def _refuse_json(path: Path) -> None:
    """A frame does not know what is in JSON text before it sees all rows."""
    if path.json_from is None:
        return
    raise BadArgument(
        f"rows: the path {path.text!r} leads into JSON text, whose types a frame does not know;"
        f" got the column {path.column!r} as arrow.json, expected a record or a list.",
        hint="give the file to `prefmill`, or decode the column first: str.json_decode(dtype).",
    )


def _json_array(path: Path) -> str:
    assert path.json_from is not None
    inner = _sql(quote(path.column), path.parts[: path.json_from])
    route = _json_route(path.parts[path.json_from :])
    found = f"json_extract({_json_text(inner)}, {literal(route)})"
    return (
        f"CASE json_type({found}) WHEN 'ARRAY' THEN {found}::JSON[] WHEN 'NULL' THEN NULL"
        f" ELSE CASE WHEN {found} IS NOT NULL THEN error({literal(NOT_LIST)} || {RECORD}) END END"
    )


def _json_text(value: str) -> str:
    """The text of a column, or a field, of JSON."""
    return f"struct_extract({value}, {literal(JSON_FIELD)})"


def _json_leaf(text: str, parts: Sequence[Part]) -> str:
    """Text of a value inside JSON; objects and lists are not text."""
    found = f"json_extract({text}, {literal(_json_route(parts))})"
    problem = f"error({literal(NOT_TEXT)} || {RECORD})"
    # A field of a list would be null in silence.
    routes = [_json_route(parts[:n]) for n, part in enumerate(parts) if isinstance(part, Field)]
    lists = [f"json_type({text}, {literal(route)}) = 'ARRAY'" for route in routes]
    through = "".join(f" WHEN {each} THEN error({literal(THROUGH)} || {RECORD})" for each in lists)
    return (
        f"CASE{through} WHEN json_type({found}) IN ('OBJECT', 'ARRAY') THEN {problem}"
        f" ELSE {found} ->> '$' END"
    )


def _json_route(parts: Sequence[Part]) -> str:
    route = "$"
    for part in parts:
        if isinstance(part, Field):
            route += '."' + part.name.replace('"', '\\"') + '"'
        elif isinstance(part, At):
            route += f"[{part.index}]" if part.index >= 0 else f"[#{part.index}]"
    return route


def _sql(value: str, parts: Sequence[Part], depth: int = 0) -> str:
    for place, part in enumerate(parts):
        if isinstance(part, Field) and part.through:
            each = f"x{depth}"
            inner = f"struct_extract({each}, {literal(part.name)})"
            rest = _sql(inner, parts[place + 1 :], depth + 1)
            return f"list_transform({value}, lambda {each}: {rest})"
        if isinstance(part, Field):
            value = f"struct_extract({value}, {literal(part.name)})"
        elif isinstance(part, At):
            value = f"list_extract({value}, {part.index + (part.index >= 0)})"
        else:
            value = f"{value}[{_first(part)}:{_last(part)}]"
    return value


def _first(part: Slice) -> str:
    """DuckDB counts from 1."""
    if part.start is None:
        return "1"
    return str(part.start + (part.start >= 0))


def _last(part: Slice) -> str:
    """DuckDB's end is the last element itself."""
    if part.end is None:
        return "-1"
    return str(part.end if part.end >= 0 else part.end - 1)


def _polars(value: pl.Expr, parts: Sequence[Part]) -> pl.Expr:
    for place, part in enumerate(parts):
        if isinstance(part, Field) and part.through:
            inner = pl.element().struct.field(part.name)
            return value.list.eval(_polars(inner, parts[place + 1 :]))
        if isinstance(part, Field):
            value = value.struct.field(part.name)
        elif isinstance(part, At):
            value = value.list.get(part.index, null_on_oob=True)
        else:
            value = _sliced(value, part)
    return value


def _sliced(value: pl.Expr, part: Slice) -> pl.Expr:
    size = value.list.len().cast(pl.Int64)

    def bound(index: int | None, default: pl.Expr) -> pl.Expr:
        if index is None:
            return default
        place = pl.lit(index, pl.Int64) if index >= 0 else size + index
        return place.clip(0, size)

    start, end = bound(part.start, pl.lit(0, pl.Int64)), bound(part.end, size)
    return value.list.slice(start, (end - start).clip(0))


@dataclass(frozen=True)
class Answer:
    """The content of a message, if an assistant said it, or anybody; else null."""

    message: Cell
    dtype: pl.DataType
    anybody: bool = False

    @property
    def _names(self) -> tuple[str, str]:
        names = {field.name for field in self.dtype.fields}  # type: ignore[attr-defined]
        return ("role", "content") if {"role", "content"} <= names else ("from", "value")

    def sql(self) -> str:
        """By who said it."""
        role, content = self._names
        value = self.message.sql()
        if self.anybody:
            return f"struct_extract({value}, {literal(content)})"
        said = ", ".join(map(literal, ASSISTANTS))
        return (
            f"CASE WHEN lower(struct_extract({value}, {literal(role)})) IN ({said})"
            f" THEN struct_extract({value}, {literal(content)}) END"
        )

    def polars(self) -> pl.Expr:
        """By who said it."""
        role, content = self._names
        value = self.message.polars()
        if self.anybody:
            return value.struct.field(content)
        said = value.struct.field(role).cast(pl.String).str.to_lowercase().is_in(ASSISTANTS)
        return pl.when(said).then(value.struct.field(content))


@dataclass(frozen=True)
class Text:
    """A number, a boolean or a date as text; texts stay."""

    value: Cell

    def sql(self) -> str:
        """A cast."""
        return f"({self.value.sql()})::VARCHAR"

    def polars(self) -> pl.Expr:
        """A cast."""
        return self.value.polars().cast(pl.String)


@dataclass(frozen=True)
class Joined:
    """Texts joined by a blank line; null and empty ones are left out, and of none comes null."""

    parts: tuple[Cell, ...]

    def sql(self) -> str:
        """One text."""
        parts = ", ".join(f"nullif({part.sql()}, '')" for part in self.parts)
        some = " OR ".join(f"{part.sql()} IS NOT NULL" for part in self.parts)
        return f"CASE WHEN {some} THEN concat_ws({_BLANK_LINE_SQL}, {parts}) END"

    def polars(self) -> pl.Expr:
        """One text."""
        texts = [part.polars().cast(pl.String) for part in self.parts]
        full = [pl.when(text != "").then(text) for text in texts]
        one = pl.concat_str(full, separator=_BLANK_LINE, ignore_nulls=True)
        some = pl.any_horizontal(*(text.is_not_null() for text in texts))
        return pl.when(some).then(one)


@dataclass(frozen=True)
class Named:
    """The same text in every row."""

    text: str

    def sql(self) -> str:
        """A text."""
        return literal(self.text)

    def polars(self) -> pl.Expr:
        """A text."""
        return pl.lit(self.text)
