"""What is measured of an answer's text: its length, and how it is laid out."""

from __future__ import annotations

import polars as pl

from prefmill.table.chance import message_keys

#: A line that begins as an item of a list does.
LIST_ITEM = r"(?m)^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S"
#: Ways to lay out an answer, by name: what its text holds then. All are about looks, which a judge
#: may like for themselves.
FORMATS = ("lists", "headings", "bold", "code", "emoji")


def text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """A completion as one text; of messages, their contents (or parts) on lines of their own."""
    column = pl.col(name)
    if not isinstance(dtype, pl.List):
        return column.cast(pl.String)
    _, content = message_keys(dtype, "completion")
    contents = pl.element().struct.field(content)
    if _has_parts(dtype, content):
        texts = pl.element().struct.field("text").cast(pl.String)
        contents = contents.list.eval(texts).list.join("\n", ignore_nulls=True)
    return column.list.eval(contents.cast(pl.String)).list.join("\n", ignore_nulls=True)


def _has_parts(dtype: pl.List, content: str) -> bool:
    """Whether contents are lists of parts, of which some are texts."""
    fields = {field.name: field.dtype for field in dtype.inner.fields}  # type: ignore[union-attr]
    parts = fields[content]
    if not isinstance(parts, pl.List) or not isinstance(parts.inner, pl.Struct):
        return False
    return "text" in {field.name for field in parts.inner.fields}


def measures(text: pl.Expr) -> dict[str, pl.Expr]:
    """`length` (Unicode code points), and whether the text has each of `FORMATS`.

    A list has two items or more, for one line that begins with a dash may be anything. Code is a
    fenced block. Emoji are characters that are shown as pictures.

    >>> row = pl.DataFrame({"text": ["## A\\n- *b*\\n- **c**"]})
    >>> row.select(**measures(pl.col("text"))).row(0)
    (18, True, True, True, False, False)
    """
    found = {
        "lists": text.str.count_matches(LIST_ITEM) > 1,
        "headings": text.str.contains(r"(?m)^ {0,3}#{1,6}[ \t]+\S"),
        "bold": text.str.contains(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*"),
        "code": text.str.contains("```", literal=True),
        "emoji": text.str.contains(r"\p{Emoji_Presentation}|\x{FE0F}"),
    }
    return {"length": text.str.len_chars().cast(pl.Int64), **found}
