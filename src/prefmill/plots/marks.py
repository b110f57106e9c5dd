"""What lines are made of: the rows of each, their strokes and bands, and the ticks under them."""

from __future__ import annotations

import math
from typing import Any

import polars as pl


def parts_of(frame: pl.DataFrame, by: str | None) -> list[tuple[str, pl.DataFrame]]:
    """The rows of each line, by its name."""
    if by is None:
        return [("", frame)]
    parts = frame.partition_by(by, maintain_order=True, as_dict=True)
    return [(_label(value), part) for (value,), part in parts.items()]


def _label(value: object) -> str:
    if value is None:
        return "none"
    return one_line(f"{value:g}" if isinstance(value, float) else str(value))


def one_line(text: str) -> str:
    """A label in one line; one that begins with an underscore would be left out of legends."""
    text = " ".join(text.split())
    return f" {text}" if text.startswith("_") else text


def has_intervals(points: pl.DataFrame) -> bool:
    """Whether a curve has any: without resamples it has none."""
    return points["low"].null_count() < points.height


def line(
    axes: Any,
    part: pl.DataFrame,
    x: str,
    y: str,
    colour: str,
    *,
    label: str = "",
    width: float = 1.8,
    style: str = "-",
    marker: str = "",
) -> None:
    """The line of `y` over `x`; nulls are gaps."""
    values = part[y].cast(pl.Float64).fill_null(math.nan).to_numpy()
    axes.plot(
        part[x].to_numpy(),
        values,
        color=colour,
        linewidth=width,
        linestyle=style,
        marker=marker,
        markersize=3.5,
        label=label,
    )


def band(
    axes: Any, part: pl.DataFrame, x: str, low: str, high: str, colour: str, strength: float = 0.15
) -> None:
    """The area between the columns `low` and `high`, where both are known."""
    rows = part.drop_nulls([low, high])
    if rows.height:
        ends = rows[low].to_numpy(), rows[high].to_numpy()
        axes.fill_between(rows[x].to_numpy(), *ends, color=colour, alpha=strength, linewidth=0)


def whole_numbers(axes: Any, values: pl.Series) -> None:
    """Ticks at whole numbers only, where `values` are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    if values.dtype.is_integer():
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def halving(axes: Any, n: pl.Series) -> None:
    """A doubling of n is a step to the right; every power of two has its tick."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    most = int(n.max() or 1)  # type: ignore[arg-type]
    if most > 1:
        axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(most.bit_length())]
    if most > ticks[-1] * 1.4:
        ticks.append(most)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
