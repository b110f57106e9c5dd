"""DuckDB's JSON functions over blocks of lines, with Python's parser as the judge of every line in
doubt.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadInput
from prefmill.readers.blocks import Block, Positions
from prefmill.readers.json_types import fault_of, lists_of_objects, loads, merge, shape_of
from prefmill.readers.rejects import Bad
from prefmill.table.json_values import texts_inside, without_marks

#: What DuckDB's parser takes but JSON does not have: NaN, infinities, a comma before a bracket. The
#: patterns also match inside strings; the lines that match are looked at one by one. Several
#: patterns with one possible first character each are searched thrice as fast as one for all.
_NO_JSON = (
    r":\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r"\[\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r",(\s*-?((?i)nan|inf(inity)?)\s*[,}\]]|\s*[}\]])",
)
_STRANGE = " OR ".join(f"regexp_matches(line, {literal(pattern)})" for pattern in _NO_JSON)

# `json_structure` has one answer for an empty object and for values of different kinds. With a key
# of its own (which no column can have) an empty object stays an object, and fits those with keys.
# Twice, because neighbours share their comma. Inside a string the quotes always break the line:
# such lines are known by that, and looked at one by one.
_EMPTY = r"""regexp_replace({}, '([:\[,]\s*)\{{\}}(\s*[,\]}}])', '\1{{"":null}}\2', 'g')"""
_FILLED = _EMPTY.format(_EMPTY.format("line"))
_STRUCTURE = (
    f"json_structure(CASE WHEN contains(line, '{{}}') THEN {_FILLED} ELSE line END)::VARCHAR"
)
_GROUPED = (
    "SELECT s, min(i) AS i, n"
    f" FROM (SELECT {_STRUCTURE} AS s, i, len(json_keys(line)) AS n FROM lines)"
    " GROUP BY s, n ORDER BY 2"
)
_BROKEN = (
    f"contains(line, '{{}}') AND TRY(json_structure({_FILLED})) IS NULL"
    " AND TRY(json_structure(line)) IS NOT NULL"
)
_BLANK = " \t\r\n"
_IS_DIGIT = np.array([48 <= byte <= 57 for byte in range(256)])


@dataclass(frozen=True)
class Lines:
    """JSON texts of one block."""

    texts: pa.Array
    block: Block | None
    starts: Positions | None
    number: int
    first: int = 0  #: row of the first text, where there is no block

    @classmethod
    def of(cls, block: Block, number: int) -> Lines:
        """The records of `block`."""
        starts = block.starts
        if starts is None:
            ends = np.flatnonzero(np.frombuffer(block.data, dtype=np.uint8) == 10) + 1
            starts = np.concatenate(([0], ends))
            if starts[-1] != len(block.data):
                starts = np.append(starts, len(block.data))
        buffers = [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(block.data)]
        texts = pa.Array.from_buffers(pa.string(), len(starts) - 1, buffers)
        return cls(texts, block, starts, number)

    @property
    def unit(self) -> str:
        """What `line` counts: lines from 1, or rows from 0."""
        return "row" if self.block is None else "line"

    def text(self, at: int) -> str:
        """The text of one record."""
        return str(self.texts[at].as_py())

    def line(self, at: int) -> int:
        """Where one record starts."""
        if self.block is None or self.starts is None:
            return self.first + at
        text = self.text(at)
        # ASCII, so characters are bytes.
        lead = len(text) - len(text.lstrip(_BLANK))
        return self.block.line_of(int(self.starts[at]) + lead)

    def bad(self, at: int, reason: str) -> Bad:
        """One record as malformed."""
        return Bad(self.line(at), reason, self.text(at).strip(_BLANK), unit=self.unit)


@dataclass(frozen=True)
class Look:
    """What one block holds: lines (each type once) with their types, and what is not a row."""

    rows: list[tuple[int, Any]]
    elements: dict[tuple[str, ...], Any]  #: of lists of objects by path: the type of the objects
    skip: list[int]
    bads: list[Bad]
    double: int | None = None  #: the first line with a key that is twice


class JsonEngine:
    """DuckDB's JSON functions over lines: one connection for all files, one cursor a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: duckdb.DuckDBPyConnection | None = None
        self._idle: list[duckdb.DuckDBPyConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection, if there was a need for one."""
        if self._base is not None:
            self._base.close()

    def query(self, sql: str, lines: pa.Array) -> pa.Table:
        """Run `sql` over the table `lines` with the columns `line` and `i`."""
        count = pa.py_buffer(np.arange(len(lines), dtype=np.int64))
        numbers = pa.Array.from_buffers(pa.int64(), len(lines), [None, count])
        table = pa.Table.from_arrays([lines, numbers], names=["line", "i"])
        return without_marks(self._ask(sql, "lines", table))

    def spelled(self, table: pa.Table, label: str) -> pa.Array:
        """The rows of `table` as JSON lines; texts of Arrow's `arrow.json` are their values."""
        for name in table.column_names:
            for chunk in table[name].chunks:
                for texts in texts_inside(chunk):
                    self._refuse_invalid(texts, name, label)
        fields = ", ".join(f"{quote(name)} := {quote(name)}" for name in table.column_names)
        sql = f"SELECT to_json(struct_pack({fields}))::VARCHAR AS line FROM columns"
        return self._ask(sql, "columns", table).column(0).combine_chunks()

    def look(self, lines: Lines) -> Look:
        """The types of a block's rows, which lines are not rows, and what is wrong with them."""
        texts = lines.texts
        bads: dict[int, Bad] = {}
        judged: dict[int, Any] = {}
        self._judge(self._doubtful(texts), lines, judged, bads)
        skip = set(bads)
        try:
            shapes = self._shapes(texts, skip | judged.keys())
        except (duckdb.Error, UnicodeDecodeError):
            # Its message quotes the text, and may end within a character, which its client cannot
            # decode. Which line it trips over DuckDB does not say: each is asked by itself.
            for at in self._numbers(f"TRY({_STRUCTURE}) IS NULL", texts):
                if at in skip or at in judged:
                    continue
                skip.add(at)
                if (reason := _unread(lines, at)) is not None:
                    bads[at] = lines.bad(at, reason)
            shapes = self._shapes(texts, skip | judged.keys())
        # "JSON" is the type that {} alone has.
        if not all(isinstance(shape, dict) or shape == "JSON" for _, shape, _ in shapes):
            odd = set(self._numbers("TRY(json_type(line)) <> 'OBJECT'", texts))
            self._judge(sorted(odd - skip - judged.keys()), lines, judged, bads)
            skip |= bads.keys()
        typed = [(at, shape) for at, shape, _ in shapes]
        rows = [(at, shape) for at, shape in (*typed, *judged.items()) if isinstance(shape, dict)]
        # The order of columns is that of the rows.
        rows.sort(key=lambda row: row[0])
        twice = (at for at, shape, keys in shapes if isinstance(shape, dict) and keys > len(shape))
        good = texts
        if skip:
            good = without(texts, skip)
        paths = dict.fromkeys(path for _, shape in rows for path in lists_of_objects(shape))
        elements = {path: self._elements(good, path) for path in paths}
        malformed = [bads[at] for at in sorted(bads)]
        return Look(rows, elements, sorted(skip), malformed, min(twice, default=None))

    def _ask(self, sql: str, name: str, table: pa.Table) -> pa.Table:
        con = self._cursor()
        con.register(name, table)
        try:
            return con.sql(sql).to_arrow_table()
        finally:
            con.unregister(name)
            with self._lock:
                self._idle.append(con)

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._base is None:
                self._base = connect(temp_dir=self._folder, reads=(), threads=1)
                # JSON comes out as JSON, not as text.
                self._base.execute("SET arrow_lossless_conversion = true")
            return self._idle.pop() if self._idle else self._base.cursor()

    def _refuse_invalid(self, texts: pa.Array, name: str, label: str) -> None:
        invalid = self.query("SELECT line FROM lines WHERE NOT json_valid(line) LIMIT 1", texts)
        for text in invalid.column(0).to_pylist():
            raise BadInput(
                f"{label}: the column {name!r} is marked as JSON, and holds text that is not;"
                f" got {text[:80]!r}."
            )

    def _doubtful(self, texts: pa.Array) -> list[int]:
        """The lines that DuckDB may take for something else than they are."""
        strange, broken = self._numbers(_STRANGE, texts), self._numbers(_BROKEN, texts)
        return sorted({*strange, *_long_numbers(texts), *broken})

    def _judge(
        self, numbers: Iterable[int], lines: Lines, judged: dict[int, Any], bads: dict[int, Bad]
    ) -> None:
        """Put each of these lines into `judged`, with its type, or into `bads`."""
        for at in numbers:
            text = lines.text(at)
            fault = fault_of(text)
            if fault is None:
                judged[at] = shape_of(loads(text))
            else:
                bads[at] = lines.bad(at, fault)

    def _numbers(self, condition: str, texts: pa.Array) -> list[int]:
        numbers: list[int] = (
            self.query(f"SELECT i FROM lines WHERE {condition}", texts).column(0).to_pylist()
        )
        return numbers

    def _shapes(self, texts: pa.Array, but: set[int]) -> list[tuple[int, Any, int]]:
        """The types of lines, each once: its first line, the type, how many keys that line has."""
        numbers = np.arange(len(texts))
        if but:
            numbers = np.setdiff1d(numbers, sorted(but))
            texts = without(texts, but)
        rows = self.query(_GROUPED, texts).to_pylist()
        return [(int(numbers[row["i"]]), json.loads(row["s"]), row["n"] or 0) for row in rows]

    def _elements(self, texts: pa.Array, path: tuple[str, ...]) -> Any:
        """The type of the objects in the lists at `path`; JSON where no struct can hold them.

        Each object is looked at: `json_structure` of a line has what its lists hold together, and
        so not which keys an element lacks.
        """
        if any(not key.isprintable() or set(key) & set('"\\*') for key in path):
            return "JSON"
        where = literal("$" + "".join(f".{quote(key)}" for key in path) + "[*]")
        each = f"SELECT unnest(json_extract(line, {where})) AS line, i FROM lines"
        structure = f"SELECT json_structure(line)::VARCHAR AS s, min(i) FROM ({each})"
        shape: Any = "NULL"
        shapes = self.query(f"{structure} GROUP BY s ORDER BY 2, 1", texts).column(0)
        for text in shapes.to_pylist():
            shape = merge(shape, json.loads(text))
        return shape


def without(texts: pa.Array, numbers: Collection[int]) -> pa.Array:
    """The texts but for those of these numbers."""
    keep = np.ones(len(texts), dtype=np.bool_)
    keep[list(numbers)] = False
    # Arrow imports pandas, where it is installed, to make an array of one of numpy.
    bits = pa.py_buffer(np.packbits(keep, bitorder="little"))
    return texts.filter(pa.Array.from_buffers(pa.bool_(), len(texts), [None, bits]))


def _unread(lines: Lines, at: int) -> str | None:
    """What is wrong with a line that DuckDB cannot parse; None for a blank one."""
    text = lines.text(at).strip(_BLANK)
    if text:
        other = "not JSON that can be read: nested more than 128 deep, or no text"
        return fault_of(text) or other
    in_array = lines.block is not None and lines.block.starts is not None
    return "nothing between two commas" if in_array else None


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
    numbers: set[int] = set()
    for some in (near[at : at + 100_000] for at in range(0, len(near), 100_000)):
        around = some[:, None] + np.arange(-9, 19)
        digits = _IS_DIGIT[array[np.clip(around, 0, len(array) - 1)]]
        digits &= (around >= 0) & (around < len(array))
        windows = np.lib.stride_tricks.sliding_window_view(digits, 19, axis=1)
        runs = np.any(np.all(windows, axis=2), axis=1)
        numbers.update((np.searchsorted(starts, some[runs] + starts[0], side="right") - 1).tolist())
    return sorted(numbers)
