"""What a report is made of, for both of its faces: sections of words, tables, bars and lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prefmill.reports.found import Shown
from prefmill.reports.lines import Lines

#: The head of a column of small histograms.
SPARK = "scores, low to high"


@dataclass(frozen=True)
class Grid:
    """A table: its caption, heads of columns, rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bars:
    """A histogram: its caption, a label and a count for each bar; `axis` says what a bar counts."""

    caption: str
    labels: Sequence[str]
    counts: Sequence[int]
    axis: str


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading."""

    title: str
    words: Sequence[str] = ()
    parts: Sequence[Grid | Bars | Lines] = ()
    pairs: Sequence[Shown] = field(default=())


def short(text: str, most: int = 1000) -> str:
    """At most so many characters of a text of data, a name say.

    >>> short("a long name", 6)
    'a lon…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"
