"""JSON, an array or lines: DuckDB's parser over blocks of whole rows, with Python's as the judge of
every line in doubt.

Costs two passes: the types of all rows, then their values. Blocks are parsed in threads; of the
file only the types and the numbers of skipped lines are held.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadInput
from prefmill.readers.blocks import Block, Positions, line_blocks
from prefmill.readers.find import Input
from prefmill.readers.json_blocks import json_blocks
from prefmill.readers.json_types import (
    Object,
    fault_of,
    kind_of,
    lists_of_objects,
    loads,
    merge,
    merge_column,
    settle,
    shape_of,
)
from prefmill.readers.rejects import Bad, Rejects
from prefmill.readers.staging import (
    Context,
    Part,
    Writer,
    check_names,
    in_order,
    plain_schema,
    said,
    utf8_pieces,
)
from prefmill.table.json_values import holds, is_marked, texts_inside, without_marks

#: What DuckDB's parser takes but JSON does not have: NaN, infinities, a comma before a bracket. The
#: patterns also match inside strings; the
#: lines found are looked at one by one. Several patterns with one possible first character each are
#: searched thrice as fast as one for all.
_NO_JSON = (
    r":\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r"\[\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r",(\s*-?((?i)nan|inf(inity)?)\s*[,}\]]|\s*[}\]])",
)
_T = TypeVar("_T")
_IS_DIGIT = np.array([48 <= byte <= 57 for byte in range(256)])


@dataclass(frozen=True)
class Lines:
    """JSON texts of one block."""

    texts: pa.Array
    block: Block | None
    starts: Positions | None
    number: int
    first: int = 0  #: row of the first text, where there is no block

    @property
    def unit(self) -> str:
        """What `line` counts: lines from 1, or rows from 0."""
        return "row" if self.block is None else "line"

    def text(self, at: int) -> str:
        return str(self.texts[at].as_py())

    def line(self, at: int) -> int:
        if self.block is None or self.starts is None:
            return self.first + at
        text = self.text(at)
        lead = len(text) - len(text.lstrip(" \t\r\n"))  # ASCII, so characters are bytes
        return self.block.line_of(int(self.starts[at]) + lead)


def _lines(block: Block, number: int) -> Lines:
    starts = block.starts
    if starts is None:
        ends = np.flatnonzero(np.frombuffer(block.data, dtype=np.uint8) == 10) + 1
        starts = np.concatenate(([0], ends))
        if starts[-1] != len(block.data):
            starts = np.append(starts, len(block.data))
    offsets = pa.py_buffer(starts.astype(np.int32))
    return Lines(
        pa.Array.from_buffers(
            pa.string(), len(starts) - 1, [None, offsets, pa.py_buffer(block.data)]
        ),
        block,
        starts,
        number,
    )


class JsonEngine:
    """DuckDB's JSON functions over lines: one connection for all files, one cursor a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: duckdb.DuckDBPyConnection | None = None
        self._idle: list[duckdb.DuckDBPyConnection] = []
        self._lock = threading.Lock()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._base is None:
                self._base = connect(temp_dir=self._folder, threads=1)
                self._base.execute(
                    "SET arrow_lossless_conversion = true"
                )  # JSON comes out as JSON, not as text
            return self._idle.pop() if self._idle else self._base.cursor()

    def query(self, sql: str, lines: pa.Array) -> pa.Table:
        """Run `sql` over the table `lines` with the columns `line` and `i`."""
        con = self._cursor()
        numbers = pa.Array.from_buffers(
            pa.int64(), len(lines), [None, pa.py_buffer(np.arange(len(lines), dtype=np.int64))]
        )
        con.register("lines", pa.Table.from_arrays([lines, numbers], names=["line", "i"]))
        try:
            return without_marks(con.sql(sql).to_arrow_table())
        finally:
            con.unregister("lines")
            with self._lock:
                self._idle.append(con)

    def spelled(self, table: pa.Table, label: str) -> pa.Array:
        """The rows of `table` as JSON lines; texts of Arrow's type `arrow.json` are the values that
        they spell.
        """
        for name in table.column_names:
            for chunk in table[name].chunks:
                for texts in texts_inside(chunk):
                    bad = (
                        self.query(
                            "SELECT line FROM lines WHERE NOT json_valid(line) LIMIT 1", texts
                        )
                        .column(0)
                        .to_pylist()
                    )
                    if bad:
                        raise BadInput(
                            f"{label}: the column {name!r} is marked as JSON, and holds text that is not; got {bad[0][:80]!r}."
                        )
        con = self._cursor()
        con.register("columns", table)
        try:
            fields = ", ".join(f"{quote(name)} := {quote(name)}" for name in table.column_names)
            found = con.sql(
                f"SELECT to_json(struct_pack({fields}))::VARCHAR AS line FROM columns"
            ).to_arrow_table()
            return found.column(0).combine_chunks()
        finally:
            con.unregister("columns")
            with self._lock:
                self._idle.append(con)

    def close(self) -> None:
        if self._base is not None:
            self._base.close()

    # `json_structure` has one answer for an empty object and for values of different kinds. With a
    # key of its own (which no column can
    # have) an empty object stays an object, and fits those with keys. Twice, because neighbours
    # share their comma. Inside a string the
    # quotes break the line, always: such lines are found by that and looked at one by one.
    _EMPTY = r"""regexp_replace({}, '([:\[,]\s*)\{{\}}(\s*[,\]}}])', '\1{{"":null}}\2', 'g')"""
    _FILLED = _EMPTY.format(_EMPTY.format("line"))
    _STRUCTURE = (
        f"json_structure(CASE WHEN contains(line, '{{}}') THEN {_FILLED} ELSE line END)::VARCHAR"
    )
    _GROUPED = f"SELECT s, min(i) AS i, n FROM (SELECT {_STRUCTURE} AS s, i, len(json_keys(line)) AS n FROM lines) GROUP BY s, n ORDER BY 2"
    _BROKEN = f"contains(line, '{{}}') AND TRY(json_structure({_FILLED})) IS NULL AND TRY(json_structure(line)) IS NOT NULL"

    def look(self, lines: Lines) -> Look:
        """The types of a block's rows, which lines are no rows, and those of them that are
        malformed.
        """
        texts = lines.texts
        skip: set[int] = set()
        bads: dict[int, Bad] = {}
        judged: dict[int, Any] = {}

        def judge(found: Iterable[int]) -> None:
            for at in found:
                text = lines.text(at)
                fault = fault_of(text)
                if fault is not None:
                    skip.add(at)
                    bads[at] = Bad(lines.line(at), fault, text.strip(" \t\r\n"), unit=lines.unit)
                else:
                    judged[at] = shape_of(loads(text))

        strange = " OR ".join(f"regexp_matches(line, {literal(pattern)})" for pattern in _NO_JSON)
        broken = self._numbers(f"SELECT i FROM lines WHERE {self._BROKEN}", texts)
        judge(
            sorted(
                {
                    *self._numbers(f"SELECT i FROM lines WHERE {strange}", texts),
                    *_long_numbers(texts),
                    *broken,
                }
            )
        )
        try:
            shapes = self._shapes(texts, {*skip, *judged})
        except duckdb.Error:
            for at in self._numbers(
                f"SELECT i FROM lines WHERE TRY({self._STRUCTURE}) IS NULL", texts
            ):
                if at in skip or at in judged:
                    continue
                skip.add(at)
                text = lines.text(at).strip(" \t\r\n")
                if text:
                    reason = (
                        fault_of(text)
                        or "not JSON that can be read: nested more than 128 deep, or no text"
                    )
                    bads[at] = Bad(lines.line(at), reason, text, unit=lines.unit)
                elif lines.block is not None and lines.block.starts is not None:
                    bads[at] = Bad(lines.line(at), "nothing between two commas", text)
            shapes = self._shapes(texts, {*skip, *judged})
        if not all(
            isinstance(shape, dict) or shape == "JSON" for _, shape, _ in shapes
        ):  # JSON is what {} alone has
            odd = self._numbers("SELECT i FROM lines WHERE TRY(json_type(line)) <> 'OBJECT'", texts)
            judge(at for at in odd if at not in skip and at not in judged)
        typed = [(at, shape) for at, shape, _ in shapes]
        rows = [(at, shape) for at, shape in (*typed, *judged.items()) if isinstance(shape, dict)]
        double = min(
            (at for at, shape, keys in shapes if isinstance(shape, dict) and keys > len(shape)),
            default=None,
        )
        rows.sort(key=lambda row: row[0])  # the order of columns is that of the rows
        good = (
            texts.filter(pa.array([at not in skip for at in range(len(texts))])) if skip else texts
        )
        paths = dict.fromkeys(path for _, shape in rows for path in lists_of_objects(shape))
        elements = {path: self._elements(good, path) for path in paths}
        return Look(rows, elements, sorted(skip), [bads[at] for at in sorted(bads)], double)

    def _numbers(self, sql: str, texts: pa.Array) -> list[int]:
        found: list[int] = self.query(sql, texts).column(0).to_pylist()
        return found

    def _shapes(self, texts: pa.Array, without: set[int]) -> list[tuple[int, Any, int]]:
        """The types of lines, each once: the first line that has it, the type, how many keys the
        line has.
        """
        numbers = np.arange(len(texts))
        if without:
            numbers = np.setdiff1d(numbers, sorted(without))
            texts = texts.take(pa.array(numbers))
        found = self.query(self._GROUPED, texts).to_pylist()
        return [(int(numbers[row["i"]]), json.loads(row["s"]), row["n"] or 0) for row in found]

    def _elements(self, texts: pa.Array, path: tuple[str, ...]) -> Any:
        """The type of the objects in the lists at `path`, from each of them; JSON where no struct
        can hold them.

        `json_structure` of a line has only what its lists hold together, and so not which keys an
        element lacks.
        """
        if any(not key.isprintable() or set(key) & set('"\\*') for key in path):
            return "JSON"
        where = literal("$" + "".join(f".{quote(key)}" for key in path) + "[*]")
        each = f"SELECT unnest(json_extract(line, {where})) AS line, i FROM lines"
        found = self.query(
            f"SELECT json_structure(line)::VARCHAR AS s, min(i) FROM ({each}) GROUP BY s ORDER BY 2, 1",
            texts,
        )
        shape: Any = "NULL"
        for text in found.column(0).to_pylist():
            shape = merge(shape, json.loads(text))
        return shape


