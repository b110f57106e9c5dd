"""Footers of Parquet as trees that can be changed: Thrift's compact protocol, read and written."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Types of the protocol: two for a truth, a byte, whole numbers, a double, bytes, lists, a struct.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    12,
)
EDGES = (0, 1, -1, 2, 7, 8, 127, 128, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 1 << 32, 1 << 62)


@dataclass
class Node:
    """A value: of a struct a list of (number, node), of a list its nodes, else what it holds."""

    kind: int
    value: Any
    inner: int = 0  #: what a list holds


class Reading:
    """Bytes, read from the left."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def struct(self) -> Node:
        fields, number = [], 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else zigzag(self.varint())
            fields.append((number, self.value(head & 15)))
        return Node(STRUCT, fields)

    def value(self, kind: int) -> Node:
        if kind in (TRUE, FALSE):
            return Node(kind, None)
        if kind == BYTE:
            return Node(kind, self.take(1)[0])
        if kind in (I16, I32, I64):
            return Node(kind, zigzag(self.varint()))
        if kind == DOUBLE:
            return Node(kind, self.take(8))
        if kind == BINARY:
            return Node(kind, self.take(self.varint()))
        if kind == STRUCT:
            return self.struct()
        head = self.take(1)[0]
        count, inner = head >> 4, head & 15
        if count == 15:
            count = self.varint()
        if inner in (TRUE, FALSE):
            return Node(kind, [Node(BYTE, self.take(1)[0]) for _ in range(count)], inner)
        return Node(kind, [self.value(inner) for _ in range(count)], inner)


def zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> bytes:
    return varint((value << 1) ^ (value >> 63) if value < 0 else value << 1)


def written(node: Node) -> bytes:
    """The bytes of a tree."""
    if node.kind == STRUCT:
        out, last = [], 0
        for number, inner in node.value:
            step = number - last
            head = bytes([step << 4 | inner.kind]) if 0 < step < 16 else b""
            out.append(head or bytes([inner.kind]) + signed(number))
            out.append(written(inner))
            last = number
        return b"".join([*out, b"\0"])
    if node.kind in (LIST, SET):
        count = len(node.value)
        head = bytes([min(count, 15) << 4 | node.inner])
        return head + (varint(count) if count >= 15 else b"") + b"".join(map(written, node.value))
    if node.kind in (I16, I32, I64):
        return signed(node.value)
    if node.kind == BINARY:
        return varint(len(node.value)) + node.value
    if node.kind == BYTE:
        return bytes([node.value & 255])
    return node.value or b""


def nodes(node: Node) -> Iterator[Node]:
    yield node
    if node.kind == STRUCT:
        for _, inner in node.value:
            yield from nodes(inner)
    elif node.kind in (LIST, SET):
        for inner in node.value:
            yield from nodes(inner)


def changed(tree: Node, draw: random.Random) -> None:
    """Change one node of a tree, so that it can still be written."""
    node = draw.choice(list(nodes(tree)))
    if node.kind == STRUCT and node.value:
        at = draw.randrange(len(node.value))
        number, inner = node.value[at]
        draw.choice(
            [
                lambda: node.value.pop(at),
                lambda: node.value.insert(at, node.value[at]),
                lambda: node.value.__setitem__(at, (draw.choice([1, 2, 3, 15, 99, 32767]), inner)),
                lambda: node.value.append((number, Node(I32, draw.choice(EDGES)))),
                lambda: node.value.reverse(),
            ]
        )()
    elif node.kind in (LIST, SET) and node.value:
        at = draw.randrange(len(node.value))
        draw.choice(
            [
                lambda: node.value.pop(at),
                lambda: node.value.insert(at, node.value[at]),
                lambda: node.value.extend(node.value * draw.choice([1, 20])),
                lambda: node.value.clear(),
                lambda: draw.shuffle(node.value),
            ]
        )()
    elif node.kind in (I16, I32, I64):
        node.value = draw.choice([*EDGES, node.value + 1, node.value - 1, node.value * 2])
        if draw.random() < 0.1:
            node.kind = draw.choice([I16, I32, I64])
    elif node.kind == BINARY:
        node.value = draw.choice(
            [b"", b"\xff", node.value[:-1], node.value * 3, b"\0" + node.value, b"prompt", b"a.b"]
        )
    elif node.kind == DOUBLE:
        node.value = struct.pack("<d", draw.choice([float("nan"), float("inf"), -0.0]))
    elif node.kind == BYTE:
        node.value = draw.randrange(256)


def with_footer(data: bytes, draw: random.Random) -> bytes:
    """A Parquet file whose footer is one or two changes from what it was."""
    (length,) = struct.unpack("<I", data[-8:-4])
    tree = Reading(data[-8 - length : -8]).struct()
    for _ in range(draw.choice([1, 1, 2])):
        changed(tree, draw)
    footer = written(tree)
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def page_heads(data: bytes) -> list[tuple[int, int]]:
    """Where the headers of pages begin and end, as far as they can be followed from the start."""
    (length,) = struct.unpack("<I", data[-8:-4])
    at, found = 4, []
    while at < len(data) - 8 - length:
        reading = Reading(data[at:])
        try:
            head = dict(reading.struct().value)
            size = head[3].value
        except (IndexError, KeyError, AttributeError):
            break
        if not isinstance(size, int) or size < 0:  # behind the pages, indexes of them
            break
        found.append((at, at + reading.at))
        at += reading.at + size
    return found


def with_page_head(data: bytes, draw: random.Random) -> bytes:
    """A Parquet file in which the header of one page is changed, and keeps its length."""
    heads = page_heads(data)
    if not heads:
        return data
    start, end = draw.choice(heads)
    tree = Reading(data[start:end]).struct()
    for _ in range(200):
        changed(tree, draw)
        head = written(tree)
        if len(head) == end - start and head != data[start:end]:
            return data[:start] + head + data[end:]
        tree = Reading(data[start:end]).struct()
    return data
