"""Text cut into blocks of whole records: lines, and CSV with line ends inside quotes.

A block is some megabytes; a record that is longer grows its block up to `MAX_RECORD`. What a record
holds is not looked at. The usual CSV is scanned with numpy; only a block with a quote inside a
plain field costs a walk in Python, over its quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prefmill.errors import BadInput
from prefmill.readers.rejects import Bad

Positions = npt.NDArray[np.int64]
#: The longest record in bytes. A quote that never closes is found after so many bytes at the
#: latest.
MAX_RECORD = 128 << 20
_QUOTE, _LF, _CR = b'"\n\r'


@dataclass(frozen=True)
class Block:
    """Whole records, and what is known of where they stand."""

    data: bytes
    line: int  #: of the first byte, from 1
    #: of the elements of a JSON array, and the end of the last; None: records are lines
    starts: Positions | None = None
    #: of CSV: opening and closing quotes by turns
    quotes: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    newline: bytes = b"\n"

    def line_of(self, at: int) -> int:
        """The line, from 1, of the byte at `at`."""
        return self.line + self.data.count(self.newline, 0, at)


def too_long(label: str, line: int) -> BadInput:
    """The error for a record beyond `MAX_RECORD`."""
    return BadInput(f"{label}: line {line}: a record is longer than {MAX_RECORD >> 20} MB.")


def line_blocks(pieces: Iterable[bytes], label: str) -> Iterator[Block]:
    """Blocks of whole lines, each ended by LF but for the last of the file."""
    held: list[bytes] = []
    line, size = 1, 0
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if cut:
            data = piece
            if held or cut < len(piece):
                data = b"".join((*held, piece[:cut]))
            yield Block(data, line)
            line += data.count(b"\n")
            held, size = [], 0
        if cut < len(piece):
            held.append(piece[cut:])
            size += len(piece) - cut
            if size > MAX_RECORD:
                raise too_long(label, line)
    if held:
        yield Block(b"".join(held), line)


def csv_blocks(pieces: Iterable[bytes], delimiter: str) -> Iterator[Block | Bad]:
    """Blocks of whole CSV records, in order, with `Bad` where a quoted field does not end as it
    must.

    After a `Bad` record reading goes on in the next line of the file, so that a lone quote never
    swallows more than its own line.
    """
    seps = delimiter.encode() + b"\r\n"
    line, data, newline = 1, b"", b""
    source = iter(pieces)
    eof = False
    while not eof or data:
        data, eof = grown(data, source)
        while data:
            quotes, bad = _scan_quotes(data, seps, eof)
            newline = newline or _newline(data, quotes)
            opened = bad
            if bad is None and len(quotes) % 2:
                opened = int(quotes[-1])
            if opened is not None:
                cut = _last_end(data, quotes, opened, newline, eof)
            elif eof:
                cut = len(data)
            else:
                cut = _last_end(data, quotes, len(data), newline, eof)
            if cut:
                whole, ours = data[:cut], quotes[: np.searchsorted(quotes, cut)]
                yield Block(whole, line, quotes=ours, newline=newline)
                line += whole.count(newline)
                data = data[cut:]
            if opened is None:
                if len(data) > MAX_RECORD:
                    yield Bad(
                        line,
                        f"the record is longer than {MAX_RECORD >> 20} MB",
                        data[:200].decode(errors="ignore"),
                        fatal=True,
                    )
                    return
                break
            if bad is None and not eof and len(data) <= MAX_RECORD:
                break
            where = line + data.count(newline, 0, opened - cut)
            reason = "never closes"
            if bad is not None:
                reason = "has text behind its closing quote"
            end = data.find(newline)
            # The rest of its line is in the next piece.
            if end < 0 and not eof and len(data) <= MAX_RECORD:
                break
            if end < 0:
                end = len(data)
            yield Bad(
                line,
                f"the quote opened in line {where} {reason}",
                data[:end].decode().rstrip("\r\n"),
            )
            # Reading goes on in the next line, so that a lone quote swallows no more than its own.
            data = data[end + 1 :]
            line += 1


def grown(data: bytes, source: Iterator[bytes]) -> tuple[bytes, bool]:
    """`data` and as much again of the text after it, and whether it ends there.

    With less, long records would be scanned over and over.
    """
    held, more = [data], 0
    for piece in source:
        held.append(piece)
        more += len(piece)
        if more and more >= len(data):
            return b"".join(held), False
    return b"".join(held), True


def _quote_roles(
    data: bytes, quotes: Sequence[int], seps: bytes, eof: bool
) -> tuple[list[int], int | None]:
    """Which quotes open and close fields, one by one: a quote inside a field without quotes is a
    character like others.

    Returns the opening and closing ones by turns (an odd count: the last is still open), and the
    opening quote of the first field with text behind its closing quote, or None.
    """
    roles: list[int] = []
    at, count, size = 0, len(quotes), len(data)
    while at < count:
        opening = quotes[at]
        if opening and data[opening - 1] not in seps:
            at += 1
            continue
        at += 1
        while at + 1 < count and quotes[at + 1] == quotes[at] + 1:
            at += 2
        if at >= count:
            roles.append(opening)
            break
        closing = quotes[at]
        if closing + 1 < size and data[closing + 1] not in seps:
            return roles, opening
        if closing + 1 == size and not eof:
            # The next piece may double it.
            roles.append(opening)
            break
        roles += (opening, closing)
        at += 1
    return roles, None


def _scan_quotes(data: bytes, seps: bytes, eof: bool) -> tuple[Positions, int | None]:
    array = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(array == _QUOTE)
    if not len(quotes):
        return quotes, None
    is_sep = np.zeros(256, dtype=bool)
    is_sep[list(seps)] = True
    opens, closes = quotes[0::2], quotes[1::2]
    # The usual case, for all quotes at once: they take turns, an opening one stands after a
    # separator (or is the second of a doubled one), a closing one in front of a separator (or is
    # the first of a doubled one).
    fine = is_sep[array[opens - 1]]
    fine[0] |= opens[0] == 0
    fine[1:] |= opens[1:] == closes[: len(opens) - 1] + 1
    if fine.all():
        inner = closes[closes < len(data) - 1]
        shut = is_sep[array[inner + 1]]
        following = opens[1:][: len(inner)]
        shut[: len(following)] |= following == inner[: len(following)] + 1
        if shut.all():
            return quotes, None
    roles, bad = _quote_roles(data, quotes.tolist(), seps, eof)
    return np.array(roles, dtype=np.int64), bad


def inside(quotes: Positions, at: Positions) -> npt.NDArray[np.bool_]:
    """Whether each position in `at` lies between an opening and its closing quote."""
    between: npt.NDArray[np.bool_] = np.searchsorted(quotes, at) % 2 == 1
    return between


def _last_end(data: bytes, quotes: Positions, limit: int, newline: bytes, eof: bool) -> int:
    """End of the last record that ends at or before `limit`; 0 when none does."""
    while (at := data.rfind(newline, 0, limit)) >= 0:
        turn = int(np.searchsorted(quotes, at))
        if turn % 2 == 0 and not (newline == b"\r" and at == len(data) - 1 and not eof):
            return at + 1
        limit = int(quotes[turn - 1]) if turn % 2 else at
    return 0


def _newline(data: bytes, quotes: Positions) -> bytes:
    """What ends a line in messages: CR where the first record ends in one (old Macs), else LF."""
    array = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero((array == _LF) | (array == _CR))
    ends = ends[~inside(quotes, ends)]
    if (
        len(ends)
        and array[ends[0]] == _CR
        and ends[0] + 1 < len(data)
        and array[ends[0] + 1] != _LF
    ):
        return b"\r"
    return b"\n"
