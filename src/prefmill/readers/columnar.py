"""Local Parquet and Arrow IPC. Parquet is used in place: only its footer is read, for rows, types, and which columns hold no nulls.

A Parquet path that an engine would take for a pattern gets a link with a plain name. IPC (files and streams) is staged in one pass, its
texts checked, since a Parquet file is trusted to hold valid UTF-8.
"""

from __future__ import annotations

import os
import re
import shutil

import pyarrow as pa
import pyarrow.ipc as paipc
import pyarrow.parquet as pq

from prefmill.errors import BadInput
from prefmill.readers.find import Input
from prefmill.readers.staging import ROWS_A_GROUP, Context, Part, Writer, check_names, plain_schema, said

_SAFE_PATH = re.compile(r"[\w/.\-+@ ,=:~()\\]*")  # both engines take any other character for a pattern, a query or an escape


def stage_ipc(item: Input, context: Context) -> Part:
    """One IPC file or stream as Parquet."""
    if os.path.getsize(item.path) == 0:
        raise BadInput(f"{item.label}: the file is empty.")
    try:
        with pa.memory_map(item.path) as file:
            try:
                reader = paipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                file.seek(0)
                reader = paipc.open_stream(file)
                batches = iter(reader)
            check_names(reader.schema.names, item.label)
            kept = context.kept(reader.schema.names)
            if not kept:
                raise BadInput(f"{item.label}: the file has no columns.")
            schema = plain_schema(reader.schema, kept)
            with Writer(context.new_path(item.partition), schema) as writer:
                for batch in batches:
                    batch.validate(full=True)  # offsets and UTF-8: later steps trust them
                    table = pa.Table.from_batches([batch]).select(kept)
                    for start in range(0, max(1, table.num_rows), ROWS_A_GROUP):
                        writer.add(table.slice(start, ROWS_A_GROUP).cast(schema))
                return writer.close(item)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{item.label}: not a readable Arrow file; {said(error)}.") from error


def _leaves(kind: pa.DataType) -> int:
    if pa.types.is_struct(kind):
        return sum(_leaves(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if pa.types.is_nested(kind):
        return _leaves(kind.value_type)
    return 1


def local_parquet(item: Input, context: Context) -> Part:
    """One Parquet file in place, by its footer."""
    try:
        with pq.ParquetFile(item.path, memory_map=False) as file:
            meta, schema = file.metadata, file.schema_arrow
            nulls = {field.name for field in schema if pa.types.is_nested(field.type)}
            leaf = 0
            for field in schema:
                if field.name not in nulls and not all(_no_nulls(meta, group, leaf) for group in range(meta.num_row_groups)):
                    nulls.add(field.name)
                leaf += _leaves(field.type)
            rows = meta.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{item.label}: not a readable Parquet file; {said(error)}.") from error
    check_names(schema.names, item.label)
    if not schema.names:
        raise BadInput(f"{item.label}: the file has no columns.")
    path = item.path
    above = path if not item.partition else "/".join(path.split(os.sep)[: -1 - len(item.partition)])
    # With partitions, only the folders below the given one count; engines would read every key=value of the path.
    if not _SAFE_PATH.fullmatch(path) or (item.partition and "=" in above):
        link = context.new_path(item.partition)
        try:
            os.symlink(path, link)
        except OSError:  # no links here: a copy costs space, not correctness
            shutil.copyfile(path, link)
        path = str(link)
    kept = context.wanted(schema.names)
    return Part(path, item.label, plain_schema(schema, kept), rows, frozenset(nulls & set(kept)), item.partition)


def _no_nulls(meta: pq.FileMetaData, group: int, leaf: int) -> bool:
    if meta.schema.column(leaf).max_definition_level == 0 or meta.row_group(group).num_rows == 0:
        return True
    statistics = meta.row_group(group).column(leaf).statistics
    return statistics is not None and bool(statistics.has_null_count) and statistics.null_count == 0
