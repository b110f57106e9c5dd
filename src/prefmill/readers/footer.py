"""What a Parquet file says of itself, checked before an engine believes it: its footer, and the
checksums of its pages.

Arrow ends the process on some damaged schemas, and no engine looks at checksums. A good file costs
a parse of its schema, and of the whole footer where that is small; checksums cost one pass over the
bytes of a file that has them.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from typing import IO, BinaryIO

import pyarrow.parquet as pq

from prefmill.errors import BadInput

_MAGIC = b"PAR1"
#: A footer up to this size is checked as a whole. Python reads about 1 MB a second.
_SMALL = 64 << 10
_MOST_DEPTH = 64
_MOST_COLUMNS = 100_000

Value = int | float | bytes | bool | list["Value"] | dict[int, "Value"] | None


class Damaged(ValueError):
    """Bytes that no writer of Parquet writes."""


class Number(int):
    """A whole number, and the type of Thrift that it was written as: engines skip a field of
    another type.
    """

    __slots__ = ()
    kind = 0


class _Short(Number):
    __slots__ = ()
    kind = 4


class _Int(Number):
    __slots__ = ()
    kind = 5


class _Long(Number):
    __slots__ = ()
    kind = 6


_NUMBERS = {each.kind: each for each in (_Short, _Int, _Long)}
_I32, _I64 = _Int.kind, _Long.kind
_TEXT = 6  #: of the types of columns


class Thrift:
    """Thrift's compact protocol: structs as dictionaries by the number of a field."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        """The next byte."""
        if self.at >= len(self.data):
            raise Damaged("it ends early")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        """A number of seven bits a byte."""
        # A footer is mostly these: the loop calls nothing.
        data, at = self.data, self.at
        value = shift = 0
        while at < len(data):
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return value
            shift += 7
            if shift > 63:
                raise Damaged("a number is too long")
        raise Damaged("it ends early")

    def number(self) -> int:
        """A whole number with a sign."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, last: int | None = None, depth: int = 0) -> dict[int, Value]:
        """A struct; with `last`, of its fields only those before and with that number."""
        fields: dict[int, Value] = {}
        number = 0
        while kind := self.byte():
            number = number + (kind >> 4) if kind >> 4 else self.number()
            if last is not None and number > last:
                break
            fields[number] = self.value(kind & 15, depth)
        return fields

    def value(self, kind: int, depth: int) -> Value:
        """A value of one of the protocol's types."""
        if depth > _MOST_DEPTH:
            raise Damaged("it is nested too deep")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self.byte()
        if of_kind := _NUMBERS.get(kind):
            value = self.varint()
            return of_kind((value >> 1) ^ -(value & 1))
        if kind == 7:
            return float(struct.unpack("<d", self.take(8))[0])
        if kind == 8:
            return self.take(self.varint())
        if kind in (9, 10):
            head = self.byte()
            count = head >> 4 if head >> 4 < 15 else self.varint()
            if count > len(self.data) - self.at:
                raise Damaged("a list is longer than the footer")
            inner = head & 15
            return [
                self.byte() == 1 if inner in (1, 2) else self.value(inner, depth + 1)
                for _ in range(count)
            ]
        if kind == 12:
            return self.struct(None, depth + 1)
        raise Damaged(f"a field has the unknown type {kind}")

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self.data) - self.at:
            raise Damaged("a text is longer than the footer")
        self.at += size
        return self.data[self.at - size : self.at]


def check_footer(path: str, label: str) -> None:
    """Raise `BadInput` where the footer of a Parquet file is not one that Arrow can be trusted
    with.
    """
    with open(path, "rb") as file:
        check_footer_in(file, os.path.getsize(path), label)


