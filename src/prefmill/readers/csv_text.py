"""CSV and TSV: Arrow's parser over blocks of whole records, all columns text; records with too few or too many fields are set apart.

Costs one pass. Blocks are parsed in threads; a block is parsed twice only where it holds a ragged record.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

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
    names = _split_record(header, delimiter)
    if len(names) == 1 and context.delimiter is None:
        other = next((c for c in ";\t|," if c in names[0] and c != delimiter), None)
        if other:
            raise BadInput(
                f"{item.label}: the header is one column {names[0]!r}; fields seem to be separated by something else.",
                hint=f"try --delimiter {json.dumps(other)}",
            )
    names = [name or f"column_{number}" for number, name in enumerate(names, start=1)]
    check_names(names, item.label)
    kept = context.kept(names)
    parse = _CsvParser(names, kept, delimiter)
    with Writer(context.new_path(item.partition), pa.schema([(name, pa.string()) for name in kept])) as writer:
        for table, bads in in_order(parse, itertools.chain(first, blocks), context.workers):
            for bad in bads:
                context.rejects.add(item.label, bad)
            if table is not None:
                writer.add(table)
        return writer.close(item)


def _header(blocks: Iterator[Block | Bad], label: str) -> tuple[str, list[Block]]:
    """The text of the first record that is not blank, and the rest of its block."""
    for block in blocks:
        if isinstance(block, Bad):
            raise BadInput(f"{label}: line {block.line}: {block.reason}.", hint="the header cannot be read.")
        starts, ends = _edges(block)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            record = block.data[start:end].strip(b"\r\n")
            if not record:
                continue
            rest = Block(
                block.data[end:], block.line_of(end), quotes=block.quotes[np.searchsorted(block.quotes, end) :] - end, newline=block.newline
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
                end += 2 if text.startswith('""', end) else 1
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = text.find(delimiter, at)
            end = len(text) if end < 0 else end
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


class _CsvParser:
    """Blocks of whole records to tables; records with too few or too many fields apart."""

    def __init__(self, names: Sequence[str], kept: Sequence[str], delimiter: str) -> None:
        self.names, self.delimiter = list(names), delimiter
        self.convert = pacsv.ConvertOptions(
            column_types={name: pa.string() for name in kept},
            include_columns=list(kept),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            check_utf8=False,  # done before
        )

    def __call__(self, block: Block | Bad) -> tuple[pa.Table | None, list[Bad]]:
        if isinstance(block, Bad):
            return None, [block]
        ragged: list[object] = []
        table = self._parse(block.data, ragged)
        if not ragged:
            return table, []
        bads, good = self._apart(block)
        ragged = []
        table = self._parse(good, ragged)
        if ragged:
            raise AssertionError("two parsers disagree on the number of fields")
        return table, bads

    def _parse(self, data: bytes, ragged: list[object]) -> pa.Table | None:
        if not data.strip(b"\r\n"):
            return None

        def on_bad(row: object) -> str:
            ragged.append(None)
            return "skip"

        if not data.endswith((b"\n", b"\r")):
            data += b"\n"  # at the very end of its input, Arrow takes an empty field behind a quoted one for quoted too
        read = pacsv.ReadOptions(column_names=self.names, use_threads=False, block_size=max(len(data) + 1, 1 << 16))
        parse = pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=on_bad)
        return pacsv.read_csv(pa.BufferReader(data), read_options=read, parse_options=parse, convert_options=self.convert)

    def _apart(self, block: Block) -> tuple[list[Bad], bytes]:
        """Malformed records, and the bytes of the others."""
        array = np.frombuffer(block.data, dtype=np.uint8)
        marks = np.flatnonzero(array == ord(self.delimiter))
        marks = marks[~inside(block.quotes, marks)]
        starts, ends = _edges(block)
        fields = np.searchsorted(marks, ends) - np.searchsorted(marks, starts) + 1
        wrong = np.flatnonzero(fields != len(self.names)).tolist()
        bads: list[Bad] = []
        good: list[bytes] = []
        kept_to, line, counted_to = 0, block.line, 0
        for at in wrong:
            start, end = int(starts[at]), int(ends[at])
            raw = block.data[start:end].rstrip(b"\r\n")
            if not raw:
                continue
            line += block.data.count(block.newline, counted_to, start)
            counted_to = start
            good.append(block.data[kept_to:start])
            kept_to = end
            count = int(fields[at])
            bads.append(Bad(line, f"{count} field{'s' * (count != 1)} where the header has {len(self.names)}", raw.decode()))
        good.append(block.data[kept_to:])
        return bads, b"".join(good)
