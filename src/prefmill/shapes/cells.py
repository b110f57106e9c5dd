"""Values of a row as expressions over a record, each in the words of both engines.

A cell is data: what a role of a row is made of. `sql()` is DuckDB's expression, `polars()` that of
Polars. Both give the same values; `tests/shapes` compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl
import polars.selectors as cs

from prefmill.connection import literal, quote
from prefmill.errors import BadArgument
from prefmill.shapes.paths import At, Field, Part, Path, Slice, is_message
from prefmill.shapes.words import as_number, folded
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_text
from prefmill.table.numbers import number

#: Who says an answer, in the words of the formats that are in use.
ASSISTANTS = ("assistant", "gpt", "model", "bot", "chatbot")
_SPACE = " \t\r\n"
_TRUTH = {"true": 1.0, "false": 0.0}
_BLANK_LINE = "\n\n"
_SPELLS_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
#: The number of an element in its list, and the column of that list's elements.
ELEMENT, EACH = "_element", "_each"


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
        return _json_leaf(inner, path.parts[path.json_from :])

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

    def sql(self) -> str:
        """By the element's number."""
        if self.path.json_from is not None:
            array = _json_array(self.path)
            return _json_leaf(f"{array}[{ELEMENT} + 1]", self.rest)
        element = f"list_extract({Inside(self.path).sql()}, {ELEMENT} + 1)"
        return _sql(element, self.rest)

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
    text = f"struct_extract({inner}, {literal(JSON_FIELD)})"
    route = _json_route(path.parts[path.json_from :])
    return f"json_extract({text}, {literal(route)})::JSON[]"


