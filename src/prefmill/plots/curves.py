"""Best-of-n curves as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmill.plots.files import Plotted, Publish, drawn, published
from prefmill.plots.legends import add_colours, add_styles, fits_inside
from prefmill.plots.marks import band, halving, has_intervals, line, one_line, parts_of
from prefmill.plots.style import COLOURS, INK, colours_of

if TYPE_CHECKING:
    from prefmill.runs.looks.curve import Curve


def plot_curve(
    curve: Curve, path: str | Path, *, overwrite: bool = False, publish: Publish = published
) -> Plotted:
    """Draw best-of-n curves, and below what they cost in KL.

    Best (with its interval), median and mean score stand against n. Of a checked curve it is the
    share that is right, by each way of choosing. Raises what `plot_lines` raises.
    """
    if curve.check is None:
        draw, size = _draw_curve, (7.2 if curve.by else 6.4, 5.0)
    else:
        draw, size = _draw_checked, (7.2, 4.2)
    return drawn(
        lambda figure: draw(figure, curve),
        curve.points,
        path,
        size=size,
        overwrite=overwrite,
        publish=publish,
    )


def _draw_curve(figure: Any, curve: Curve) -> None:
    points, parts = curve.points, parts_of(curve.points, curve.by)
    colours = colours_of(len(parts))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    marker = "o" if points["n"].n_unique() <= 8 else ""
    strength = 0.15 if len(parts) < 3 else 0.09
    for (_, part), colour in zip(parts, colours, strict=True):
        band(top, part, "n", "low", "high", colour, strength=strength)
        line(top, part, "n", "mean", colour, width=1.0, style=":")
        line(top, part, "n", "median", colour, width=1.2, style="--")
        line(top, part, "n", "best", colour, marker=marker)
    longest = max((part for _, part in parts), key=lambda part: part.height)
    line(bottom, longest, "n", "kl", INK)
    interval = f" ({100 * curve.level:g} % interval)" if has_intervals(points) else ""
    styles = {f"best of n{interval}": "-", "median of n": "--", "mean": ":"}
    add_styles(figure, top, styles, lines=len(parts), ink=INK if len(parts) > 1 else COLOURS[0])
    if curve.by is not None:
        add_colours(figure, one_line(curve.by), [name for name, _ in parts], colours)
    halving(bottom, points["n"])
    top.set(ylabel="score")
    bottom.set(xlabel="n, samples of a prompt", ylabel="KL (nats)")
    bottom.set_ylim(bottom=0)
    figure.align_ylabels()


#: How the ways of choosing one of n are drawn where a check says what is right.
_WAYS = {"passed": ("pass@n", "--"), "picked": ("best score", "-"), "majority": ("majority", ":")}


def _draw_checked(figure: Any, curve: Curve) -> None:
    """What each way of choosing one of n is worth; colours are ways, or values of `by`."""
    points, parts = curve.points, parts_of(curve.points, curve.by)
    axes = figure.add_subplot()
    ways = {way: how for way, how in _WAYS.items() if way in points.columns}
    colours = colours_of(len(parts) if curve.by is not None else len(ways))
    marker = "o" if points["n"].n_unique() <= 8 else ""
    for place, (name, part) in enumerate(parts):
        for number, (way, (text, style)) in enumerate(ways.items()):
            colour = colours[number if curve.by is None else place]
            label = text if curve.by is None else f"{name}: {text}"
            line(axes, part, "n", way, colour, label=label, style=style, marker=marker)
            band(axes, part, "n", f"{way}_low", f"{way}_high", colour, strength=0.09)
    halving(axes, points["n"])
    axes.set(xlabel="n, samples of a prompt", ylabel=f"mean of {one_line(str(curve.check))}")
    labels = axes.get_legend_handles_labels()[1]
    if curve.by is None or fits_inside(labels):
        axes.legend(loc="best")
    else:
        add_colours(figure, one_line(curve.by), [name for name, _ in parts], colours)
        add_styles(figure, axes, dict(ways.values()), lines=len(labels))
