"""What one JSON object over a whole file is made of: its keys, and where its lists begin.

One pass over the text with numpy. What is held is a block, and the first few keys of each kind:
so an object of many gigabytes, or of millions of keys, costs no more memory than a small one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prefmill.readers.blocks import MAX_RECORD, Positions, grown, too_long
from prefmill.readers.json_blocks import json_marks

#: A key and its colon.
KEY = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
#: A key that a column of keys would collide with.
_KEY_COLUMN = re.compile(rb'"(_*key)"\s*:', re.IGNORECASE)
#: Keys of each kind that are kept, for messages.
MOST_NAMES = 8
_OPEN, _CLOSE, _LIST, _COMMA = ord("{"), ord("}"), ord("["), ord(",")


@dataclass(frozen=True)
class Member:
    """A key of the object whose value is a list or an object."""

    key: str
    at: int  #: bytes of text before what stands inside the value's bracket
    line: int  #: where that is


@dataclass
class Outline:
    """What is known of the first object of a text."""

    closed: bool = False  #: it ends
    behind: bool = False  #: there is more text after it
    is_line: bool = True  #: it stands in a line of its own
    size: int = 0  #: its bytes
    start: int = 0  #: bytes of text before what stands inside its bracket
    line: int = 1  #: where that is
    lists: list[Member] = field(default_factory=list)  #: the first lists of objects
    objects: int = 0  #: how many keys hold an object
    others: int = 0  #: how many keys hold something else than an object
    names: list[str] = field(default_factory=list)  #: the first keys that hold no list of objects
    lists_in_all: int = 0  #: how many lists of objects there are
    asked: Member | None = None  #: the list that was asked for
    told: bool = False  #: one of its keys is that of a record
    key_names: set[str] = field(default_factory=set)  #: keys of its objects that are called `key`
    fault: str | None = None  #: why it is no JSON, as far as its own keys and scalars go


class _Reader:
    """Follows one object; `asked` is a key, `is_told` whether a key says that it is a record."""

    def __init__(self, asked: str | None, is_told: Callable[[str], bool]) -> None:
        self.asked, self.is_told = asked, is_told
        self.seen = Outline()
        self.list: Member | None = None
        self.before: tuple[int, int] = (0, 0)  # the last mark and the depth after it
        self.offset, self.line = 0, 1

    def take(
        self, data: bytes, at: Positions, chars: npt.NDArray[np.uint8], depth: Positions
    ) -> None:
        """The next marks of the text; `data` ends with the last one."""
        previous = np.concatenate(([self.before[0]], chars[:-1]))
        above = np.concatenate(([self.before[1]], depth[:-1]))
        opened = (previous == _OPEN) | (previous == _COMMA)
        is_member = (above == 1) & opened
        is_after = (above == 1) & ~opened
        is_first = (above == 2) & (previous == _LIST)
        for number in np.flatnonzero(is_member | is_after | is_first).tolist():
            start = int(at[number - 1]) + 1 if number else 0
            end, mark = int(at[number]), int(chars[number])
            text = data[start:end]
            if is_first[number]:
                self._first(text, mark)
            elif is_after[number]:
                if text.strip():
                    self._wrong("text after a value")
            elif int(depth[number]) == 2:
                self._container(text, mark, data, end)
            elif text.strip() or mark == _COMMA or previous[number] == _COMMA:
                self._scalar(text)
        if self.seen.objects and not self.seen.lists:
            self._find_keys(data, at, depth)
        self.before = (int(chars[-1]), int(depth[-1]))

    def _container(self, text: bytes, mark: int, data: bytes, end: int) -> None:
        key, rest = self._key(text)
        self.list = None
        if key is None or rest:
            self._wrong("text before a bracket")
            return
        if mark == _OPEN:
            self.seen.objects += 1
            self._other(key)
        else:
            self.seen.others += 1
            is_asked = key == self.asked and self.seen.asked is None
            line = 0
            # Lines are counted for those that are kept: an object may hold millions of lists.
            if is_asked or len(self.seen.lists) < MOST_NAMES:
                line = self.line + data.count(b"\n", 0, end)
            self.list = Member(key, self.offset + end + 1, line)
            if is_asked:
                self.seen.asked = self.list

    def _first(self, text: bytes, mark: int) -> None:
        """What the list begins with decides what it is a list of."""
        if self.list is None:
            return
        if mark != _OPEN or text.strip():
            self._other(self.list.key)
            return
        self.seen.lists_in_all += 1
        if len(self.seen.lists) < MOST_NAMES:
            self.seen.lists.append(self.list)

    def _scalar(self, text: bytes) -> None:
        key, rest = self._key(text)
        self.seen.others += 1
        if key is None:
            self._wrong("no key before a comma or the end")
            return
        try:
            json.loads(rest, parse_constant=_refuse, parse_int=str)
        except ValueError:
            self._wrong(f"no value of the key {key!r}")
        self._other(key)

    def _key(self, text: bytes) -> tuple[str | None, bytes]:
        """The key at the beginning of a member, and the text after its colon."""
        match = KEY.match(text)
        if match is None:
            return None, text
        try:
            key = str(json.loads(match[1]))
        except ValueError:
            return None, text
        self.seen.told |= self.is_told(key)
        return key, text[match.end() :]

    def _other(self, key: str) -> None:
        if len(self.seen.names) < MOST_NAMES:
            self.seen.names.append(key)

    def _find_keys(self, data: bytes, at: Positions, depth: Positions) -> None:
        for match in _KEY_COLUMN.finditer(data):
            number = int(np.searchsorted(at, match.start())) - 1
            around = int(depth[number]) if number >= 0 else self.before[1]
            if around == 2:
                self.seen.key_names.add(match[1].decode().lower())

    def _wrong(self, what: str) -> None:
        self.seen.fault = self.seen.fault or what


def _refuse(text: str) -> object:
    raise ValueError(text)


def outline(
    pieces: Iterator[bytes],
    label: str,
    *,
    asked: str | None = None,
    is_told: Callable[[str], bool] = lambda key: False,
) -> Outline:
    """The first object of a text that begins with one, in one pass over its bytes.

    `asked` is a key whose list is looked for; `is_told` says of a key that only records have it.
    Raises `BadInput` where something between two brackets is longer than a record may be.
    """
    reader = _Reader(asked, is_told)
    seen = reader.seen
    data, eof, level = b"", False, 0
    while True:
        at, chars, depth = json_marks(data)
        depth = depth + level
        ends = np.flatnonzero((depth <= 0) & (chars != _COMMA))
        if len(ends):
            last = int(ends[0]) + 1
            at, chars, depth = at[:last], chars[:last], depth[:last]
        cut = int(at[-1]) + 1 if len(at) else 0
        if cut:
            if not reader.offset:
                seen.start = int(at[0]) + 1
                seen.line = 1 + data.count(b"\n", 0, seen.start)
            reader.take(data[:cut], at, chars, depth)
            level = int(depth[-1])
            seen.is_line &= b"\n" not in data[at[0] if not reader.offset else 0 : cut]
            reader.line += data.count(b"\n", 0, cut)
            reader.offset += cut
        seen.size = reader.offset - seen.start + 1
        if len(ends):
            seen.closed = int(chars[-1]) == _CLOSE
            seen.is_line &= data[cut:].lstrip(b" \t\r")[:1] in (b"\n", b"")
            seen.behind = bool(data[cut:].strip()) or any(piece.strip() for piece in pieces)
            return seen
        if eof:
            return seen
        if len(data) - cut > MAX_RECORD:
            raise too_long(label, reader.line)
        data, eof = grown(data[cut:], pieces)
