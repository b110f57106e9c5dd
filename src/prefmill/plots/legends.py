"""Legends: short ones inside the axes, others outside, where they cover no line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefmill.plots.style import INK

#: Entries of a legend inside the axes, entries for which there is room outside, letters of each.
INSIDE, OUTSIDE, LETTERS = 6, 12, 28


def fits_inside(names: Sequence[str]) -> bool:
    """Whether a legend of these entries leaves the lines in sight."""
    return len(names) <= INSIDE and all(len(name) <= LETTERS for name in names)


def add_styles(
    figure: Any, axes: Any, styles: Mapping[str, Any], *, lines: int, ink: str = INK
) -> None:
    """What the styles of lines mean; outside where there are many `lines`."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=ink, linestyle=style, label=label) for label, style in styles.items()
    ]
    if lines > INSIDE:
        figure.legend(handles=handles, alignment="left", loc="outside right lower")
    else:
        axes.legend(handles=handles, loc="best")


def add_colours(figure: Any, title: str, names: Sequence[str], colours: Sequence[str]) -> None:
    """What the colours of lines mean, outside the axes: the first, and how many more there are."""
    from matplotlib.lines import Line2D

    most = len(names) if len(names) <= OUTSIDE else OUTSIDE - 1
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=_cut(name))
        for name, colour in zip(names[:most], colours, strict=False)
    ]
    if most < len(names):
        handles.append(Line2D([], [], linestyle="", label=f"and {len(names) - most} more"))
    figure.legend(handles=handles, title=title, alignment="left", loc="outside right upper")


def _cut(name: str) -> str:
    """A name in `LETTERS`, its middle left out: names of models differ at either end."""
    if len(name) <= LETTERS:
        return name
    half = (LETTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
