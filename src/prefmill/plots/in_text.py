"""Best-of-n curves as text, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from prefmill.plots.marks import has_intervals, one_line, parts_of

if TYPE_CHECKING:
    from prefmill.runs.looks.curve import Curve


def text_curve(curve: Curve, width: int = 72) -> list[str]:
    """Best-of-n curves as text: a row for n = 1, 2, 4, ..., the score from left to right.

    One curve has its interval, its median and its mean as well; of several each best has a letter.

    >>> answers = {"prompt": ["p"] * 3 + ["q"] * 3, "completion": list("abcabc")}
    >>> pool = pl.DataFrame({**answers, "score": [1, 2, 6, 2, 3, 7]})
    >>> from prefmill.runs.looks.curve import curve
    >>> for line in text_curve(curve(pool, resamples=0), width=40): print(line)
    best of n ●, median │, mean ○
    n 1          ●
    n 2          ○             ●
    n 3 │        ○                         ●
        2.5                              6.5
    """
    points = curve.points.filter(pl.col("best").is_not_null())
    if not points.height:
        return []
    parts = parts_of(points, curve.by)
    one = len(parts) == 1
    largest = int(points["n"].max())  # type: ignore[arg-type]
    head = len(f"n {largest} ")
    room = max(8, width - head)
    place, least, most = _places(points, ("best", "low", "high", "median", "mean"), one, room)
    letters = [chr(ord("a") + i % 26) for i in range(len(parts))]
    lines = [_key_to(curve, letters, [name for name, _ in parts])]
    for n in sorted({2**i for i in range(largest.bit_length())} | {largest}):
        cells = [" "] * room
        for letter, (_, part) in zip(letters, parts, strict=True):
            for row in part.filter(n=n).iter_rows(named=True):
                if one:
                    _mark_all(cells, row, place)
                else:
                    at = place(row["best"])
                    cells[at] = letter if cells[at] == " " else "*"
        lines.append(f"n {n}".ljust(head) + "".join(cells).rstrip())
    ends = f"{least:.4g}", f"{most:.4g}"
    lines.append(" " * head + ends[0] + ends[1].rjust(room - len(ends[0])))
    return lines


def _places(
    points: pl.DataFrame, names: Sequence[str], one: bool, room: int
) -> tuple[Callable[[float], int], float, float]:
    """Where a value stands in `room` cells, and the values at both ends."""
    shown = points.select(names if one else names[:1]).cast(pl.Float64)
    values = pl.concat([shown[name].drop_nulls() for name in shown.columns])
    least, most = float(values.min()), float(values.max())  # type: ignore[arg-type]
    reach = (most - least) or 1.0
    return lambda value: round((value - least) / reach * (room - 1)), least, most


def _key_to(curve: Curve, letters: Sequence[str], names: Sequence[str]) -> str:
    """The line above a curve in text: what its signs mean."""
    if len(letters) == 1:
        interval = ", interval ─" if has_intervals(curve.points) else ""
        return f"best of n ●, median │, mean ○{interval}"
    pairs = zip(letters, names, strict=True)
    signs = ", ".join(f"{letter} {name}" for letter, name in pairs)
    return f"best of n by {one_line(str(curve.by))}: {signs}; * several"


def _mark_all(cells: list[str], row: Mapping[str, Any], place: Callable[[float], int]) -> None:
    if row["low"] is not None:
        first, last = place(row["low"]), place(row["high"])
        cells[first : last + 1] = "─" * (last + 1 - first)
    for name, sign in (("median", "│"), ("mean", "○"), ("best", "●")):
        cells[place(row[name])] = sign
