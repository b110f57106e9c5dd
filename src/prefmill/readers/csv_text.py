"""CSV and TSV: Arrow's parser over blocks of whole records, all columns text; records with too few
or too many fields are set apart.

Costs one pass. Blocks are parsed in threads; a block is parsed twice only where it holds a ragged
record.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from prefmill.errors import BadInput
from prefmill.readers.blocks import Block, Positions, csv_blocks, inside
from prefmill.readers.find import Input
from prefmill.readers.rejects import Bad
from prefmill.readers.staging import Context, Part, Writer, check_names, in_order, utf8_pieces


def stage_csv(item: Input, context: Context) -> Part:
    """One CSV file as Parquet; the first record names the columns."""
    delimiter = context.delimiter or ("\t" if item.tab else ",")
    blocks = csv_blocks(utf8_pieces(item, context), delimiter)
    header, first = _header(blocks, item.label)
    # Some exports are marked twice.
    names = _split_record(header.lstrip("\ufeff"), delimiter)
    if len(names) == 1 and context.delimiter is None:
        other = next((c for c in ";\t|," if c in names[0] and c != delimiter), None)
        if other:
            raise BadInput(
                f"{item.label}: the header is one column {names[0]!r}; fields seem to be"
                " separated by something else.",
                hint=f"try --delimiter {json.dumps(other)}",
            )
    names = [name or f"column_{number}" for number, name in enumerate(names, start=1)]
    check_names(names, item.label)
    kept = context.kept(names)
    blocks = itertools.chain(first, blocks)
    head = _head(blocks)
    blocks = itertools.chain(head, blocks)
    needs = context.needs(names)
    needed = needs or names
    # Fields that a row must have: up to the last one that is needed.
    least = max((names.index(name) + 1 for name in needed), default=0)
    trailing = _ends_in_delimiter(head, delimiter, len(names))
    parse = _CsvParser(names, kept, delimiter, least, trailing=trailing, unknown=needs is None)
    short: list[int] = []
    schema = pa.schema([(name, pa.string()) for name in kept])
    with Writer(context.new_path(item.partition), schema) as writer:
        swallowed: int | None = None
        for parsed in in_order(parse, blocks, context.workers):
            for bad in parsed.bads:
                context.rejects.add(item.label, bad)
            short += parsed.filled
            if swallowed is None:
                swallowed = parsed.swallowed
            if parsed.table is not None:
                writer.add(parsed.table)
        if swallowed is not None:
            context.notes.append(
                f"{item.label}: a field holds lines that look like rows (the first is line"
                f" {swallowed}); is a quote not closed?"
            )
        if short:
            context.notes.append(
                f"{item.label}: {len(short):,} rows are shorter than the header (the first in line"
                f" {short[0]}); what they lack is null."
            )
        return writer.close(item)


def _head(blocks: Iterator[Block | Bad]) -> list[Block | Bad]:
    """The first blocks, of 64 KB together."""
    head: list[Block | Bad] = []
    size = 0
    for block in blocks:
        head.append(block)
        if isinstance(block, Block):
            size += len(block.data)
        if size >= 64 << 10:
            break
    return head


def _ends_in_delimiter(head: Sequence[Block | Bad], delimiter: str, columns: int) -> bool:
    """Whether a delimiter ends every row: the first ones have one field too many, an empty one."""
    rows = 0
    for block in head:
        if isinstance(block, Bad):
            return False
        starts, ends = _edges(block)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            record = block.data[start:end].rstrip(b"\r\n")
            if not record:
                continue
            rows += 1
            if not record.endswith(delimiter.encode()):
                return False
            marks = np.flatnonzero(np.frombuffer(record, dtype=np.uint8) == ord(delimiter)) + start
            if int((~inside(block.quotes, marks)).sum()) != columns:
                return False
    return rows > 0


def _header(blocks: Iterator[Block | Bad], label: str) -> tuple[str, list[Block]]:
    """The text of the first record that is not blank, and the rest of its block."""
    for block in blocks:
        if isinstance(block, Bad):
            raise BadInput(
                f"{label}: line {block.line}: {block.reason}.", hint="the header cannot be read."
            )
        starts, ends = _edges(block)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            record = block.data[start:end].strip(b"\r\n")
            if not record:
                continue
            rest = Block(
                block.data[end:],
                block.line_of(end),
                quotes=block.quotes[np.searchsorted(block.quotes, end) :] - end,
                newline=block.newline,
            )
            return record.decode(), [rest] if rest.data else []
    raise BadInput(f"{label}: the file is empty.", hint="a CSV file needs a header.")


def _split_record(text: str, delimiter: str) -> list[str]:
    """The fields of one well-formed record."""
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            end = at + 1
            while text.startswith('""', end) or not text.startswith('"', end):
                end += 1 + text.startswith('""', end)
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = text.find(delimiter, at)
            if end < 0:
                end = len(text)
            fields.append(text[at:end])
            at = end
        if at >= len(text):
            return fields
        at += 1


def _edges(block: Block) -> tuple[Positions, Positions]:
    """Start and end (with its line end) of every record, blank ones too."""
    array = np.frombuffer(block.data, dtype=np.uint8)
    after = np.concatenate((array[1:], np.zeros(1, dtype=np.uint8)))
    ends = np.flatnonzero((array == 10) | ((array == 13) & (after != 10)))
    ends = ends[~inside(block.quotes, ends)] + 1
    if not len(ends) or ends[-1] != len(array):
        ends = np.append(ends, len(array))
    return np.concatenate(([0], ends[:-1])), ends


_NAME_ROLES = (
    "name the columns of the roles (--prompt, --completion, --score): a row may lack the others."
)
# A name that no column can have.
_TRAILING = "\0trailing"


@dataclass(frozen=True)
class _Parsed:
    """What a block comes to: its rows, malformed records, and the lines of those filled up."""

    table: pa.Table | None
    bads: list[Bad]
    filled: list[int]
    swallowed: int | None = None  #: the first line of a field's text that looks like rows


class _CsvParser:
    """Blocks of whole records to tables; records with too few or too many fields apart.

    A record of at least `least` fields is filled up with nulls. With `trailing` every record ends
    in a delimiter. With `unknown` nobody knows which columns hold a role.
    """

    def __init__(
        self,
        names: Sequence[str],
        kept: Sequence[str],
        delimiter: str,
        least: int,
        *,
        trailing: bool,
        unknown: bool,
    ) -> None:
        self.unknown = unknown
        more = [_TRAILING] * trailing
        self.names = [*names, *more]
        self.delimiter, self.least, self.trailing = delimiter, least + trailing, trailing
        columns = [*kept, *more]
        self.convert = pacsv.ConvertOptions(
            column_types={name: pa.string() for name in columns},
            include_columns=columns,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            # The pieces of text are known to be UTF-8.
            check_utf8=False,
        )

    def __call__(self, block: Block | Bad) -> _Parsed:
        if isinstance(block, Bad):
            return _Parsed(None, [block], [])
        swallowed = self._swallowed(block)
        ragged: list[object] = []
        table = self._parse(block.data, ragged)
        if not ragged and self._is_clean(table):
            return _Parsed(self._without_trailing(table), [], [], swallowed)
        bads, good, filled = self._apart(block)
        ragged = []
        table = self._parse(good, ragged)
        if ragged or not self._is_clean(table):
            raise AssertionError("two parsers disagree on the number of fields")
        return _Parsed(self._without_trailing(table), bads, filled, swallowed)

    def _swallowed(self, block: Block) -> int | None:
        """The first line of a field of which two lines or more look like rows.

        A quote that is not closed takes the rows after it for its text, up to the next quote.
        """
        if not len(block.quotes) or len(self.names) < 3:
            return None
        array = np.frombuffer(block.data, dtype=np.uint8)
        ends = np.flatnonzero(array == block.newline[0])
        ends = ends[inside(block.quotes, ends)]
        if len(ends) < 3:
            return None
        field = np.searchsorted(block.quotes, ends)
        marks = np.searchsorted(np.flatnonzero(array == ord(self.delimiter)), ends)
        # From such a line end to the next is a line of the field.
        whole = np.flatnonzero(field[1:] == field[:-1])
        alike = np.diff(marks)[whole] == len(self.names) - 1
        fields, first, counts = np.unique(field[whole], return_index=True, return_counts=True)
        places = np.searchsorted(fields, field[whole])
        of_rows = np.bincount(places, weights=alike, minlength=len(fields))
        suspects = np.flatnonzero((counts >= 2) & (of_rows == counts))
        if not len(suspects):
            return None
        return block.line_of(int(ends[whole[first[suspects[0]]]])) + 1

    def _is_clean(self, table: pa.Table | None) -> bool:
        return table is None or not self.trailing or table[_TRAILING].null_count == table.num_rows

    def _without_trailing(self, table: pa.Table | None) -> pa.Table | None:
        if table is None or not self.trailing:
            return table
        return table.drop_columns([_TRAILING])

    def _parse(self, data: bytes, ragged: list[object]) -> pa.Table | None:
        if not data.strip(b"\r\n"):
            return None

        def on_bad(row: object) -> str:
            ragged.append(None)
            return "skip"

        if not data.endswith((b"\n", b"\r")):
            # At the end of its input, Arrow takes an empty field after a quoted one for quoted.
            data += b"\n"
        read = pacsv.ReadOptions(
            column_names=self.names, use_threads=False, block_size=max(len(data) + 1, 1 << 16)
        )
        parse = pacsv.ParseOptions(
            delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=on_bad
        )
        return pacsv.read_csv(
            pa.BufferReader(data),
            read_options=read,
            parse_options=parse,
            convert_options=self.convert,
        )

    def _apart(self, block: Block) -> tuple[list[Bad], bytes, list[int]]:
        """Malformed records, the bytes of the others, and the lines of those filled up."""
        array = np.frombuffer(block.data, dtype=np.uint8)
        marks = np.flatnonzero(array == ord(self.delimiter))
        marks = marks[~inside(block.quotes, marks)]
        starts, ends = _edges(block)
        fields = np.searchsorted(marks, ends) - np.searchsorted(marks, starts) + 1
        columns = len(self.names) - self.trailing
        wrong = fields != len(self.names)
        if self.trailing:
            records = (block.data[start:end] for start, end in zip(starts, ends, strict=True))
            ends_so = np.array(
                [record.rstrip(b"\r\n").endswith(self.delimiter.encode()) for record in records]
            )
            wrong |= ~ends_so
        bads: list[Bad] = []
        good: list[bytes] = []
        filled: list[int] = []
        kept_to, line, counted_to = 0, block.line, 0
        for at in np.flatnonzero(wrong).tolist():
            start, end = int(starts[at]), int(ends[at])
            raw = block.data[start:end].rstrip(b"\r\n")
            if not raw:
                continue
            line += block.data.count(block.newline, counted_to, start)
            counted_to = start
            good.append(block.data[kept_to:start])
            kept_to = end
            count = int(fields[at])
            if self.least <= count < len(self.names) and (
                not self.trailing or raw.endswith(self.delimiter.encode())
            ):
                good.append(raw + self.delimiter.encode() * (len(self.names) - count) + b"\n")
                filled.append(line)
                continue
            count -= self.trailing and raw.endswith(self.delimiter.encode())
            wrong_count = f"{count} field{'s' * (count != 1)} where the header has {columns}"
            bad = Bad(line, wrong_count, raw.decode())
            if self.unknown and count < columns:
                bad = replace(bad, hint=_NAME_ROLES)
            bads.append(bad)
        good.append(block.data[kept_to:])
        return bads, b"".join(good), filled