@dataclass(frozen=True)
class Look:
    """What one block holds: lines (each type once) with their types, types of lists' elements, what
    is no row.
    """

    rows: list[tuple[int, Any]]
    elements: dict[tuple[str, ...], Any]
    skip: list[int]
    bads: list[Bad]
    double: int | None = None  #: the first line with a key that is twice


@dataclass
class JsonFile:
    """A JSON file between its two passes: the types of its rows, and the lines that are none."""

    item: Input
    read: Callable[[], Iterator[Lines | Bad]]
    shape: Object = field(default_factory=Object)
    elements: dict[tuple[str, ...], Any] = field(default_factory=dict)
    skipped: dict[int, list[int]] = field(default_factory=dict)
    kinds: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  #: of each column: kinds of values, and where the first is
    tables: Callable[[], Iterator[pa.Table]] | None = None  #: where the rows come from a table
    others: pa.Schema | None = None  #: of the table's columns that are not JSON
    names: tuple[str, ...] = ()  #: of all columns of the table


def _long_numbers(texts: pa.Array) -> list[int]:
    """The lines that hold 19 digits in a row, as integers near the end of int64 do."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return []
    starts = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    array = np.frombuffer(data, dtype=np.uint8)[starts[0] : starts[-1]]
    # Of 19 digits in a row, two lie on multiples of 9: a ninth of the text tells where to look
    # closer.
    sample = _IS_DIGIT[array[::9]]
    near = np.flatnonzero(sample[:-1] & sample[1:]) * 9
    found: set[int] = set()
    for some in (near[at : at + 100_000] for at in range(0, len(near), 100_000)):
        around = some[:, None] + np.arange(-9, 19)
        digits = (
            _IS_DIGIT[array[np.clip(around, 0, len(array) - 1)]]
            & (around >= 0)
            & (around < len(array))
        )
        runs = np.any(
            np.all(np.lib.stride_tricks.sliding_window_view(digits, 19, axis=1), axis=2), axis=1
        )
        found.update((np.searchsorted(starts, some[runs] + starts[0], side="right") - 1).tolist())
    return sorted(found)


def look_at_json(item: Input, context: Context) -> JsonFile:
    """The first pass over one JSON file, or stdin: the types of all rows."""
    if item.path == "-":
        item = replace(item, path=str(_spool(context)))
    split = json_blocks if item.format == "json" else line_blocks

    def numbered() -> Iterator[Lines | Bad]:
        for number, block in enumerate(split(utf8_pieces(item, context), item.label)):
            yield block if isinstance(block, Bad) else _lines(block, number)

    if next(utf8_pieces(item, context), None) is None:
        raise BadInput(f"{item.label}: the file is empty.")
    return look_at_lines(item, context, numbered)


def _spool(context: Context) -> Path:
    """Stdin as a file: it is read twice."""
    path = context.new_path((), "stdin.jsonl")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    return path


def look_at_lines(
    item: Input, context: Context, read: Callable[[], Iterator[Lines | Bad]]
) -> JsonFile:
    """The first pass over JSON lines."""
    engine = context.json
    file = JsonFile(item, read)

    def look(lines: Lines | Bad) -> tuple[Lines | None, Look]:
        return (
            (None, Look([], {}, [], [lines]))
            if isinstance(lines, Bad)
            else (lines, engine.look(lines))
        )

    known: set[str] = set()
    doubled = False
    for lines, found in _or_bad_input(in_order(look, read(), context.workers), item):
        for bad in found.bads:
            context.rejects.add(item.label, bad)
        if lines is None:
            continue
        if found.double is not None and not doubled:
            doubled = True
            context.notes.append(
                f"{item.label}: {lines.unit} {lines.line(found.double)}: a key is there twice; the first counts."
            )
        if found.skip:
            file.skipped[lines.number] = found.skip
        for path, shape in found.elements.items():
            file.elements[path] = merge(file.elements.get(path, "NULL"), shape)
        for at, shape in found.rows:
            text = json.dumps(shape)
            if text not in known:  # blocks mostly repeat the same few types
                known.add(text) if len(known) < 10_000 else known.clear()
                merge_rows(file.shape, shape)
                for key, kind in shape.items():
                    if kind != "NULL":
                        file.kinds.setdefault(key, {}).setdefault(
                            kind_of(kind), f"{item.label} {lines.unit} {lines.line(at)}"
                        )
    check_names(list(file.shape), item.label)
    if "" in file.shape:
        raise BadInput(f"{item.label}: an object has an empty key, which cannot be a column.")
    return file


def merge_rows(all_rows: Object, shape: dict[str, Any]) -> None:
    """Widen the types of columns by those of more rows."""
    for key, kind in shape.items():
        all_rows[key] = merge_column(all_rows.get(key, "NULL"), kind)


def types_together(files: Iterable[JsonFile]) -> tuple[Object, dict[tuple[str, ...], Any]]:
    """The types of the columns of all files, and of the objects in lists."""
    shape = Object()
    elements: dict[tuple[str, ...], Any] = {}
    for file in files:
        merge_rows(shape, file.shape)
        for path, kind in file.elements.items():
            elements[path] = merge(elements.get(path, "NULL"), kind)
    return shape, elements


def kinds_together(files: Iterable[JsonFile]) -> dict[str, str]:
    """The columns with several kinds of values, and where the first of each kind is, in words."""
    kinds: dict[str, dict[str, str]] = {}
    for file in files:
        for key, found in file.kinds.items():
            for kind, where in found.items():
                kinds.setdefault(key, {}).setdefault(kind, where)
    several = {key: found for key, found in kinds.items() if len(found) > 1}
    return {
        key: " and ".join(f"{kind} ({where})" for kind, where in found.items())
        for key, found in several.items()
    }


def stage_json(
    file: JsonFile, shape: Object, elements: dict[tuple[str, ...], Any], context: Context
) -> Part | None:
    """The second pass: the values, in the types that all files have together; None where there is
    no column.
    """
    engine, item = context.json, file.item
    shape = Object(
        {key: own if shape[key] == "DOUBLE" else shape[key] for key, own in file.shape.items()}
    )  # 5 stays 5 in its file
    kept = {key: settle(shape[key], (key,), elements) for key in context.kept(list(shape))}
    if file.tables is not None:
        return _stage_table(file, shape, kept, context)
    if not kept:
        return None
    sql, schema = _reading(engine, shape, kept)

    def values(lines: Lines | Bad) -> pa.Table | None:
        if isinstance(lines, Bad):
            return None
        texts = lines.texts
        if lines.number in file.skipped:
            keep = np.ones(len(texts), dtype=bool)
            keep[file.skipped[lines.number]] = False
            texts = texts.filter(pa.array(keep))
        return _retyped(engine.query(sql, texts), schema) if len(texts) else None

    with Writer(context.new_path(item.partition), schema) as writer:
        for table in _or_bad_input(in_order(values, file.read(), context.workers), item):
            if table is not None:
                writer.add(table)
        return writer.close(item)


def _reading(engine: JsonEngine, shape: Object, kept: dict[str, Any]) -> tuple[str, pa.Schema]:
    """The query that reads lines as columns of the types `kept`, and its schema."""
    sql = f"SELECT unnest(json_transform(line, {literal(json.dumps(kept, ensure_ascii=False))})) FROM lines"
    schema = plain_schema(engine.query(sql, pa.nulls(0, pa.string())).schema)
    for at, key in enumerate(kept):
        if shape[key] == "NULL":  # only nulls: a column that goes with any type in other files
            schema = schema.set(at, pa.field(key, pa.null()))
    return sql, schema


def look_at_tables(
    item: Input, context: Context, tables: Callable[[], Iterator[pa.Table]], schema: pa.Schema
) -> JsonFile:
    """The first pass over a table with columns of Arrow's type `arrow.json`: the types of their
    values.
    """
    names = [field.name for field in schema if holds(field.type, is_marked)]

    def lines() -> Iterator[Lines | Bad]:
        first = 0
        for number, table in enumerate(tables()):
            yield Lines(
                context.json.spelled(table.select(names), item.label), None, None, number, first
            )
            first += table.num_rows

    file = look_at_lines(item, context, lines)
    for name in names:
        file.shape.setdefault(name, "NULL")
    file.tables, file.names = tables, tuple(schema.names)
    file.others = plain_schema(schema, [name for name in schema.names if name not in names])
    return file


def _stage_table(file: JsonFile, shape: Object, kept: dict[str, Any], context: Context) -> Part:
    assert file.tables is not None
    assert file.others is not None
    names = context.kept(file.names)
    sql, read = _reading(
        context.json, shape, {name: kind for name, kind in kept.items() if name in names}
    )
    whole = pa.schema(
        [read.field(name) if name in read.names else file.others.field(name) for name in names]
    )
    with Writer(context.new_path(file.item.partition), whole) as writer:
        for table, lines in zip(file.tables(), file.read(), strict=True):
            assert isinstance(lines, Lines)
            made = (
                _retyped(context.json.query(sql, lines.texts), read)
                if read.names
                else table.select([])
            )
            others = [name for name in names if name not in read.names]
            for name in others:
                made = made.append_column(
                    name,
                    without_marks(table.select([name]))
                    .column(0)
                    .cast(file.others.field(name).type),
                )
            writer.add(made.select(names).cast(whole))
        return writer.close(file.item)


def decoded_table(table: pa.Table, label: str) -> pa.Table:
    """`table` with the values of its columns of Arrow's type `arrow.json`, in the types that all
    rows have together.

    >>> texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"a"', None]))
    >>> decoded_table(pa.table({"t": texts}), "doc").to_pylist()
    [{'t': 'a'}, {'t': None}]
    """
    with (
        tempfile.TemporaryDirectory(prefix="prefmill-") as home,
        contextlib.closing(JsonEngine(Path(home))) as engine,
    ):
        folder = Path(home)
        context = Context(
            folder=folder,
            rejects=Rejects(None),
            encoding=None,
            delimiter=None,
            memory=None,
            workers=1,
            columns=None,
            progress=lambda text: None,
            json=engine,
        )
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
    except duckdb.Error as error:
        raise BadInput(
            f"{item.label}: cannot be read as JSON; {said(error)}.",
            hint="did the file change meanwhile?",
        ) from error


def _retyped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same columns with the names of list elements that Parquet files have."""
    columns = [
        pa.nulls(table.num_rows) if pa.types.is_null(field.type) else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)
