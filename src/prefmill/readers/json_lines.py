"""JSON, an array or lines, in two passes: the types of all rows, then their values.

Blocks are parsed in threads; of the file only the types and the numbers of skipped lines are held.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import literal
from prefmill.disk.hidden import temporary
from prefmill.errors import BadInput
from prefmill.readers.find import Input
from prefmill.readers.json_engine import JsonEngine, Lines, Look, without
from prefmill.readers.json_layout import layout_of
from prefmill.readers.json_types import Object, kind_of, merge, merge_column, settle
from prefmill.readers.rejects import Bad, Rejects
from prefmill.readers.staging import (
    Context,
    Part,
    Writer,
    check_names,
    first_line,
    in_order,
    plain_schema,
    utf8_pieces,
)
from prefmill.table.json_values import holds, is_marked, without_marks

_T = TypeVar("_T")
#: Types of a block's rows that are remembered, since most blocks repeat them.
_MOST_KNOWN = 10_000
#: Columns of a file. The time of engines grows with the square of their number.
_MOST_COLUMNS = 10_000
#: DuckDB's time to read one line grows with the square of the columns of a query.
_COLUMNS_A_QUERY = 500


class Places(Protocol):
    """What `readers/json_many.py` knows of lines that are those of many files."""

    def place(self, line: int) -> tuple[str, int]:
        """The file and the line there."""
        ...

    def skip(self, line: int) -> None:
        """A line that is no row."""
        ...

    def check(self, names: Iterable[str], label: str) -> None:
        """Raise where no later step could tell column names apart."""
        ...


@dataclass
class JsonFile:
    """A JSON file between its two passes: the types of its rows, and the lines that are none."""

    item: Input
    read: Callable[[], Iterator[Lines | Bad]]
    shape: Object = field(default_factory=Object)
    elements: dict[tuple[str, ...], Any] = field(default_factory=dict)
    skipped: dict[int, list[int]] = field(default_factory=dict)
    #: of each column: kinds of values, and where the first is
    kinds: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: Callable[[], Iterator[pa.Table]] | None = None  #: where the rows come from a table
    others: pa.Schema | None = None  #: of the table's columns that are not JSON
    names: tuple[str, ...] = ()  #: of all columns of the table
    many: Places | None = None  #: where the lines are those of many files

    def add(self, shape: dict[str, Any], where: str) -> None:
        """Widen the types of columns by those of rows, the first of which is `where`."""
        merge_rows(self.shape, shape)
        if len(self.shape) > _MOST_COLUMNS:
            raise BadInput(
                f"{where}: too many keys; got {len(self.shape):,} in the objects so far, expected"
                f" at most {_MOST_COLUMNS:,}.",
                hint="are the keys of this object names of records? Then write a record a line.",
            )
        for key, kind in shape.items():
            if kind != "NULL":
                self.kinds.setdefault(key, {}).setdefault(kind_of(kind), where)


# --- the first pass -----------------------------------------------------------


def look_at_json(item: Input, context: Context) -> JsonFile:
    """The first pass over one JSON file, or stdin: the types of all rows."""
    if item.path == "-":
        item = replace(item, path=str(_spool(context)))

    def read() -> Iterator[bytes]:
        return utf8_pieces(item, context)

    def numbered() -> Iterator[Lines | Bad]:
        for number, block in enumerate(layout.blocks(read(), item.label)):
            yield block if isinstance(block, Bad) else Lines.of(block, number)

    if next(read(), None) is None:
        raise BadInput(f"{item.label}: the file is empty.")
    layout = layout_of(read, item, context.named)
    if layout.note is not None:
        context.notes.append(layout.note)
    return look_at_lines(item, context, numbered)


def _spool(context: Context) -> Path:
    """Stdin as a file: it is read twice."""
    path = context.new_path((), "stdin.jsonl")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    return path


def look_at_lines(
    item: Input,
    context: Context,
    read: Callable[[], Iterator[Lines | Bad]],
    many: Places | None = None,
) -> JsonFile:
    """The first pass over JSON lines; `many` knows whose they are where they are of many files."""
    file = JsonFile(item, read, many=many)

    def place(line: int) -> tuple[str, int]:
        return many.place(line) if many is not None else (item.label, line)

    def look(lines: Lines | Bad) -> tuple[Lines | None, Look]:
        if isinstance(lines, Bad):
            return None, Look([], {}, [], [lines])
        return lines, context.json.look(lines)

    known: set[str] = set()
    doubled = False
    for lines, block in _or_bad_input(in_order(look, read(), context.workers), item):
        for bad in block.bads:
            label, line = place(bad.line)
            context.rejects.add(label, replace(bad, line=line))
        if lines is None:
            continue
        if block.double is not None and not doubled:
            doubled = True
            label, line = place(lines.line(block.double))
            where = f"{label}: {lines.unit} {line}"
            context.notes.append(f"{where}: a key is there twice; the first counts.")
        if block.skip:
            file.skipped[lines.number] = block.skip
            if many is not None and lines.block is not None:
                for at in block.skip:
                    many.skip(lines.block.line + at)
        merge_elements(file.elements, block.elements)
        for at, shape in block.rows:
            text = json.dumps(shape)
            if text not in known:
                known.add(text) if len(known) < _MOST_KNOWN else known.clear()
                label, line = place(lines.line(at))
                if many is not None:
                    many.check(shape, label)
                file.add(shape, f"{label} {lines.unit} {line}")
    check_names(list(file.shape), item.label)
    if "" in file.shape:
        raise BadInput(f"{item.label}: an object has an empty key, which cannot be a column.")
    return file


def look_at_tables(
    item: Input, context: Context, tables: Callable[[], Iterator[pa.Table]], schema: pa.Schema
) -> JsonFile:
    """The first pass over a table with columns of Arrow's type `arrow.json`."""
    names = [field.name for field in schema if holds(field.type, is_marked)]

    def lines() -> Iterator[Lines | Bad]:
        first = 0
        for number, table in enumerate(tables()):
            texts = context.json.spelled(table.select(names), item.label)
            yield Lines(texts, None, None, number, first)
            first += table.num_rows

    file = look_at_lines(item, context, lines)
    for name in names:
        file.shape.setdefault(name, "NULL")
    file.tables, file.names = tables, tuple(schema.names)
    file.others = plain_schema(schema, [name for name in schema.names if name not in names])
    return file


