"""Names of hive partitions: which columns may be in them, and how values are spelled."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import polars as pl

from prefmill.errors import BadArgument

#: Where the rows without a value are, as hive calls it.
NULL = "__HIVE_DEFAULT_PARTITION__"
_FILES = re.compile(r"part-\d{5}\.parquet")
#: What hive escapes in a name of a folder.
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{\[\]^]")
_MOST_BYTES = 255


def check_columns(columns: Sequence[str], schema: pl.Schema) -> None:
    """Raise `BadArgument` for columns that rows of `schema` cannot be partitioned by.

    >>> check_columns(["score"], pl.Schema({"prompt": pl.String, "score": pl.Float64}))
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: partitions go by texts, whole numbers, booleans or dates;...
    """
    if isinstance(columns, str):
        raise BadArgument(
            f"write: partition_by is a list of columns; got the text {columns!r}.",
            hint=f"partition_by=[{columns!r}].",
        )
    for name in columns:
        if name not in schema:
            raise BadArgument(
                f"write: no column {name!r} to partition by; got {list(schema)}.",
                hint="--keep carries a column of the input along; of pairs it is two,"
                " chosen_NAME and rejected_NAME.",
            )
        kind = schema[name]
        plain = (pl.String, pl.Boolean, pl.Date, pl.Categorical, pl.Enum)
        if not (kind.is_integer() or isinstance(kind, plain)):
            raise BadArgument(
                "write: partitions go by texts, whole numbers, booleans or dates;"
                f" got {name!r} of {kind}."
            )
    if len(set(columns)) < len(columns):
        raise BadArgument(f"write: partition_by names a column twice; got {list(columns)}.")


def folder_name(column: str, value: Any) -> str:
    """The name of the folder of a value, as hive writes it.

    >>> import datetime
    >>> folder_name("source", "a/b"), folder_name("day", datetime.date(2026, 1, 2))
    ('source=a%2Fb', 'day=2026-01-02')
    >>> folder_name("label", True), folder_name("label", None)
    ('label=true', 'label=__HIVE_DEFAULT_PARTITION__')
    """
    if value is None:
        text = NULL
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(value)
        if text in (NULL, ""):
            raise BadArgument(
                f"write: a partition of {column!r} cannot be told from that of nulls;"
                f" got the value {text!r}.",
                hint="give that value another name in the input, or partition by another column.",
            )
    name = f"{_escaped(column)}={_escaped(text)}"
    if len(name.encode()) > _MOST_BYTES:
        raise BadArgument(
            f"write: a value of {column!r} is too long for the name of a folder;"
            f" got {len(text):,} characters.",
            hint="partition by a column of short values.",
        )
    return name


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def is_partitioned(names: Collection[str]) -> bool:
    """Whether files of these names, below a folder, are all those of partitions.

    >>> is_partitioned(["a=1/part-00000.parquet"]), is_partitioned(["a=1/x.csv"])
    (True, False)
    """
    for name in names:
        *folders, file = name.split("/")
        if not _FILES.fullmatch(file) or not all("=" in folder for folder in folders):
            return False
    return True