def _json_leaf(value: str, parts: Sequence[Part]) -> str:
    """Text of a value inside JSON; objects and lists are not text."""
    if value.endswith("[_element + 1]"):
        found = f"json_extract({value}, {literal(_json_route(parts))})"
    else:
        text = f"struct_extract({value}, {literal(JSON_FIELD)})"
        found = f"json_extract({text}, {literal(_json_route(parts))})"
    problem = literal("rows: a value inside JSON is an object or a list, where text was expected")
    return (
        f"CASE json_type({found}) WHEN 'OBJECT' THEN error({problem})"
        f" WHEN 'ARRAY' THEN error({problem}) ELSE {found} ->> '$' END"
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
        return f"CASE WHEN {some} THEN concat_ws({literal(_BLANK_LINE)}, {parts}) END"

    def polars(self) -> pl.Expr:
        """One text."""
        texts = [part.polars().cast(pl.String) for part in self.parts]
        full = [pl.when(text != "").then(text) for text in texts]
        one = pl.concat_str(full, separator=_BLANK_LINE, ignore_nulls=True)
        some = pl.any_horizontal(*(text.is_not_null() for text in texts))
        return pl.when(some).then(one)


@dataclass(frozen=True)
class Is:
    """Whether a value is one of some words: without regard to case, numbers as numbers."""

    value: Cell
    dtype: pl.DataType | None
    words: tuple[str, ...]

    @property
    def _texts(self) -> list[str]:
        return list(dict.fromkeys(folded(word) for word in self.words))

    @property
    def _numbers(self) -> list[float]:
        found = [_TRUTH.get(folded(word), as_number(word)) for word in self.words]
        return [value for value in found if value is not None and abs(value) != float("inf")]

    def sql(self) -> str:
        """True, false, or null where the value is null."""
        value, tests = self.value.sql(), []
        numeric = self.dtype is not None and self.dtype.is_numeric()
        if self._texts and not numeric:
            tests.append(f"{folded_sql(value)} IN ({', '.join(map(literal, self._texts))})")
        if self._numbers:
            numbers = ", ".join(f"{value!r}::DOUBLE" for value in self._numbers)
            tests.append(f"{number_sql(value, self.dtype)} IN ({numbers})")
        if not tests:
            return "false"
        return f"coalesce({' OR '.join(f'coalesce({test}, false)' for test in tests)}, false)"

    def polars(self) -> pl.Expr:
        """True or false."""
        value, tests = self.value.polars(), []
        numeric = self.dtype is not None and self.dtype.is_numeric()
        if self._texts and not numeric:
            text = value.cast(pl.String).str.strip_chars(_SPACE).str.to_lowercase()
            tests.append(text.is_in(self._texts).fill_null(False))
        if self._numbers:
            tests.append(_number_polars(value, self.dtype).is_in(self._numbers).fill_null(False))
        return pl.any_horizontal(*tests) if tests else pl.lit(False)


def folded_sql(value: str) -> str:
    """A text as words compare."""
    return f"lower(trim(({value})::VARCHAR, {literal(_SPACE)}))"


def number_sql(value: str, dtype: pl.DataType | None) -> str:
    """The number of a value; null where it is none."""
    if dtype is not None and (dtype.is_numeric() or dtype == pl.Boolean):
        return f"({value})::DOUBLE"
    text = f"trim(({value})::VARCHAR, {literal(_SPACE)})"
    return (
        f"CASE WHEN regexp_full_match({text}, {literal(_SPELLS_NUMBER)})"
        f" THEN try_cast({text} AS DOUBLE) END"
    )


def _number_polars(value: pl.Expr, dtype: pl.DataType | None) -> pl.Expr:
    if dtype is not None and not is_text(dtype):
        return value.cast(pl.Float64, strict=False)
    text = value.cast(pl.String).str.strip_chars(_SPACE)
    spells = text.str.contains(f"^{_SPELLS_NUMBER}$")
    return pl.when(spells).then(text.cast(pl.Float64, strict=False))


@dataclass(frozen=True)
class Verdict:
    """The number of the answer that wins, -1 for a tie, null where nobody can tell."""

    wins: tuple[tuple[Cell, ...], ...]  #: for each answer what makes it win
    ties: tuple[Cell, ...]

    def sql(self) -> str:
        """By how many answers win."""
        won = [_any_sql(tests) for tests in self.wins]
        count = " + ".join(f"({each})::INT" for each in won)
        which = " ".join(f"WHEN {each} THEN {place}" for place, each in enumerate(won))
        tie = _any_sql(self.ties)
        return (
            f"CASE WHEN {count} > 1 OR ({count} = 1 AND {tie}) THEN NULL"
            f" {which} WHEN {tie} THEN -1 END"
        )

    def polars(self) -> pl.Expr:
        """By how many answers win."""
        won = [_any_polars(tests) for tests in self.wins]
        tie = _any_polars(self.ties)
        count = pl.sum_horizontal(*(each.cast(pl.Int64) for each in won))
        unclear = (count > 1) | ((count == 1) & tie)
        which = pl.when(unclear).then(pl.lit(None, pl.Int64))
        for place, each in enumerate(won):
            which = which.when(each).then(pl.lit(place, pl.Int64))  # type: ignore[assignment]
        return which.when(tie).then(pl.lit(-1, pl.Int64)).otherwise(pl.lit(None, pl.Int64))


def _any_sql(tests: Sequence[Cell]) -> str:
    return f"({' OR '.join(test.sql() for test in tests)})" if tests else "false"


def _any_polars(tests: Sequence[Cell]) -> pl.Expr:
    return pl.any_horizontal(*(test.polars() for test in tests)) if tests else pl.lit(False)


@dataclass(frozen=True)
class Same:
    """Whether two values are one text, and `other` is not that text too."""

    value: Cell
    one: Cell
    others: tuple[Cell, ...]

    def sql(self) -> str:
        """True or false."""
        value = folded_sql(self.value.sql())
        tests = [f"{value} = {folded_sql(self.one.sql())}"]
        tests += [f"{value} IS DISTINCT FROM {folded_sql(other.sql())}" for other in self.others]
        return f"coalesce({' AND '.join(tests)}, false)"

    def polars(self) -> pl.Expr:
        """True or false."""

        def text(cell: Cell) -> pl.Expr:
            return cell.polars().cast(pl.String).str.strip_chars(_SPACE).str.to_lowercase()

        value = text(self.value)
        tests = [value == text(self.one), *(value.ne_missing(text(each)) for each in self.others)]
        return pl.all_horizontal(*tests).fill_null(False)


@dataclass(frozen=True)
class Scored:
    """The score of an answer by a verdict: 1 if it won, 0.5 of a tie, else 0."""

    verdict: Cell
    place: int

    def sql(self) -> str:
        """A number."""
        value = self.verdict.sql()
        return f"CASE {value} WHEN {self.place} THEN 1.0 WHEN -1 THEN 0.5 ELSE 0.0 END::DOUBLE"

    def polars(self) -> pl.Expr:
        """A number."""
        value = self.verdict.polars()
        return pl.when(value == self.place).then(1.0).when(value == -1).then(0.5).otherwise(0.0)


@dataclass(frozen=True)
class Meaning:
    """A score whose words, or sentinels, mean numbers; what is not named stays what it is."""

    value: Cell
    dtype: pl.DataType | None
    values: tuple[tuple[str, float | None], ...]

    @property
    def _stays_text(self) -> bool:
        return self.dtype is None or is_text(self.dtype)

    def sql(self) -> str:
        """Text stays text, so that a word without a meaning is told as it is."""
        value = self.value.sql()
        cases = []
        for word, meaning in self.values:
            score = "NULL" if meaning is None else f"{meaning!r}"
            score = literal(score) if self._stays_text and meaning is not None else score
            cases.append(f"WHEN {Is(self.value, self.dtype, (word,)).sql()} THEN {score}")
        kind = "VARCHAR" if self._stays_text else "DOUBLE"
        return f"CASE {' '.join(cases)} ELSE ({value})::{kind} END"

    def polars(self) -> pl.Expr:
        """As in SQL."""
        kind = pl.String if self._stays_text else pl.Float64
        chain = pl.when(pl.lit(False)).then(pl.lit(None, kind))
        for word, meaning in self.values:
            test = Is(self.value, self.dtype, (word,)).polars()
            score = pl.lit(None if meaning is None else meaning).cast(pl.Float64)
            chain = chain.when(test).then(score.cast(kind))  # type: ignore[assignment]
        return chain.otherwise(self.value.polars().cast(kind))


@dataclass(frozen=True)
class First:
    """The first reason whose condition holds; null if none does."""

    reasons: tuple[tuple[str, Cell], ...]

    def sql(self) -> str:
        """A text, or null."""
        if not self.reasons:
            return "NULL::VARCHAR"
        cases = (f"WHEN {test.sql()} THEN {literal(name)}" for name, test in self.reasons)
        return f"CASE {' '.join(cases)} END"

    def polars(self) -> pl.Expr:
        """A text, or null."""
        named = [pl.when(test.polars()).then(pl.lit(name)) for name, test in self.reasons]
        return pl.coalesce(*named, pl.lit(None, pl.String))


@dataclass(frozen=True)
class Not:
    """What is not so."""

    test: Cell

    def sql(self) -> str:
        """A negation."""
        return f"NOT ({self.test.sql()})"

    def polars(self) -> pl.Expr:
        """A negation."""
        return ~self.test.polars()


@dataclass(frozen=True)
class All:
    """Whether all of some conditions hold."""

    tests: tuple[Cell, ...]

    def sql(self) -> str:
        """A conjunction."""
        return f"({' AND '.join(test.sql() for test in self.tests)})"

    def polars(self) -> pl.Expr:
        """A conjunction."""
        return pl.all_horizontal(*(test.polars() for test in self.tests))


@dataclass(frozen=True)
class Empty:
    """Whether a value is null, or a text of white space only."""

    value: Cell

    def sql(self) -> str:
        """True or false."""
        value = self.value.sql()
        return f"({value} IS NULL OR {folded_sql(value)} = '')"

    def polars(self) -> pl.Expr:
        """True or false."""
        value = self.value.polars()
        text = value.cast(pl.String).str.strip_chars(_SPACE)
        return value.is_null() | (text == "").fill_null(False)


@dataclass(frozen=True)
class Null:
    """Whether a value is null."""

    value: Cell

    def sql(self) -> str:
        """True or false."""
        return f"({self.value.sql()}) IS NULL"

    def polars(self) -> pl.Expr:
        """True or false."""
        return self.value.polars().is_null()


@dataclass(frozen=True)
class NotAbove:
    """Whether one score is not above another; false where either is no number."""

    one: Cell
    other: Cell
    dtypes: tuple[pl.DataType | None, pl.DataType | None]

    def sql(self) -> str:
        """True or false."""
        one, other = (
            number_sql(cell.sql(), dtype)
            for cell, dtype in zip((self.one, self.other), self.dtypes, strict=True)
        )
        return f"coalesce({one} <= {other}, false)"

    def polars(self) -> pl.Expr:
        """True or false."""
        one, other = (
            number(cell.polars(), dtype or pl.String())
            for cell, dtype in zip((self.one, self.other), self.dtypes, strict=True)
        )
        return (one <= other).fill_null(False)


def texts(words: Iterable[object]) -> tuple[str, ...]:
    """Words as texts."""
    return tuple(map(str, words))


def ends_at_message(path: Path) -> bool:
    """Whether a path ends at one message."""
    return is_message(path.dtype)