def merge_rows(all_rows: Object, shape: dict[str, Any]) -> None:
    """Widen the types of columns by those of more rows."""
    for key, kind in shape.items():
        all_rows[key] = merge_column(all_rows.get(key, "NULL"), kind)


def merge_elements(all_lists: dict[tuple[str, ...], Any], more: dict[tuple[str, ...], Any]) -> None:
    """Widen the types of the objects in lists by those of more rows."""
    for path, shape in more.items():
        all_lists[path] = merge(all_lists.get(path, "NULL"), shape)


def types_together(files: Iterable[JsonFile]) -> tuple[Object, dict[tuple[str, ...], Any]]:
    """The types of the columns of all files, and of the objects in lists."""
    shape = Object()
    elements: dict[tuple[str, ...], Any] = {}
    for file in files:
        merge_rows(shape, file.shape)
        merge_elements(elements, file.elements)
    return shape, elements


def kinds_together(files: Iterable[JsonFile]) -> dict[str, str]:
    """The columns with several kinds of values, and where the first of each kind is, in words."""
    places: dict[str, dict[str, str]] = {}
    for file in files:
        for key, kinds in file.kinds.items():
            for kind, where in kinds.items():
                places.setdefault(key, {}).setdefault(kind, where)
    return {
        key: " and ".join(f"{kind} ({where})" for kind, where in kinds.items())
        for key, kinds in places.items()
        if len(kinds) > 1
    }


# --- the second pass ----------------------------------------------------------


def stage_json(
    file: JsonFile, shape: Object, elements: dict[tuple[str, ...], Any], context: Context
) -> Part | None:
    """The second pass: the values, in the types that all files have together.

    None where there is no column.
    """
    engine, item = context.json, file.item
    together, shape = shape, Object(file.shape)
    for key, kind in together.items():
        # 5 stays 5 in its file, though another one has fractions.
        if key in shape and kind != "DOUBLE":
            shape[key] = kind
    kept = {key: settle(shape[key], (key,), elements) for key in context.kept(list(shape))}
    if file.tables is not None:
        return _stage_table(file, shape, kept, context)
    if not kept:
        return None
    queries, schema = _reading(engine, shape, kept)

    def values(lines: Lines | Bad) -> pa.Table | None:
        if isinstance(lines, Bad):
            return None
        texts = lines.texts
        if lines.number in file.skipped:
            texts = without(texts, file.skipped[lines.number])
        if not len(texts):
            return None
        return _retyped(_columns(engine, queries, texts), schema)

    with Writer(context.new_path(item.partition), schema) as writer:
        for table in _or_bad_input(in_order(values, file.read(), context.workers), item):
            if table is not None:
                writer.add(table)
        return writer.close(item)


