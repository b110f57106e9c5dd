"""JSON, an array or lines: DuckDB's parser over blocks of whole rows, with Python's as the judge of every line in doubt.

Costs two passes: the types of all rows, then their values. Blocks are parsed in threads; of the file only the types and the numbers of
skipped lines are held.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from prefmill._engine import connect, literal
from prefmill.errors import BadInput
from prefmill.readers.blocks import Block, Positions, line_blocks
from prefmill.readers.find import Input
from prefmill.readers.json_blocks import json_blocks
from prefmill.readers.json_types import fault_of, loads, merge, settle, shape_of
from prefmill.readers.rejects import Bad
from prefmill.readers.staging import Context, Part, Writer, check_names, in_order, plain_schema, said, utf8_pieces

#: What DuckDB's parser takes but JSON does not have: NaN, infinities, a comma before a bracket. The patterns also match inside strings; the
#: lines found are looked at one by one. Several patterns with one possible first character each are searched thrice as fast as one for all.
_NO_JSON = (
    r":\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r"\[\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r",(\s*-?((?i)nan|inf(inity)?)\s*[,}\]]|\s*[}\]])",
)
_IS_DIGIT = np.array([48 <= byte <= 57 for byte in range(256)])


@dataclass(frozen=True)
class Lines:
    """JSON texts of one block."""

    texts: pa.Array
    block: Block | None
    starts: Positions | None
    number: int

    def text(self, at: int) -> str:
        return str(self.texts[at].as_py())

    def line(self, at: int) -> int:
        if self.block is None or self.starts is None:
            return 0
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
    return Lines(pa.Array.from_buffers(pa.string(), len(starts) - 1, [None, offsets, pa.py_buffer(block.data)]), block, starts, number)


class _Json:
    """DuckDB's JSON functions over lines, one connection a thread."""

    def __init__(self, folder: Path) -> None:
        self._base = connect(temp_dir=folder, threads=1)
        self._local = threading.local()
        self._lock = threading.Lock()

    def query(self, sql: str, lines: pa.Array) -> pa.Table:
        """Run `sql` over the table `lines` with the columns `line` and `i`."""
        con: duckdb.DuckDBPyConnection | None = getattr(self._local, "con", None)
        if con is None:
            with self._lock:
                con = self._local.con = self._base.cursor()
        con.register("lines", pa.table({"line": lines, "i": np.arange(len(lines), dtype=np.int64)}))
        try:
            return con.sql(sql).to_arrow_table()
        finally:
            con.unregister("lines")

    def close(self) -> None:
        self._base.close()

    # `json_structure` has one answer for an empty object and for values of different kinds. With a key of its own (which no column can
    # have) an empty object stays an object, and fits those with keys. Twice, because neighbours share their comma. Inside a string the
    # quotes break the line, always: such lines are found by that and looked at one by one.
    _EMPTY = r"""regexp_replace({}, '([:\[,]\s*)\{{\}}(\s*[,\]}}])', '\1{{"":null}}\2', 'g')"""
    _FILLED = _EMPTY.format(_EMPTY.format("line"))
    _STRUCTURE = f"json_structure(CASE WHEN contains(line, '{{}}') THEN {_FILLED} ELSE line END)::VARCHAR"
    _GROUPED = f"SELECT s, min(i) AS i FROM (SELECT {_STRUCTURE} AS s, i FROM lines) GROUP BY s ORDER BY 2"
    _BROKEN = f"contains(line, '{{}}') AND TRY(json_structure({_FILLED})) IS NULL AND TRY(json_structure(line)) IS NOT NULL"

    def look(self, lines: Lines) -> tuple[list[Any], list[int], list[Bad]]:
        """Types seen in a block (in the order of rows), which lines are no rows, and those of them that are malformed."""
        texts = lines.texts
        skip: set[int] = set()
        bads: dict[int, Bad] = {}
        checked: list[Any] = []

        def judge(found: Iterable[int]) -> None:
            for at in found:
                text = lines.text(at)
                fault = fault_of(text)
                if fault is not None:
                    skip.add(at)
                    bads[at] = Bad(lines.line(at), fault, text.strip(" \t\r\n"))
                else:
                    checked.append(shape_of(loads(text)))

        strange = " OR ".join(f"regexp_matches(line, {literal(pattern)})" for pattern in _NO_JSON)
        broken = set(self._numbers(f"SELECT i FROM lines WHERE {self._BROKEN}", texts))
        judge(sorted({*self._numbers(f"SELECT i FROM lines WHERE {strange}", texts), *_long_numbers(texts), *broken}))
        try:
            shapes = self._shapes(texts, skip | broken)
        except duckdb.Error:
            for at in self._numbers(f"SELECT i FROM lines WHERE TRY({self._STRUCTURE}) IS NULL", texts):
                if at in skip or at in broken:
                    continue
                skip.add(at)
                text = lines.text(at).strip(" \t\r\n")
                if text:
                    reason = fault_of(text) or "not JSON that can be read: nested more than 128 deep, or no text"
                    bads[at] = Bad(lines.line(at), reason, text)
                elif lines.block is not None and lines.block.starts is not None:
                    bads[at] = Bad(lines.line(at), "nothing between two commas", text)
            shapes = self._shapes(texts, skip | broken)
        if not all(isinstance(shape, dict) or shape == "JSON" for shape in shapes):  # JSON is what {} alone has
            judge(at for at in self._numbers("SELECT i FROM lines WHERE TRY(json_type(line)) <> 'OBJECT'", texts) if at not in skip)
        # Those checked one by one come last: they only widen types, the order of columns is that of the rows.
        return [shape for shape in shapes if isinstance(shape, dict)] + checked, sorted(skip), [bads[at] for at in sorted(bads)]

    def _numbers(self, sql: str, texts: pa.Array) -> list[int]:
        found: list[int] = self.query(sql, texts).column(0).to_pylist()
        return found

    def _shapes(self, texts: pa.Array, skip: set[int]) -> list[Any]:
        if skip:
            texts = texts.filter(pa.array([at not in skip for at in range(len(texts))]))
        return [json.loads(text) for text in self.query(self._GROUPED, texts).column(0).to_pylist()]


