"""A best-of-n curve as a small picture, for notebooks; files are drawn by `prefmill.plots`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import polars as pl

from prefmill.shown import shown

_WIDTH, _HEIGHT, _EDGE = 420, 220, 34
#: Told apart by people who do not see all colours (after Okabe and Ito), and seen on light and on
#: dark: with a contrast of at least 3 (WCAG 2) to white and to the #111 of dark notebooks.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c46f9e", "#a87400", "#767676")


def picture(points: pl.DataFrame, by: str | None) -> str:
    """`best` over n as SVG, with its interval; a line for each value of `by`. Nothing to draw is
    an empty text.
    """
    points = points.filter(pl.col("best").is_finite())
    if not points.height:
        return ""
    wide = points.select(pl.col("best", "low", "high").cast(pl.Float64)).unpivot()["value"]
    low, high = float(wide.min()), float(wide.max())  # type: ignore[arg-type]
    most = max(2, int(points["n"].max()))  # type: ignore[arg-type]

    def at(n: Any, score: Any) -> str:
        x = _EDGE + (n - 1) / (most - 1) * (_WIDTH - 2 * _EDGE)
        y = _HEIGHT - _EDGE - (score - low) / ((high - low) or 1) * (_HEIGHT - 2 * _EDGE)
        return f"{x:.1f},{y:.1f}"

    parts = [(None, points)] if by is None else list(points.group_by(by, maintain_order=True))
    lines = [line for k, (name, part) in enumerate(parts) for line in _drawn(k, name, part, at)]
    ends = (
        f'<text x="2" y="{_HEIGHT - _EDGE}">{low:.4g}</text>'
        f'<text x="2" y="{_EDGE}">{high:.4g}</text>'
        f'<text x="{_EDGE}" y="{_HEIGHT - 10}">n = 1</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 10}">{most}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" fill="currentColor"'
        f' font-size="11"><title>best of n</title>{"".join(lines)}{ends}</svg>'
    )


def _drawn(k: int, name: Sequence[object] | None, part: pl.DataFrame, at: Any) -> list[str]:
    """The line of one curve, the area of its interval, and its name."""
    colour = _COLOURS[k % len(_COLOURS)]
    rows = part.sort("n").select("n", "low", "best", "high").rows()
    line = " ".join(at(n, best) for n, _, best, _ in rows)
    drawn = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    sure = [(n, low, high) for n, low, _, high in rows if low is not None and high is not None]
    if sure:
        edge = [at(n, high) for n, _, high in sure] + [at(n, low) for n, low, _ in sure[::-1]]
        drawn.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" opacity="0.15"/>')
    if name is not None:
        words = html.escape(shown(str(name[0])))
        x, y = _EDGE + 4, 14 + 13 * k
        key = f'points="{x},{y - 4} {x + 14},{y - 4}" stroke="{colour}" stroke-width="3"'
        drawn.append(f'<polyline {key}/><text x="{x + 18}" y="{y}">{words}</text>')
    return drawn
