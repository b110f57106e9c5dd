"""What ratings and positions mean, as Polars expressions; the macros are in `sql/steps/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import polars as pl

from prefmill.table.numbers import number
from prefmill.table.step_words import NO_ERROR, Meaning

SPACE = " \t\n\r\x0b\x0c"
#: How a message names the row at a position.
Place = Callable[[int], str]
#: Marks of steps that need no words.
_MARKS: Mapping[str, Meaning] = {"+": 1, "-": 0}


def row_of(position: int) -> str:
    """The row of a frame at a position."""
    return f"row {position}"


def rating_number(rating: pl.Expr, dtype: pl.DataType, values: Mapping[str, Meaning]) -> pl.Expr:
    """The number that a rating means (Float64), null if it means none.

    >>> marks = pl.DataFrame({"r": ["+", "-", " 0.5", "?"]})
    >>> marks.select(rating_number(pl.col("r"), pl.String(), {})).to_series().to_list()
    [1.0, 0.0, 0.5, None]
    """
    own = number(rating, dtype)
    known = {**(_MARKS if dtype == pl.String else {}), **values}
    found = own
    # The last of two words for one rating wins, as the later key of a mapping does.
    for word, value in known.items():
        found = pl.when(is_word(rating, own, word)).then(pl.lit(value, pl.Float64)).otherwise(found)
    return pl.when(found.is_finite()).then(found)


def is_word(column: pl.Expr, own: pl.Expr, word: str) -> pl.Expr:
    """Whether a cell is `word`, which is a number, or text without regard to case; `own` is the
    number that the cell means.
    """
    value = number_of(word)
    if value is not None:
        return (own == value).fill_null(False)
    text = column.cast(pl.String, strict=False).str.strip_chars(SPACE).str.to_lowercase()
    return (text == word.strip(SPACE).lower()).fill_null(False)


def number_of(word: str) -> float | None:
    """The number that a word spells, if it does."""
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", word.strip(SPACE), re.I):
        return float(word.strip(SPACE))
    return None


def says_no_error(position: pl.Expr, dtype: pl.DataType, words: Iterable[str]) -> pl.Expr:
    """Whether a position of the first error says that there is none."""
    own = number(position, dtype)
    no_error: pl.Expr = pl.lit(False)
    for word in (*NO_ERROR, *words):
        if word.strip(SPACE).lower() == "null":
            no_error |= position.is_null()
        else:
            no_error |= is_word(position, own, word)
    return no_error
