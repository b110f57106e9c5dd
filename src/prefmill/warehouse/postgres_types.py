"""Types of Postgres: how columns are declared, and as what they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefmill.warehouse.commit import Rows

#: By the name of a type what its values are; all other values are read as their text.
_ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int2": pa.int64(),
    "int4": pa.int64(),
    "int8": pa.int64(),
    "float4": pa.float64(),
    "float8": pa.float64(),
    "numeric": pa.float64(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "json": pa.json_(),
    "jsonb": pa.json_(),
}
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)$")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    kind       its type as it is declared, `numeric(3,1)`
    category   the letter of Postgres for what kind of type it is: A for arrays, C for rows
    base       the name of the type, under a domain too
    """

    name: str
    kind: str
    category: str
    base: str

    @property
    def arrow(self) -> pa.DataType:
        """What it is read as. Decimals of a given size stay decimals."""
        found = _DECIMAL.match(self.kind)
        if found and int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
            return pa.decimal128(int(found[1]), int(found[2]))
        return pa.json_() if self._is_nested else _ARROW.get(self.base, pa.string())

    @property
    def _is_nested(self) -> bool:
        return self.category in ("A", "C")

    def read(self, name: str) -> str:
        """The SQL that reads it, `name` being its quoted name."""
        if self._is_nested:
            return f"to_jsonb({name})::text"
        kind = self.arrow
        if kind in (pa.string(), pa.json_()):
            return f"{name}::text"
        return f"{name}::float8" if self.base == "numeric" and kind == pa.float64() else name


def declared(rows: Rows) -> dict[str, str]:
    """The columns of a table that is made for the rows, with their types as Postgres spells them.

    Conversations and JSON values are `jsonb`.
    """
    return {
        column.name: "jsonb" if column.name in rows.json else _declaration(column.type)
        for column in rows.schema
    }


def _declaration(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return "jsonb"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_uint64(kind):
        return "numeric(20,0)"
    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_floating(kind):
        return "double precision"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return f"timestamp {'with' if kind.tz else 'without'} time zone"
    return "bytea" if pa.types.is_binary(kind) else "text"


def holds_nul(rows: Rows) -> str | None:
    """The first column that holds the character NUL."""
    for batch in rows.reader():
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            if _has(values, "\0") or (column in rows.json and _has(values, r"\u0000")):
                return str(column)
    return None


def _has(values: Any, text: str) -> bool:
    kind = values.type
    if pa.types.is_struct(kind):
        return any(_has(each, text) for each in values.flatten())
    if pa.types.is_nested(kind):
        return _has(values.flatten(), text)
    if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        return False
    return bool(pc.any(pc.match_substring(values, text)).as_py())
