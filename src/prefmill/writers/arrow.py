"""Frames in the Arrow types that other tools expect."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from prefmill.table.json_values import in_types, is_json


def arrow_schema(schema: pl.Schema) -> pa.Schema:
    """`schema` with `string` and `list`, where Polars says `large_string` and `large_list`.

    >>> message = pl.Struct({"role": pl.String, "content": pl.String})
    >>> arrow_schema(pl.Schema({"prompt": pl.List(message)})).field("prompt").type
    ListType(list<item: struct<role: string, content: string>>)
    """
    wide = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return pa.schema([pa.field(field.name, _narrow(field.type)) for field in wide])


def arrow_tables(frame: pl.DataFrame, schema: pa.Schema, most_bytes: int) -> Iterator[pa.Table]:
    """`frame` in the Arrow types of `schema`, in slices of at most about `most_bytes`.

    The 32-bit offsets of `string` reach 2 GB. A mean says nothing of the largest slice, so each is
    measured.
    """
    for part in frame.iter_slices(rows_in(most_bytes, frame)):
        waiting = [part.to_arrow(compat_level=pl.CompatLevel.oldest())]
        while waiting:
            table = waiting.pop()
            if table.nbytes > 2 * most_bytes and table.num_rows > 1:
                half = table.num_rows // 2
                waiting += [table.slice(half), table.slice(0, half)]
            else:
                yield in_types(table, schema)


def rows_in(size_bytes: int, frame: pl.DataFrame) -> int:
    """How many rows like those of `frame` fill so many bytes in Arrow's form, at least 1."""
    sample = frame.gather_every(max(1, frame.height // 500)).head(500)
    size = int(sample.to_arrow(compat_level=pl.CompatLevel.oldest()).nbytes)
    return max(1, size_bytes * sample.height // max(1, size))


def _narrow(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_narrow(kind.value_type))
    if is_json(kind):
        return pa.json_()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _narrow(field.type)) for field in kind])
    if pa.types.is_dictionary(kind):
        return _narrow(kind.value_type)
    return kind
