"""Parquet objects that stay where they are: their footers, a sample, and later some of their rows.

Who spreads a run over machines needs to know of an object what its footer says, and how its first
rows look. Each worker then reads its own rows and columns, in the version whose footer was read.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.errors import BadInput
from prefmill.objects import ObjectReader
from prefmill.readers.columnar import nulls_in
from prefmill.readers.find import Input
from prefmill.readers.footer import check_footer_in, check_pages
from prefmill.readers.remote import copy_all, reader_of
from prefmill.readers.staging import (
    Context,
    Part,
    Version,
    as_bad_input,
    check_names,
    is_misread,
    path_in,
    plain_schema,
)
from prefmill.table.json_values import holds

#: Rows of the samples of all objects together, and at least of one with columns of its own.
_SAMPLE, _HEAD = 20_000, 1_000
#: What one request fetches at most, of a sample and of a task's rows.
_LITTLE, _MUCH = 256 << 10, 4 << 20
_BATCH = 4096
#: Types that are the same to DuckDB after Arrow has read and written them.
_SAME = {"NONE", "STRING", "INT", "DECIMAL", "DATE", "TIMESTAMP"}


def left_in_place(item: Input, context: Context) -> Part | None:
    """A Parquet object by its footer, and a file with its first rows; None: it has to be fetched.

    That is so where a column has a type that DuckDB would read otherwise in a copy of some rows.
    Costs two requests for a footer of at most 64 kB, and one for each 256 kB of the sample: 20,000
    rows of all objects together, the first ones, and 1,000 of one with a column that is new.
    Raises `BadInput`, `StoreFailed`.
    """
    try:
        reader = ObjectReader(item.path, ahead=0)
    except FileNotFoundError:
        raise BadInput(f"{item.label}: the object went away.") from None
    context.progress(f"looking at {item.label}")
    check_footer_in(reader, reader.size, item.label)
    with as_bad_input(item.label, "Parquet"), _parquet(reader, _LITTLE) as file:
        meta, schema = file.metadata, file.schema_arrow
        rows, group_rows = meta.num_rows, 0
        if meta.num_row_groups:
            group_rows = meta.row_group(0).num_rows
        nulls = nulls_in(file, item.label)
        if not schema.names or not _is_same(file):
            return None
        check_names(schema.names, item.label)
        kept = context.wanted(schema.names)
        path = context.new_path(item.partition)
        least = 0 if context.met.issuperset(schema.names) else _HEAD
        sample = min(rows, max(least, _SAMPLE - context.sampled))
        _copy(file, path, 0, sample, schema.names)
    context.sampled += sample
    context.met.update(schema.names)
    return Part(
        str(path),
        item.label,
        plain_schema(schema, kept),
        rows,
        frozenset(nulls & set(kept)),
        item.partition,
        stays=Version(item.path, reader.tag, reader.size, group_rows, item.partition),
    )


def bring(version: Version, path: str, label: str) -> None:
    """Fetch the whole object to the file that was its sample."""
    copy_all(reader_of(version), Path(path))
    with as_bad_input(label, "Parquet"), pq.ParquetFile(path) as file:
        check_pages(path, label, file.metadata)


def rows_of(
    version: Version, label: str, first: int, last: int, columns: Collection[str], folder: Path
) -> Path:
    """A local file with the rows `first` to `last` (exclusive), of those `columns` that are there.

    Partition columns are in its path. Fetches the groups of rows that have some of them, up to the
    last one: a request for each 4 MB of each column of each group, which are what memory holds.
    Raises `BadInput`, and `StoreFailed` where the object is no longer the one that was looked at.
    """
    path = path_in(folder, version.partition, "rows.parquet")
    with as_bad_input(label, "Parquet"), _parquet(reader_of(version), _MUCH) as file:
        there = file.schema_arrow.names
        # Rows need a column to be counted by.
        names = [name for name in there if name in columns] or there[:1]
        _copy(file, path, first, last, names)
    return path


def _parquet(reader: ObjectReader, buffer: int) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.PythonFile(reader, mode="r"),
        buffer_size=buffer,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def _is_same(file: pq.ParquetFile) -> bool:
    """Whether DuckDB reads every column of a copy that Arrow made as it reads that of the file."""
    schema, meta = file.schema_arrow, file.metadata
    if any(holds(field.type, _is_odd) for field in schema):
        return False
    for number in range(meta.num_columns):
        column = meta.schema.column(number)
        told = json.loads(column.logical_type.to_json())
        if column.logical_type.type not in _SAME or column.physical_type == "INT96":
            return False
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and told["Type"] != "Decimal":
            return False
        # Old writers did not say whether a time is in UTC.
        if told["Type"] == "Timestamp" and told.get("is_from_converted_type"):
            return False
    return True


def _is_odd(kind: pa.DataType) -> bool:
    return is_misread(kind) or isinstance(kind, pa.BaseExtensionType)


def _copy(file: pq.ParquetFile, path: Path, first: int, last: int, names: Sequence[str]) -> None:
    """Rows `first` to `last` (exclusive) of the columns `names`, in a file."""
    meta = file.metadata
    sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    starts = list(itertools.accumulate(sizes, initial=0))
    bounds = enumerate(itertools.pairwise(starts))
    groups = [group for group, (start, end) in bounds if start < last and end > first]
    schema = plain_schema(file.schema_arrow, names)
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
        if first >= last:
            return
        at = starts[groups[0]]
        for batch in file.iter_batches(_BATCH, row_groups=groups, columns=list(names)):
            # Offsets and UTF-8: DuckDB would not say which object it is.
            batch.validate(full=True)
            start, end = max(first - at, 0), min(last - at, batch.num_rows)
            if start < end:
                rows = pa.Table.from_batches([batch]).select(names).slice(start, end - start)
                writer.write_table(rows.cast(schema))
            at += batch.num_rows
            if at >= last:
                break