def check_footer_in(file: IO[bytes] | io.RawIOBase, size: int, label: str) -> None:
    """`check_footer` of an open file of `size` bytes."""
    head = file.read(4) or b""
    if size < 12 or head != _MAGIC:
        kind = "is encrypted" if head == b"PARE" else "does not begin as one"
        raise BadInput(f"{label}: not a readable Parquet file; it {kind if size else 'is empty'}.")
    file.seek(size - 8)
    length, magic = struct.unpack("<I4s", file.read(8) or b"")
    if magic != _MAGIC:
        raise BadInput(
            f"{label}: not a readable Parquet file; it does not end as one.",
            hint="was it copied to its end?",
        )
    if length > size - 12:
        raise BadInput(
            f"{label}: not a readable Parquet file; its footer would have {length:,} bytes of"
            f" {size:,}."
        )
    file.seek(size - 8 - length)
    footer = file.read(length) or b""
    # Arrow ends the process on some of what is refused here.
    try:
        reader = Thrift(footer)
        fields = reader.struct(None if length <= _SMALL else 3)
        leaves = _check_schema(fields.get(2))
        rows = fields.get(3)
        if not _is_number(rows, _I64, 0, 1 << 62):
            raise Damaged(f"it has {rows!r} rows")
        assert isinstance(rows, int)
        if length <= _SMALL:
            _check_groups(fields.get(4), rows, leaves, size - 8 - length)
    except Damaged as error:
        raise BadInput(
            f"{label}: not a readable Parquet file; the footer at byte {size - 8 - length} is"
            f" damaged: {error}."
        ) from None


@dataclass(frozen=True)
class _Leaf:
    """A column: its type, and the levels at which a value of it may repeat or be null."""

    kind: int
    repeats: int
    defined: int


def _check_schema(elements: Value) -> list[_Leaf]:
    """The columns of the schema, each field of a struct one of them."""
    if not isinstance(elements, list) or not elements or len(elements) > _MOST_COLUMNS:
        raise Damaged("it has no schema")
    open_counts: list[int] = []
    levels: list[tuple[int, int]] = []  #: of each open struct
    leaves: list[_Leaf] = []
    for number, element in enumerate(elements):
        if not isinstance(element, dict):
            raise Damaged("a column is no struct")
        name = element.get(4)
        if not isinstance(name, bytes):
            raise Damaged(f"column {number} has no name")
        try:
            name.decode()
        except UnicodeDecodeError:
            raise Damaged(f"the name of column {number} is not UTF-8") from None
        children = element.get(5) or 0
        for key, least, most in (
            (1, 0, 7),
            (2, 0, 1 << 30),
            (3, 0, 2),
            (5, 0, len(elements)),
            (6, 0, 21),
        ):
            value = element.get(key)
            if value is not None and not _is_number(value, _I32, least, most):
                raise Damaged(f"column {number} ({name!r}) has the field {key} with {value!r}")
        while open_counts and open_counts[-1] == 0:
            open_counts.pop()
            levels.pop()
        if number and not open_counts:
            raise Damaged(f"column {number} ({name!r}) is in no struct")
        if open_counts:
            open_counts[-1] -= 1
        assert isinstance(children, int)
        if number and (1 in element) == bool(children):
            raise Damaged(f"column {number} ({name!r}) is a struct with a type, or neither")
        if number and 3 not in element:
            raise Damaged(f"column {number} ({name!r}) does not say whether it may be null")
        repeats, defined = levels[-1] if levels else (0, 0)
        if number:
            repeats, defined = repeats + (element[3] == 2), defined + (element[3] != 0)
        if children or not number:
            open_counts.append(children)
            levels.append((repeats, defined))
            if len(open_counts) > _MOST_DEPTH * 4:
                raise Damaged("it is nested too deep")
        else:
            kind = element[1]
            assert isinstance(kind, int)
            leaves.append(_Leaf(kind, repeats, defined))
    if any(open_counts):
        raise Damaged("the schema ends inside of a struct")
    return leaves


