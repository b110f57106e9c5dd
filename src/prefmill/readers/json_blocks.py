"""JSON text cut into blocks of whole records: objects in a row, or elements between brackets.

Brackets and commas outside strings are found with numpy, a block at a time; an element that is
longer than a block grows it up to `MAX_RECORD`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from prefmill.readers.blocks import MAX_RECORD, Block, Positions, grown, too_long
from prefmill.readers.rejects import Bad

_KINDS = np.zeros(256, dtype=np.int8)
for _chars, _kind in ((b'"', 2), (b"[{", 1), (b"]}", -1), (b",", 3)):
    _KINDS[list(_chars)] = _kind
_MARKS = bytes(int(kind != 0) for kind in _KINDS.tolist())


def objects(source: Iterator[bytes], label: str) -> Iterator[Block | Bad]:
    """Objects in a row, with blanks or line ends between them."""
    data, line, eof = b"", 1, False
    while True:
        at, chars, depth = json_marks(data)
        ends = at[(depth <= 0) & (chars != ord(","))] + 1
        rest = data
        if len(ends):
            whole, rest = data[: ends[-1]], data[ends[-1] :]
            yield Block(whole, line, starts=np.concatenate(([0], ends)))
            line += whole.count(b"\n")
        if eof:
            if text := rest.strip():
                wrong = "text where an object is expected"
                if text.startswith(b"{"):
                    wrong = "the file ends inside the object"
                yield _stray(rest, line, wrong)
            return
        if len(rest) > MAX_RECORD:
            raise too_long(label, line)
        data, eof = grown(rest, source)


def elements(
    source: Iterator[bytes], label: str, line: int, *, close: str = "]", last: bool = True
) -> Iterator[Block | Bad]:
    """What stands between commas up to the bracket `close`; the commas become blanks.

    `source` begins after the opening bracket, in `line`. With `last` nothing may follow `close`.
    """
    data = b""
    found = eof = False
    while True:
        at, chars, depth = json_marks(data)
        outer = np.flatnonzero((depth < 0) & (chars != ord(",")))
        inner = slice(None, outer[0] if len(outer) else None)
        edges = at[inner][(chars[inner] == ord(",")) & (depth[inner] == 0)]
        stop = int(at[outer[0]]) if len(outer) else None
        if stop is not None:
            if data[stop] != ord(close):
                wrong = "a '}' without its '{' ends the array"
                if close == "}":
                    wrong = "a ']' without its '[' ends the object"
                where = line + data.count(b"\n", 0, stop)
                yield _stray(data[stop:], where, wrong, fatal=True)
                return
            if found or len(edges) or data[:stop].strip():
                edges = np.append(edges, stop)
        found = found or bool(len(edges))
        rest = data
        if len(edges):
            whole, rest = bytearray(data[: edges[-1] + 1]), data[edges[-1] + 1 :]
            np.frombuffer(whole, dtype=np.uint8)[edges] = ord(" ")
            yield Block(bytes(whole), line, starts=np.concatenate(([0], edges + 1)))
            line += whole.count(b"\n")
        elif stop is not None:
            rest = data[stop + 1 :]
            line += data.count(b"\n", 0, stop)
        if stop is not None:
            if last:
                yield from _behind(itertools.chain([rest], source), line)
            return
        if eof:
            yield _stray(rest, line, "the file ends inside the array")
            return
        if len(rest) > MAX_RECORD:
            raise too_long(label, line)
        data, eof = grown(rest, source)


def _behind(pieces: Iterable[bytes], line: int) -> Iterator[Bad]:
    for piece in pieces:
        if piece.strip():
            yield _stray(piece, line, "text behind the end of the array", fatal=True)
            return
        line += piece.count(b"\n")


def _stray(text: bytes, line: int, reason: str, *, fatal: bool = False) -> Bad:
    body = text.lstrip()
    line += text.count(b"\n", 0, len(text) - len(body))
    return Bad(
        line, reason, (body[:200] if fatal else body.rstrip()).decode(errors="ignore"), fatal
    )


def json_marks(data: bytes) -> tuple[Positions, npt.NDArray[np.uint8], Positions]:
    """Brackets and commas outside strings: their positions, bytes, and the depth after each.

    The depth is 0 at the start of `data`.
    """
    array = np.frombuffer(data, dtype=np.uint8)
    at = np.flatnonzero(np.frombuffer(data.translate(_MARKS), dtype=np.bool_))
    kinds = _KINDS[array[at]]
    slashes = np.flatnonzero(array == ord("\\"))
    quoted = kinds == 2
    if len(slashes):
        runs = slashes[np.concatenate(([True], np.diff(slashes) > 1))]
        behind = at - 1
        follows = quoted & (at > 0) & (array[behind] == ord("\\"))
        run = runs[np.searchsorted(runs, behind[follows], side="right") - 1]
        # An odd run of backslashes.
        escaped = (behind[follows] - run) % 2 == 0
        quoted[np.flatnonzero(follows)[escaped]] = False
        dropped = np.zeros(len(at), dtype=bool)
        dropped[np.flatnonzero(follows)[escaped]] = True
        at, kinds, quoted = at[~dropped], kinds[~dropped], quoted[~dropped]
    outside = (np.cumsum(quoted) % 2 == 0) & ~quoted
    at, kinds = at[outside], kinds[outside].astype(np.int64)
    depth = np.cumsum(np.where(kinds == 3, 0, kinds))
    return at, array[at], depth