def _long_numbers(texts: pa.Array) -> list[int]:
    """The lines that hold 19 digits in a row, as integers near the end of int64 do."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return []
    starts = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    array = np.frombuffer(data, dtype=np.uint8)[starts[0] : starts[-1]]
    # Of 19 digits in a row, two lie on multiples of 9: a ninth of the text tells where to look closer.
    sample = _IS_DIGIT[array[::9]]
    near = np.flatnonzero(sample[:-1] & sample[1:]) * 9
    found: set[int] = set()
    for some in (near[at : at + 100_000] for at in range(0, len(near), 100_000)):
        around = some[:, None] + np.arange(-9, 19)
        digits = _IS_DIGIT[array[np.clip(around, 0, len(array) - 1)]] & (around >= 0) & (around < len(array))
        runs = np.any(np.all(np.lib.stride_tricks.sliding_window_view(digits, 19, axis=1), axis=2), axis=1)
        found.update((np.searchsorted(starts, some[runs] + starts[0], side="right") - 1).tolist())
    return sorted(found)


def stage_json(item: Input, context: Context) -> Part | None:
    """One JSON file, or stdin, as Parquet; None where it has no rows or only empty objects."""
    if item.path == "-":
        item = replace(item, path=str(_spool(context)))
    split = json_blocks if item.format == "json" else line_blocks

    def numbered() -> Iterator[Lines | Bad]:
        for number, block in enumerate(split(utf8_pieces(item, context), item.label)):
            yield block if isinstance(block, Bad) else _lines(block, number)

    if next(utf8_pieces(item, context), None) is None:
        raise BadInput(f"{item.label}: the file is empty.")
    return stage_lines(item, context, numbered)


def _spool(context: Context) -> Path:
    """Stdin as a file: it is read twice."""
    path = context.new_path((), "stdin.jsonl")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    return path


def stage_lines(item: Input, context: Context, read: Callable[[], Iterator[Lines | Bad]]) -> Part | None:
    """Both passes over JSON lines: the types of all, then the values."""
    engine = _Json(context.folder)
    skipped: dict[int, list[int]] = {}
    shape: Any = {}

    def look(lines: Lines | Bad) -> tuple[int, list[Any], list[int], list[Bad]]:
        return (-1, [], [], [lines]) if isinstance(lines, Bad) else (lines.number, *engine.look(lines))

    try:
        known: set[str] = set()
        for number, seen, skip, bads in in_order(look, read(), context.workers):
            for bad in bads:
                context.rejects.add(item.label, bad)
            if skip:
                skipped[number] = skip
            for new in seen:
                text = json.dumps(new)
                if text not in known:  # blocks mostly repeat the same few types
                    known.add(text) if len(known) < 10_000 else known.clear()
                    shape = merge(shape, new)
        check_names(list(shape), item.label)
        if "" in shape:
            raise BadInput(f"{item.label}: an object has an empty key, which cannot be a column.")
        kept = {key: settle(shape[key]) for key in context.kept(list(shape))}
        if not kept:
            return None
        sql = f"SELECT unnest(json_transform(line, {literal(json.dumps(kept, ensure_ascii=False))})) FROM lines"
        schema = plain_schema(engine.query(sql, pa.array([], pa.string())).schema)
        for at, key in enumerate(kept):
            if shape[key] == "NULL":  # only nulls: a column that goes with any type in other files
                schema = schema.set(at, pa.field(key, pa.null()))

        def values(lines: Lines | Bad) -> pa.Table | None:
            if isinstance(lines, Bad):
                return None
            texts = lines.texts
            if lines.number in skipped:
                keep = np.ones(len(texts), dtype=bool)
                keep[skipped[lines.number]] = False
                texts = texts.filter(pa.array(keep))
            return _retyped(engine.query(sql, texts), schema) if len(texts) else None

        with Writer(context.new_path(item.partition), schema) as writer:
            for table in in_order(values, read(), context.workers):
                if table is not None:
                    writer.add(table)
            return writer.close(item)
    except duckdb.Error as error:
        raise BadInput(f"{item.label}: cannot be read as JSON; {said(error)}.", hint="did the file change meanwhile?") from error
    finally:
        engine.close()


def _retyped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same columns with the names of list elements that Parquet files have."""
    columns = [
        pa.nulls(table.num_rows) if pa.types.is_null(field.type) else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)
