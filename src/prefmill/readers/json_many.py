"""Many small JSON files as one: their records go to one file of lines, which is read as any other.

A query costs milliseconds however little it reads, and 100,000 files would ask for a million.
Whatever is said of a record still names its own file and line.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from prefmill.connection import folded
from prefmill.errors import BadInput
from prefmill.readers.blocks import Block, line_blocks
from prefmill.readers.find import Input
from prefmill.readers.json_engine import Lines
from prefmill.readers.json_layout import Layout, layout_of
from prefmill.readers.json_lines import JsonFile, look_at_lines
from prefmill.readers.packing import MANY, is_small
from prefmill.readers.rejects import Bad
from prefmill.readers.staging import Context, Part, check_names, utf8_pieces
from prefmill.room import room_of

_BLANK = b" \t\r\n"


@dataclass
class Many:
    """Where the records of many files are in the one file of their lines."""

    items: Sequence[Input]
    path: Path
    starts: list[int] = field(default_factory=list)  #: of each file: its first line, from 1
    #: of a file whose records are not its lines, by its number: the lines where they begin
    lines: dict[int, list[int]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  #: lines that are no rows
    end: int = 1  #: the line after the last one
    taken: int = 0  #: bytes of the file
    notes: list[str] = field(default_factory=list)
    spelled: dict[str, tuple[str, str]] = field(default_factory=dict)

    def place(self, line: int) -> tuple[str, int]:
        """The file as its owner names it, and the line there."""
        number = bisect_right(self.starts, line) - 1
        at = line - self.starts[number]
        lines = self.lines.get(number)
        return self.items[number].label, lines[at] if lines else at + 1

    def skip(self, line: int) -> None:
        """A line that is no row."""
        self.skipped.append(line)

    def check(self, names: Iterable[str], label: str) -> None:
        """Column names of some row: as one file, and against those of the others."""
        names = list(names)
        check_names(names, label)
        for name in names:
            other, first = self.spelled.setdefault(folded(name), (name, label))
            if other != name:
                raise BadInput(
                    f"{label}: the column {name!r} is spelled {other!r} in {first}.",
                    hint="rename one.",
                )

    def rows(self) -> list[int]:
        """The rows of each file."""
        bounds = [*self.starts, self.end]
        rows = [last - first for first, last in itertools.pairwise(bounds)]
        for line in self.skipped:
            rows[bisect_right(self.starts, line) - 1] -= 1
        return rows


def runs_of(items: Sequence[Input], apart: bool = False) -> Iterator[list[Input]]:
    """`items` in order, where there are many small JSON files those next to each other together."""
    json = all(item.format in ("json", "jsonl") and not item.url for item in items)
    if apart or len(items) <= MANY or not json:
        yield from ([item] for item in items)
        return

    def kind(item: Input) -> object:
        together = not item.object and item.path != "-" and is_small(item.path)
        return item.partition if together else item.path

    for _, run in itertools.groupby(items, kind):
        yield list(run)


def look_at_many(items: Sequence[Input], context: Context) -> JsonFile:
    """The first pass over many small JSON files of one partition.

    Costs a copy of their text. Raises what the pass over one of them would.
    """
    path = context.new_path((), "many.jsonl")
    many = Many(items, path)
    with path.open("wb") as file:
        for item in items:
            context.progress(f"reading {item.label}")
            many.starts.append(many.end)
            _copy(item, context, many, file)
        many.taken = file.tell()
    if room := room_of(path):
        room.take(many.taken)
    if many.notes:
        more = f" ({len(many.notes):,} files are read so.)" * (len(many.notes) > 1)
        context.notes.append(many.notes[0] + more)
    whole = replace(items[0], path=str(path), format="jsonl", compression=None, select=None)

    def read() -> Iterator[Lines | Bad]:
        pieces = utf8_pieces(whole, replace(context, encoding=None))
        for number, block in enumerate(line_blocks(pieces, whole.label)):
            yield Lines.of(block, number)

    return look_at_lines(whole, context, read, many=many)


def _copy(item: Input, context: Context, many: Many, file: IO[bytes]) -> None:
    """The records of one file, each in a line."""

    def read() -> Iterator[bytes]:
        return utf8_pieces(item, context)

    if next(read(), None) is None:
        raise BadInput(f"{item.label}: the file is empty.")
    layout = layout_of(read, item, context.named)
    if layout.note is not None:
        many.notes.append(layout.note)
    if layout.kind == "lines":
        last = b""
        for piece in read():
            file.write(piece)
            many.end += piece.count(b"\n")
            last = piece or last
        if not last.endswith(b"\n"):
            file.write(b"\n")
            many.end += 1
        return
    lines = many.lines.setdefault(len(many.starts) - 1, [])
    for line, text in _records(layout, read(), item, context):
        file.write(text.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
        lines.append(line)
        many.end += 1


def _records(
    layout: Layout, pieces: Iterator[bytes], item: Input, context: Context
) -> Iterator[tuple[int, bytes]]:
    """Records that are not the lines of their file: where each begins, and its text."""
    for block in layout.blocks(pieces, item.label):
        if isinstance(block, Bad):
            context.rejects.add(item.label, block)
            continue
        yield from _in_block(block, item, context)


def _in_block(block: Block, item: Input, context: Context) -> Iterator[tuple[int, bytes]]:
    lines = Lines.of(block, 0)
    for at, text in enumerate(lines.texts.to_pylist()):
        record = text.encode().strip(_BLANK)
        if record:
            yield lines.line(at), record
        elif block.starts is not None:
            context.rejects.add(item.label, lines.bad(at, "nothing between two commas"))


def with_inputs(part: Part | None, many: Many) -> Part | None:
    """`part` with what it has of which file; the file of lines goes."""
    os.unlink(many.path)
    if room := room_of(many.path):
        room.take(-many.taken)
    if part is None:
        return None
    inside = tuple(zip((item.label for item in many.items), many.rows(), strict=True))
    return replace(part, inside=inside)
