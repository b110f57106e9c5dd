"""CSV that people open in a spreadsheet: texts that it would compute begin with an apostrophe.

A spreadsheet takes a cell that begins with = + - @ for a formula, also one in quotes, and a formula
can call programs and send other cells away. The rule is OWASP's on CSV injection, for texts and the
names of columns; numbers, dates and booleans stay as they are. It is lossy on purpose: read back,
such a text is another one.
"""

from __future__ import annotations

import re

import polars as pl

from prefmill.errors import BadArgument
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text, is_text
from prefmill.writers.place import Place

MARK = "'"
#: What a formula begins with. Tab and line ends are taken away by some before they look, and some
#: locales take wide characters for narrow ones.
FORMULA = "^[=+@\\t\\r\\n\uff1d\uff0b\uff0d\uff20-]"
#: A whole value of JSON that begins with a minus is a number.
_NUMBER = r"^-[0-9.eE+-]+$"


def refuse_other_kinds(place: Place) -> None:
    """Raise `BadArgument` for a target that is not CSV."""
    if place.kind not in ("csv", "tsv"):
        raise BadArgument(
            f"write: spreadsheet_safe is of CSV for people; got {place.kind}.",
            hint="end the output with .csv or .tsv, or leave --spreadsheet-safe out: other formats"
            " hold no formulas.",
        )


def safe_name(name: str) -> str:
    """The name of a column, which is a cell too.

    >>> safe_name("=cmd"), safe_name("prompt")
    ("'=cmd", 'prompt')
    """
    return MARK + name if re.match(FORMULA, name) else name


def safe_schema(schema: pl.Schema) -> pl.Schema:
    """The schema of what `safe` returns. Raises `BadArgument` where two columns get one name."""
    names = [safe_name(name) for name in schema]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadArgument(
            f"write: two columns would be named {twice[0]!r} with spreadsheet_safe.",
            hint="rename one of them.",
        )
    types = [pl.String() if _is_text(dtype) else dtype for dtype in schema.values()]
    return pl.Schema(zip(names, types, strict=True))


def safe(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The frame as `safe_schema` has it, and how many texts begin with an apostrophe now.

    >>> table, marked = safe(pl.DataFrame({"a": ["=1+1", "x", None], "n": [-1, 0, 1]}))
    >>> table.rows(), marked
    ([("'=1+1", -1), ('x', 0), (None, 1)], 1)
    """
    columns, marked = [], 0
    for column in frame:
        name = safe_name(column.name)
        if not _is_text(column.dtype):
            columns.append(column.alias(name))
            continue
        if is_json_text(column.dtype):
            texts = column.struct.field(JSON_FIELD)
            at = texts.str.contains(FORMULA) & ~texts.str.contains(_NUMBER)
        else:
            texts = column.cast(pl.String)
            at = texts.str.contains(FORMULA)
        at = at.fill_null(value=False)
        marked += int(at.sum())
        table = pl.DataFrame({"text": texts, "at": at})
        guarded = pl.when("at").then(pl.lit(MARK) + pl.col("text")).otherwise("text")
        columns.append(table.select(guarded.alias(name)).to_series())
    return pl.DataFrame(columns), marked


def _is_text(dtype: pl.DataType) -> bool:
    return is_json_text(dtype) or (is_text(dtype) and dtype != pl.Null)


def told(marked: int | None) -> str:
    """What a report says of `marked` texts; None: nobody counted."""
    what = "texts that begin like a formula" if marked is None else f"{marked:,} texts"
    return f"spreadsheet-safe: {what} have an apostrophe in front; read back, they are other texts"
