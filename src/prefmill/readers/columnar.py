"""Local Parquet and Arrow IPC. Parquet is used in place: only its footer is read.

A Parquet path that an engine would take for a pattern gets a link with a plain name. IPC (files and
streams) is staged in one pass, its texts checked, since a Parquet file is trusted to hold valid
UTF-8.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as paipc
import pyarrow.parquet as pq

from prefmill.errors import BadInput
from prefmill.readers.find import Input
from prefmill.readers.footer import check_footer, check_pages
from prefmill.readers.json_lines import JsonFile, look_at_tables
from prefmill.readers.staging import (
    ROWS_A_GROUP,
    Context,
    Part,
    Writer,
    as_bad_input,
    check_names,
    is_misread,
    plain_schema,
)
from prefmill.table.conform import uncoded
from prefmill.table.json_values import holds, is_marked, without_marks
from prefmill.table.together import told

#: Both engines take any other character for a pattern, a query or an escape.
_SAFE_PATH = re.compile(r"[\w/.\-+@ ,=:~()\\]*")
#: Of a key=value folder, as engines read it.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.\-]+")


def stage_ipc(item: Input, context: Context) -> Part | JsonFile:
    """One IPC file or stream as Parquet; of JSON columns the first pass."""
    if os.path.getsize(item.path) == 0:
        raise BadInput(f"{item.label}: the file is empty.")
    item = _named_in_utf8(item, context)

    def tables() -> Iterator[pa.Table]:
        with as_bad_input(item.label, "Arrow"), pa.memory_map(item.path) as file:
            for batch in _ipc_batches(file)[1]:
                # Offsets and UTF-8: later steps trust them.
                batch.validate(full=True)
                yield from _slices(pa.Table.from_batches([batch]))

    with as_bad_input(item.label, "Arrow"), pa.memory_map(item.path) as file:
        schema = _ipc_batches(file)[0]
        # A name that is not UTF-8 fails here.
        _ = schema.names, schema.to_string()
    return stage_tables(item, context, schema, tables)


def _ipc_batches(file: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        reader = paipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = paipc.open_stream(file)
        return stream.schema, iter(stream)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, max(1, table.num_rows), ROWS_A_GROUP):
        yield table.slice(start, ROWS_A_GROUP)


def stage_tables(
    item: Input, context: Context, schema: pa.Schema, tables: Callable[[], Iterator[pa.Table]]
) -> Part | JsonFile:
    """A table as Parquet in plain types; of one with JSON columns the first pass."""
    check_names(schema.names, item.label)
    kept = context.kept(schema.names)
    if not kept:
        raise BadInput(f"{item.label}: the file has no columns.")
    schema = pa.schema([schema.field(name) for name in kept])
    if any(holds(field.type, is_marked) for field in schema):
        return look_at_tables(
            item, context, lambda: (table.select(kept) for table in tables()), schema
        )
    plain = plain_schema(schema)
    with Writer(context.new_path(item.partition), plain) as writer:
        for table in tables():
            writer.add(uncoded(without_marks(table.select(kept))).cast(plain))
        return writer.close(item)


def _parquet_tables(item: Input) -> Iterator[pa.Table]:
    with as_bad_input(item.label, "Parquet"), pq.ParquetFile(item.path) as file:
        for batch in file.iter_batches(4096):
            yield pa.Table.from_batches([batch])


def _named_in_utf8(item: Input, context: Context) -> Input:
    """`item` under a name that Arrow can open: the name of a file may be any bytes."""
    try:
        item.path.encode()
    except UnicodeEncodeError:
        return replace(item, path=_link(item.path, context.new_path(())))
    return item


def _link(path: str, link: Path) -> str:
    """The file `path` under the name `link`."""
    try:
        os.symlink(path, link)
    except OSError:  # no links here: a copy costs space, not correctness
        shutil.copyfile(path, link)
    return str(link)


def _leaves(kind: pa.DataType) -> int:
    if pa.types.is_struct(kind):
        return sum(_leaves(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if pa.types.is_nested(kind):
        return _leaves(kind.value_type)
    return 1


def local_parquet(item: Input, context: Context) -> Part | JsonFile:
    """One Parquet file in place, by its footer; staged where an engine would misread a type."""
    check_footer(item.path, item.label)
    item = _named_in_utf8(item, context)
    with as_bad_input(item.label, "Parquet"), pq.ParquetFile(item.path, memory_map=False) as file:
        meta, schema = file.metadata, file.schema_arrow
        nulls = nulls_in(file, item.label)
        check_pages(item.path, item.label, meta)
    if any(holds(field.type, is_misread) for field in schema):
        context.progress(f"decoding {item.label}")
        return stage_tables(item, context, schema, lambda: _parquet_tables(item))
    check_names(schema.names, item.label)
    if not schema.names:
        raise BadInput(f"{item.label}: the file has no columns.")
    path = item.path
    above = "/".join(path.split(os.sep)[: -1 - len(item.partition)])
    # With partitions, only the folders below the given one count; engines would read every
    # key=value of the path.
    plain = all(_PLAIN_VALUE.fullmatch(part) for pair in item.partition for part in pair)
    if not _SAFE_PATH.fullmatch(path) or (item.partition and ("=" in above or not plain)):
        path = _link(path, context.new_path(item.partition))
    kept = context.wanted(schema.names)
    return Part(
        path,
        item.label,
        plain_schema(schema, kept),
        meta.num_rows,
        frozenset(nulls & set(kept)),
        item.partition,
        together=told(meta.metadata),
    )


def nulls_in(file: pq.ParquetFile, label: str) -> set[str]:
    """The columns that may hold nulls, by the footer, whose other claims are checked."""
    meta, schema = file.metadata, file.schema_arrow
    # A name that is not UTF-8 fails here.
    _ = schema.names, schema.to_string()
    nulls = {field.name for field in schema if pa.types.is_nested(field.type)}
    leaf = 0
    for field in schema:
        if field.name not in nulls and not all(
            _no_nulls(meta, group, leaf) for group in range(meta.num_row_groups)
        ):
            nulls.add(field.name)
        leaf += _leaves(field.type)
    rows = meta.num_rows
    if sum(meta.row_group(group).num_rows for group in range(meta.num_row_groups)) != rows:
        raise BadInput(
            f"{label}: not a readable Parquet file; its groups of rows do not have its"
            f" {rows:,} rows."
        )
    return nulls


def _no_nulls(meta: pq.FileMetaData, group: int, leaf: int) -> bool:
    if meta.schema.column(leaf).max_definition_level == 0 or meta.row_group(group).num_rows == 0:
        return True
    statistics = meta.row_group(group).column(leaf).statistics
    return statistics is not None and bool(statistics.has_null_count) and statistics.null_count == 0