def _check_groups(groups: Value, rows: int, leaves: list[_Leaf], end: int) -> None:
    """Each group of rows has all columns, inside of the file, and together they have all rows."""
    if not isinstance(groups, list):
        raise Damaged("it has no groups of rows")
    total = 0
    for number, group in enumerate(groups):
        columns = group.get(1) if isinstance(group, dict) else None
        count = group.get(3) if isinstance(group, dict) else None
        if (
            not isinstance(columns, list)
            or len(columns) != len(leaves)
            or not _is_number(count, _I64, 0, rows)
        ):
            raise Damaged(f"group {number} does not have {len(leaves)} columns and its rows")
        assert isinstance(count, int)
        total += count
        for column, leaf in zip(columns, leaves, strict=True):
            about = column.get(3) if isinstance(column, dict) else None
            if not isinstance(about, dict):
                raise Damaged(f"a column of group {number} is not described")
            for key, kind, least, most in _COLUMN:
                value = about.get(key)
                if value is None and key == 11:
                    continue
                if not _is_number(
                    value, kind, least, min(most, end) if key in (7, 9, 11) else most
                ):
                    raise Damaged(f"a column of group {number} has the field {key} with {value!r}")
            if about[1] != leaf.kind:
                raise Damaged(
                    f"a column of group {number} has the type {about[1]!r}, and the schema"
                    f" {leaf.kind}"
                )
            if not leaf.repeats and about[5] != count:
                raise Damaged(f"a column of group {number} has {about[5]!r} values of {count} rows")
            _check_sizes(about.get(16), leaf, number)
    if total != rows:
        raise Damaged(f"its groups have {total} rows, and the file {rows}")


def _check_sizes(sizes: Value, leaf: _Leaf, group: int) -> None:
    """Histograms of levels have a number for each level, and texts alone have bytes."""
    if not isinstance(sizes, dict):
        return
    for key, most in ((2, leaf.repeats), (3, leaf.defined)):
        counts = sizes.get(key)
        if isinstance(counts, list) and counts and len(counts) != most + 1:
            raise Damaged(f"a column of group {group} has {len(counts)} of {most + 1} levels")
    if isinstance(sizes.get(1), Number) and leaf.kind != _TEXT:
        raise Damaged(f"a column of group {group} has texts, and is of the type {leaf.kind}")


#: Fields of a column of a group: number, type, least and most. Those of places end where the footer
#: begins.
_COLUMN = (
    (1, _I32, 0, 7),
    (4, _I32, 0, 7),
    (5, _I64, 0, 1 << 62),
    (6, _I64, 0, 1 << 62),
    (7, _I64, 0, 1 << 62),
    (9, _I64, 0, 1 << 62),
    (11, _I64, 0, 1 << 62),
)


def _is_number(value: Value, kind: int, least: int, most: int) -> bool:
    return isinstance(value, Number) and value.kind == kind and least <= value <= most


def check_pages(path: str, label: str, meta: pq.FileMetaData) -> None:
    """Raise `BadInput` for a page whose bytes do not have the checksum that stands before them."""
    with open(path, "rb") as file:
        for group in range(meta.num_row_groups):
            for number in range(meta.num_columns):
                column = meta.row_group(group).column(number)
                start = column.data_page_offset
                # A writer without a dictionary may say 0.
                if column.dictionary_page_offset:
                    start = min(start, column.dictionary_page_offset)
                if not _check_chunk(
                    file,
                    start,
                    start + column.total_compressed_size,
                    f"{label}: column {column.path_in_schema!r}",
                ):
                    # A writer does it for all pages, or for none.
                    return


def _check_chunk(file: BinaryIO, start: int, end: int, where: str) -> bool:
    """Whether the pages of a column have checksums; they are right then."""
    checked = False
    while start < end:
        file.seek(start)
        head = file.read(min(end - start, 8192))
        reader = Thrift(head)
        try:
            fields = reader.struct()
        except Damaged:  # long statistics, or damage: who reads the page will say
            return checked
        size, checksum = fields.get(3), fields.get(4)
        if not isinstance(checksum, int) or not isinstance(size, int) or size < 0:
            return checked
        file.seek(start + reader.at)
        if zlib.crc32(file.read(size)) != checksum & 0xFFFFFFFF:
            raise BadInput(
                f"{where}: the page at byte {start} is damaged; its bytes do not have the"
                " checksum of the file.",
                hint="copy the file again from where it came.",
            )
        checked = True
        start += reader.at + size
    return checked
