"""Lines against any x, and small plots of them next to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.errors import BadArgument, ColumnMissing
from prefmill.plots.files import Plotted, Publish, drawn, published
from prefmill.plots.legends import add_colours, fits_inside
from prefmill.plots.marks import band, line, one_line, parts_of, whole_numbers
from prefmill.plots.style import COLOURS, colours_of


@dataclass(frozen=True)
class Panel:
    """One of several small plots over the same x.

    lines      columns, and what the legend calls them; `X_low` to `X_high` is the band of column X
    level      a dashed line to compare with
    from_zero  whether the axis begins at 0
    """

    title: str
    lines: Mapping[str, str] = field(default_factory=dict)
    level: float | None = None
    from_zero: bool = False


def plot_lines(
    frame: pl.DataFrame,
    path: str | Path,
    *,
    x: str,
    y: str,
    series: str | None = None,
    low: str | None = None,
    high: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    title: str | None = None,
    overwrite: bool = False,
    publish: Publish = published,
) -> Plotted:
    """Draw `y` against `x`, a line for every value of `series`, with `low` to `high` as a band.

    Reward across stages, say: `x="stage", y="reward", series="trained on"`. The picture is `path`
    (.png or .svg); the numbers are the file next to it that ends in .csv. Lines come in the order
    of their first row; nulls of `y` are gaps. Labels default to the columns' names.

    Raises `BadArgument`, `ColumnMissing`, `TargetExists`, `MissingPackage`.

    >>> import tempfile
    >>> stages = pl.DataFrame({"stage": [0, 1], "reward": [0.1, 0.6], "samples": ["best", "best"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = plot_lines(stages, f"{folder}/a.svg", x="stage", y="reward", series="samples")
    ...     "best" in Path(done.picture).read_text(), pl.read_csv(done.data).equals(stages)
    (True, True)
    """
    columns = [name for name in (x, y, series, low, high) if name is not None]
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ColumnMissing(
            f"plot: no column {missing[0]!r}; got {frame.columns}.", hint="name another column."
        )
    if (low is None) != (high is None):
        raise BadArgument(f"plot: an interval has two ends; got low={low!r} and high={high!r}.")
    parts = parts_of(frame, series)
    names, colours = [name for name, _ in parts], colours_of(len(parts))
    inside = series is None or fits_inside(names)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, part), colour in zip(parts, colours, strict=True):
            line(axes, part, x, y, colour, label=name, marker="o")
            if low and high:
                band(axes, part, x, low, high, colour)
        whole_numbers(axes, frame[x])
        axes.set(xlabel=x_label or x, ylabel=y_label or y)
        if title:
            axes.set_title(title)
        if series is not None and inside:
            axes.legend(title=series, alignment="left")
        elif series is not None:
            add_colours(figure, one_line(series), names, colours)

    size = (6.4 if inside else 7.6, 4.0)
    return drawn(draw, frame, path, size=size, overwrite=overwrite, publish=publish)


def plot_panels(
    frame: pl.DataFrame,
    path: str | Path,
    panels: Sequence[Panel],
    *,
    x: str,
    overwrite: bool = False,
) -> Plotted:
    """Draw small plots over `x` next to each other; a panel or line without numbers is left out.

    Raises what `plot_lines` raises.
    """
    known = {name for name in frame.columns if frame[name].null_count() < frame.height}
    shown = [panel for panel in panels if known & set(panel.lines)]
    across = max(1, min(3, len(shown)))
    down = math.ceil(len(shown) / across)

    def draw(figure: Any) -> None:
        for place, panel in enumerate(shown, start=1):
            axes = figure.add_subplot(down, across, place)
            for (name, label), colour in zip(panel.lines.items(), COLOURS, strict=False):
                if name not in known:
                    continue
                line(axes, frame, x, name, colour, label=label, marker="o")
                if {f"{name}_low", f"{name}_high"} <= known:
                    band(axes, frame, x, f"{name}_low", f"{name}_high", colour)
            if panel.level is not None:
                axes.axhline(panel.level, color="grey", linewidth=0.8, linestyle="--")
            if panel.from_zero:
                axes.set_ylim(bottom=0)
            whole_numbers(axes, frame[x])
            axes.set_title(panel.title)
            axes.set_xlabel(x)
            if len(panel.lines) > 1:
                axes.legend()

    size = (4.2 * across, 3.2 * down)
    return drawn(draw, frame, path, size=size, overwrite=overwrite)
