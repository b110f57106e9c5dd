"""The bucket of a row: a hash of its group's key, the same number on every host and machine."""

from __future__ import annotations

import polars as pl
import polars.selectors as cs

from prefmill.table.chance import prompt_hash
from prefmill.table.messages import is_text
from prefmill.table.roles import Roles

#: What every hash begins with, so that buckets have nothing to do with draws and splits.
PREFIX = b"bucket:"


def bucket_of(rows: pl.DataFrame, roles: Roles, buckets: int) -> pl.Series:
    """The bucket of every row, a whole number from 0 to below `buckets` (Int64), in order.

    Rows of one group have one bucket: those of equal prompts, or of equal columns `group`. Rows
    without a key, which no plan uses, are in bucket 0. Cost: that of `prompt_hash`.

    >>> rows = pl.DataFrame({"prompt": ["p", "q", "p", None]})
    >>> numbers = bucket_of(rows, Roles(), 1000)
    >>> numbers[0] == numbers[2] != numbers[1], numbers[3]
    (True, 0)
    """
    if roles.group:
        key = _of_columns(rows, roles.group)
    else:
        key = _of_prompt(rows[roles.prompt])
    hashed = prompt_hash(key, PREFIX)
    return (hashed % buckets).fill_null(0).cast(pl.Int64).alias("bucket")


def _of_columns(rows: pl.DataFrame, names: tuple[str, ...]) -> pl.Series:
    """The columns of a group as one text, each with its length before it; null where one is."""
    parts = []
    for name in names:
        text = cs.by_name(name).as_expr().cast(pl.String)
        parts += [text.str.len_bytes().cast(pl.String), pl.lit(":"), text]
    return rows.select(pl.concat_str(parts).alias("key"))["key"]


def _of_prompt(prompts: pl.Series) -> pl.Series:
    if is_text(prompts.dtype):
        return prompts.cast(pl.String)
    if not _holds_parts(prompts.dtype):
        return prompts
    # Contents in parts have no spelling of their own: the JSON of the list tells as much.
    frame = prompts.to_frame("p")
    spelled = pl.struct("p").struct.json_encode()
    return frame.select(pl.when(pl.col("p").is_not_null()).then(spelled))["p"]


def _holds_parts(kind: pl.DataType) -> bool:
    """Whether the contents of messages are lists or structs, and not text."""
    inner = getattr(kind, "inner", None)
    fields = inner.fields if isinstance(inner, pl.Struct) else ()
    return any(each.name in ("content", "value") and each.dtype.is_nested() for each in fields)
