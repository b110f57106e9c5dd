"""Conditions on records, and scores that words mean, in the words of both engines."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from prefmill.connection import literal
from prefmill.shapes.cells import Cell
from prefmill.shapes.words import as_number, folded
from prefmill.table.messages import is_text
from prefmill.table.numbers import number

_SPACE, _SPACE_SQL = " \t\r\n", r"E' \t\r\n'"
_TRUTH = {"true": 1.0, "false": 0.0}
_SPELLS_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


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
        # Of a text that is no number the second test is null, and so is `false OR null`.
        return f"coalesce({' OR '.join(tests)}, false)"

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
    return f"lower(trim(({value})::VARCHAR, {_SPACE_SQL}))"


def number_sql(value: str, dtype: pl.DataType | None) -> str:
    """The number of a value; null where it is none."""
    if dtype is not None and (dtype.is_numeric() or dtype == pl.Boolean):
        return f"({value})::DOUBLE"
    text = f"trim(({value})::VARCHAR, {_SPACE_SQL})"
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
class Some:
    """Whether one of some conditions holds."""

    tests: tuple[Cell, ...]

    def sql(self) -> str:
        """A disjunction."""
        return f"({' OR '.join(test.sql() for test in self.tests)})" if self.tests else "false"

    def polars(self) -> pl.Expr:
        """A disjunction."""
        tests = [test.polars() for test in self.tests]
        return pl.any_horizontal(*tests) if tests else pl.lit(False)


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
