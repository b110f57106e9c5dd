r"""Texts of data on a terminal: control characters are shown, not sent.

A terminal obeys escape sequences, and a bidirectional override makes a line read as another one.
Texts of data are in errors, notes, tables and names of files. All streams of the command go
through here (`guard`); JSON has an escape of its own, which changes no value (`in_json`).
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any, TextIO

from prefmill.redact import without_secrets

#: C0 but for tab and line feed, DEL, C1, marks and overrides of direction, separators of lines,
#: the byte order mark, tag characters, and halves of surrogate pairs.
_CONTROLS = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff"
    "\\U000e0000-\\U000e007f\\ud800-\\udfff"
)
_UNSEEN = re.compile(f"[{_CONTROLS}]")


def shown(text: str) -> str:
    r"""`text` with its control characters spelled out; tabs and line feeds stay.

    >>> shown("a\x1b[31mb\u202ec")
    'a\\x1b[31mb\\u202ec'
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def amount(count: float, one: str, more: str = "") -> str:
    """How many there are of what; without `more`, the word for several is `one` with an s.

    >>> amount(1, "row"), amount(1200, "row"), amount(1, "row was", "rows were")
    ('1 row', '1,200 rows', '1 row was')
    """
    word = one if count == 1 else more or f"{one}s"
    return f"{count:,.0f} {word}"


def in_json(text: str) -> str:
    r"""JSON text that means the same, without control characters.

    >>> in_json('"a\u202eb"')
    '"a\\u202eb"'
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


class Shown(io.TextIOWrapper):
    """A stream of text that shows control characters; with `hides` it holds secrets back too."""

    def __init__(self, bare: TextIO, *, hides: bool = False) -> None:
        super().__init__(
            bare.buffer,
            encoding=bare.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        #: What moves on the screen by itself, a bar of progress, writes here.
        self.bare = bare
        self._hides = hides

    def write(self, text: str) -> int:
        """Write `text`; a carriage return stays, since bars of other libraries need it."""
        if self._hides:  # what others write: errors of libraries, tracebacks
            text = without_secrets(text)
        parts = map(shown, text.split("\r"))
        return super().write("\r".join(parts))


def guard() -> None:
    """From here on stderr, and stdout where it is a terminal, show control characters.

    What goes to a pipe through stdout is data, and stays as it is. stderr, which is kept in logs,
    loses secrets (`prefmill.redact`).
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = Shown(sys.stderr, hides=True)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.isatty():
        sys.stdout = Shown(sys.stdout)


def bare(stream: Any) -> Any:
    """The stream below a guarded one: for who writes escape sequences of his own."""
    return stream.bare if isinstance(stream, Shown) else stream
