"""Many small Parquet files as one: engines open each file several times, and keep what it says.

Small files next to each other are copied, one after the other, when there are many. A copy is read
as its originals are; a file with a column for which that is not certain stays where it is.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.readers.staging import Context, Part, Writer, as_bad_input
from prefmill.room import room_of
from prefmill.table.conform import NotHeld, conformed

#: With so many files each is read where it is.
MANY = 64
_SMALL = 1 << 20
#: Tables are put together before they are written.
_TOGETHER = 500


def is_small(path: str) -> bool:
    """Whether a copy of this file costs little."""
    return os.path.getsize(path) <= _SMALL


def packed(parts: Sequence[Part], schema: pa.Schema, context: Context) -> list[Part]:
    """`parts` in order, of many those that are small and next to each other as one.

    `schema` is that of all parts. Costs a copy of the small ones.
    """
    if len(parts) <= MANY or context.apart:
        return list(parts)

    def kind(part: Part) -> object:
        together = not (part.remote or part.stays or part.inside) and is_small(part.file)
        return (part.partition, part.together) if together and _is_plain(part) else part.file

    runs = (list(run) for _, run in itertools.groupby(parts, kind))
    return [each for run in runs for each in (_packed(run, schema, context) if run[1:] else run)]


def _is_plain(part: Part) -> bool:
    return all(_is_same(kind) for kind in part.schema.types)


def _is_same(kind: pa.DataType) -> bool:
    """Whether both engines read a column of this type in a copy of Arrow's as in its original."""
    if pa.types.is_struct(kind):
        return all(_is_same(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_same(kind.value_type)
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return True
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _packed(parts: Sequence[Part], schema: pa.Schema, context: Context) -> Iterator[Part]:
    there = {name for part in parts for name in part.schema.names}
    target = pa.schema([field for field in schema if field.name in there])
    context.progress(f"reading {len(parts):,} small files")
    waiting = deque(parts)
    while waiting:
        yield from _copied(waiting, target, context)


def _copied(waiting: deque[Part], target: pa.Schema, context: Context) -> Iterator[Part]:
    """The first of `waiting` in one file, up to one that stays where it is, and that one."""
    done: list[Part] = []
    apart: Part | None = None
    with Writer(context.new_path(waiting[0].partition), target) as writer:
        held: list[pa.Table] = []
        while waiting and apart is None:
            part = waiting.popleft()
            table = _table(part, target)
            if table is None:
                apart = part
                continue
            held.append(table)
            if len(held) >= _TOGETHER:
                writer.add(pa.concat_tables(held).combine_chunks())
                held = []
            _remove(part, context.folder)
            done.append(part)
        if held:
            writer.add(pa.concat_tables(held).combine_chunks())
        if done:
            inside = tuple((part.label, part.rows) for part in done)
            yield replace(writer.close(done[0]), inside=inside, together=done[0].together)
    if apart is not None:
        yield apart


def _table(part: Part, target: pa.Schema) -> pa.Table | None:
    """The rows of a file in the types of all; None where these hold not all of its values.

    Engines then read them as they do where files are few.
    """
    with as_bad_input(part.label, "Parquet"):
        with pq.ParquetFile(part.file) as file:
            table = file.read(columns=part.schema.names)
        # Offsets and UTF-8: later nobody would know which file it was.
        table.validate(full=True)
        try:
            return conformed(table, target)
        except NotHeld:
            return None


def _remove(part: Part, folder: Path) -> None:
    """A file that was made for this run is not needed twice."""
    path = Path(part.file)
    if path.is_symlink() or not path.is_relative_to(folder):
        return
    if room := room_of(path):
        room.take(-path.stat().st_size)
    path.unlink()