def _reading(
    engine: JsonEngine, shape: Object, kept: dict[str, Any]
) -> tuple[list[str], pa.Schema]:
    """The queries that read lines as columns of the types `kept`, some each, and their schema."""
    names = list(kept)
    queries = []
    for first in range(0, max(1, len(names)), _COLUMNS_A_QUERY):
        some = {name: kept[name] for name in names[first : first + _COLUMNS_A_QUERY]}
        types = literal(json.dumps(some, ensure_ascii=False))
        queries.append(f"SELECT unnest(json_transform(line, {types})) FROM lines")
    schema = plain_schema(_columns(engine, queries, pa.nulls(0, pa.string())).schema)
    for at, key in enumerate(kept):
        # Only nulls: a column that goes with any type in other files.
        if shape[key] == "NULL":
            schema = schema.set(at, pa.field(key, pa.null()))
    return queries, schema


def _columns(engine: JsonEngine, queries: list[str], texts: pa.Array) -> pa.Table:
    """The columns of all queries over the same lines."""
    table = engine.query(queries[0], texts)
    for query in queries[1:]:
        more = engine.query(query, texts)
        fields = [*table.schema, *more.schema]
        table = pa.Table.from_arrays([*table.columns, *more.columns], schema=pa.schema(fields))
    return table


def _stage_table(file: JsonFile, shape: Object, kept: dict[str, Any], context: Context) -> Part:
    assert file.tables is not None
    assert file.others is not None
    names = context.kept(file.names)
    mine = {name: kind for name, kind in kept.items() if name in names}
    queries, read = _reading(context.json, shape, mine)
    others = {name: file.others.field(name) for name in names if name not in read.names}
    whole = pa.schema([others.get(name) or read.field(name) for name in names])
    with Writer(context.new_path(file.item.partition), whole) as writer:
        for table, lines in zip(file.tables(), file.read(), strict=True):
            assert isinstance(lines, Lines)
            made = table.select([])
            if read.names:
                made = _retyped(_columns(context.json, queries, lines.texts), read)
            for name, column in others.items():
                values = without_marks(table.select([name])).column(0)
                made = made.append_column(name, values.cast(column.type))
            writer.add(made.select(names).cast(whole))
        return writer.close(file.item)


def decoded_table(table: pa.Table, label: str) -> pa.Table:
    """`table` with the values of its columns of Arrow's type `arrow.json`.

    Their types are those that all rows have together.

    >>> texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"a"', None]))
    >>> decoded_table(pa.table({"t": texts}), "doc").to_pylist()
    [{'t': 'a'}, {'t': None}]
    """
    with temporary() as home, contextlib.closing(JsonEngine(home)) as engine:
        context = Context(folder=home, rejects=Rejects(None), json=engine)
        item = Input(label, label, "parquet")
        file = look_at_tables(item, context, lambda: iter(_in_blocks(table)), table.schema)
        part = stage_json(file, *types_together([file]), context)
        assert part is not None
        return pq.read_table(part.file, partitioning=None)


def _in_blocks(table: pa.Table) -> Iterator[pa.Table]:
    for batch in table.to_batches(max_chunksize=4096):
        yield pa.Table.from_batches([batch])


def _or_bad_input(results: Iterator[_T], item: Input) -> Iterator[_T]:
    """`results`; an error of the engine names the file."""
    try:
        yield from results
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise BadInput(
            f"{item.label}: cannot be read as JSON; {first_line(error)}.",
            hint="did the file change meanwhile?",
        ) from error


def _retyped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same columns with the names of list elements that Parquet files have."""
    columns = []
    for column, kind in zip(table.columns, schema.types, strict=True):
        if pa.types.is_null(kind):
            columns.append(pa.nulls(table.num_rows))
        else:
            columns.append(column.cast(kind))
    return pa.table(columns, schema=schema)
