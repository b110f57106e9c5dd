"""A report in a terminal: the same parts as on the page, in lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from prefmill.reports.found import Excerpt, Shown, Warned
from prefmill.reports.lines import Lines, tracks
from prefmill.reports.parts import Bars, Grid, Section, short
from prefmill.shown import shown

_WIDTH = 100
_BAR = 32
_CELL = 44  # characters of a cell but the last
_PAIRS, _LONG = 3, 300  # pairs, and characters of a text


def lines(title: str, warned: Sequence[Warned], parts: Sequence[Section]) -> Iterator[str]:
    """The report, a line at a time; nothing in it is obeyed by a terminal."""
    yield from (_plain(line) for line in _lines(title, warned, parts))


def _plain(text: str) -> str:
    return shown(text).replace("\t", " ").replace("\n", " ")


def _lines(title: str, warned: Sequence[Warned], parts: Sequence[Section]) -> Iterator[str]:
    yield title
    yield ""
    yield f"{len(warned)} warnings" if len(warned) != 1 else "1 warning"
    for each in warned:
        yield from _wrapped(f"! {each.name}: {each.what} {each.advice}", "  ")
        if each.line:
            yield f"    $ {each.line}"
    for section in parts:
        yield ""
        yield f"== {section.title}"
        for words in section.words:
            yield from _wrapped(words, "")
        for part in section.parts:
            yield from _part(part)
        for number, pair in enumerate(section.pairs[:_PAIRS], 1):
            yield from _pair(number, pair)


def _part(part: Grid | Bars | Lines) -> Iterator[str]:
    if isinstance(part, Grid):
        yield from _grid(part)
    elif isinstance(part, Bars):
        yield from _bars(part)
    else:
        yield from tracks(part)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(_plain(text), _WIDTH, subsequent_indent=indent)


def _grid(grid: Grid) -> Iterator[str]:
    yield f"-- {grid.caption}"
    rows = [[_plain(cell) for cell in row] for row in grid.rows]
    rows = [[*(short(cell, _CELL) for cell in row[:-1]), short(row[-1])] for row in rows]
    head = [list(grid.head)] if any(grid.head) else []
    widths = [max(map(len, column)) for column in zip(*head, *rows, strict=True)]
    for *row, last in [*head, *rows]:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        begin = "  ".join([*cells, ""])
        # What is long stands in the last column: it goes on below itself.
        first, *more = textwrap.wrap(last, max(40, _WIDTH - len(begin))) or [""]
        if last.strip(" ▁▂▃▄▅▆▇█") == "":
            first, more = last, []
        yield (begin + first).rstrip()
        yield from (" " * len(begin) + line for line in more)


def _bars(bars: Bars) -> Iterator[str]:
    yield f"-- {bars.caption} ({bars.axis})"
    most, width = max([*bars.counts, 1]), max(map(len, bars.labels))
    for label, count in zip(bars.labels, bars.counts, strict=True):
        bar = "█" * (-(-_BAR * count // most))
        yield f"  {label:>{width}}  {bar:<{_BAR}}  {count:,}".rstrip()


def _pair(number: int, pair: Shown) -> Iterator[str]:
    yield f"pair {number}"
    for name, text, score in (
        ("prompt", pair.prompt, ""),
        ("chosen", pair.chosen, f" ({pair.chosen_score:g})"),
        ("rejected", pair.rejected, f" ({pair.rejected_score:g})"),
    ):
        yield from _wrapped(f"  {name}{score}: {_told(text)}", "    ")


def _told(excerpt: Excerpt) -> str:
    more = excerpt.more + max(0, len(excerpt.text) - _LONG)
    return excerpt.text[:_LONG] + (f" … {more:,} more characters" if more else "")
