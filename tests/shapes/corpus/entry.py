"""An entry of the corpus of shapes: a small file as people have it, and the line to type for it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

#: Words that may be given several times.
REPEATED = ("where", "join", "group")


@dataclass(frozen=True)
class Entry:
    """One shape in one spelling.

    `line` are the options of `[rows]` that people type; nothing where the shape is recognised, and
    `means` are then those that prefmill has to understand. `first` are the rows of the first
    records, written by hand: (prompt, completion, score). `rows` and `dropped` are counted by hand.
    """

    name: str
    about: str
    records: list[dict]
    first: list[tuple]
    rows: int
    line: str = ""
    means: str = ""
    kind: str = "jsonl"
    command: str = "pairs"
    plan: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    votes: dict[str, int] = field(default_factory=dict)
    #: Other files by name: those that are joined.
    files: dict[str, list[dict]] = field(default_factory=dict)
    #: The file of each record, where there are several.
    places: list[str] = field(default_factory=list)
    #: CSV: how many of the last columns the rows lack.
    short: int = 0
    #: What a file has around its records, as `{"meta": {}, "data": RECORDS}`.
    around: str = ""
    #: Whether docs/shapes.md has it; variants that only tests need are left out.
    shown: bool = True

    @property
    def words(self) -> dict[str, Any]:
        """What the options of `[rows]` say."""
        return words_of(self.means or self.line)


def words_of(line: str) -> dict[str, Any]:
    """The options of a line by name.

    >>> words_of("--completion a,b --where turn=1")
    {'completion': 'a,b', 'where': ['turn=1']}
    """
    found: dict[str, Any] = {}
    parts = iter(shlex.split(line))
    for part in parts:
        name, mark, value = part.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not mark:
            value = next(parts)
        if name in REPEATED:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found
