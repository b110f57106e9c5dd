"""Rows between Arrow and the values that drivers of databases give and take.

Such databases have no lists of structs: conversations are JSON texts there, and are read back as
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from prefmill.errors import BadInput
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Rows, line_of

#: How a value of a type is read, where the driver may give another.
Readers = Mapping[pa.DataType, Callable[[Any], Any]]


def values_of(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """The rows as drivers take them: numbers, booleans, bytes, and texts of all else."""
    writers = [_writer(column.type) for column in rows.schema]
    for batch in rows.reader():
        columns = [
            [None if value is None else write(value) for value in column.to_pylist()]
            for write, column in zip(writers, batch.columns, strict=True)
        ]
        yield from zip(*columns, strict=True)


def _writer(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_nested(kind):
        return lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    plain = (
        pa.types.is_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_binary,
    )
    return (lambda value: value) if any(test(kind) for test in plain) else str


def batch_of(
    schema: pa.Schema, rows: Iterable[Sequence[Any]], address: Address, read: Readers
) -> pa.RecordBatch:
    """Rows that a driver gave, at least one. Raises `BadInput` for values of other types."""
    columns = zip(schema, zip(*rows, strict=True), strict=True)
    arrays = [_array(column, values, address, read) for column, values in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(column: pa.Field, values: Sequence[Any], address: Address, read: Readers) -> pa.Array:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    reader = read.get(kind)
    try:
        if reader is not None:
            values = [None if value is None else reader(value) for value in values]
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise BadInput(
            f"{address.shown}: the column {column.name!r} holds values that are no"
            f" {kind}; {line_of(error)}."
        ) from None
