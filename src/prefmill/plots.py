"""Pictures: lines with intervals as PNG or SVG, the numbers beside them as CSV. Matplotlib, without
a display, is loaded for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from prefmill.disk.whole import Staging, check_free, check_name
from prefmill.errors import BadArgument, ColumnMissing, MissingPackage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefmill.runs.curve import Curve

FORMATS = (".png", ".svg")
# Okabe and Ito's colours, which people who see no red or no green can tell apart; yellow, too light
# for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.fontsize": 9,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "legend.framealpha": 0.85,
    "svg.fonttype": "none",
    "svg.hashsalt": "prefmill",
    "text.parse_math": False,
}
_DPI = 150


@dataclass(frozen=True)
class Plotted:
    """Where a picture lies, and its numbers."""

    picture: str
    data: str


def check_plot(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise what drawing would raise about its target, so that no work ends in it.

    >>> check_plot("curve.gif")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: plot: cannot draw such a picture; got 'curve.gif', expected a name that ends in .png or .svg.
    """
    check_name(path, "plot")
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise BadArgument(
            f"plot: cannot draw such a picture; got {str(path)!r}, expected a name that ends in {' or '.join(FORMATS)}."
        )
    check_free(path, _data_path(path), overwrite=overwrite, where="plot")
    _matplotlib()


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
) -> Plotted:
    """Draw `y` against `x` from the rows of `frame`, a line for every value of `series`, with `low`
    to `high` as a band.

    Reward across stages, say: `x="stage", y="reward", series="trained on"`. The picture is `path`
    (.png or .svg), the numbers are the file beside it that ends in .csv. Lines come in the order of
    their first row; nulls of `y` are gaps. Labels default to the columns' names.

    Raises `BadArgument`, `ColumnMissing`, `TargetExists`, `MissingPackage`.

    >>> import tempfile
    >>> stages = pl.DataFrame({"stage": [0, 1, 0, 1], "reward": [0.1, 0.6, 0.1, 0.3], "samples": ["best", "best", "random", "random"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plotted = plot_lines(stages, f"{folder}/stages.svg", x="stage", y="reward", series="samples")
    ...     "random" in Path(plotted.picture).read_text(), pl.read_csv(plotted.data).equals(stages)
    (True, True)
    """
    named = [name for name in (x, y, series, low, high) if name is not None]
    missing = [name for name in named if name not in frame.columns]
    if missing:
        raise ColumnMissing(
            f"plot: no column {missing[0]!r}; got {frame.columns}.", hint="name another column."
        )
    if (low is None) != (high is None):
        raise BadArgument(f"plot: an interval has two ends; got low={low!r} and high={high!r}.")
    parts = (
        [("", frame)]
        if series is None
        else [(_said(key[0]), part) for key, part in _parts(frame, series)]
    )

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, part), colour in zip(parts, _colours(len(parts)), strict=True):
            _line(axes, part, x, y, colour, label=name, marker="o")
            if low and high:
                _band(axes, part, x, low, high, colour)
        _whole_numbers(axes, frame[x])
        axes.set(xlabel=x_label or x, ylabel=y_label or y)
        if title:
            axes.set_title(title)
        if series is not None:
            axes.legend(title=series, alignment="left")

    return _drawn(draw, frame, path, size=(6.4, 4.0), overwrite=overwrite)


def plot_curve(found: Curve, path: str | Path, *, overwrite: bool = False) -> Plotted:
    """Draw best-of-n curves: best (with its interval), median and mean score against n, and below
    what they cost in KL.

    Raises what `plot_lines` raises.
    """
    points = found.points
    parts = (
        [("", points)]
        if found.by is None
        else [(_said(key[0]), part) for key, part in _parts(points, found.by)]
    )
    interval = f" ({100 * found.level:g} % interval)" if points["low"].drop_nulls().len() else ""

    def draw(figure: Any) -> None:
        from matplotlib.lines import Line2D

        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for (_, part), colour in zip(parts, _colours(len(parts)), strict=True):
            _band(top, part, "n", "low", "high", colour, strength=0.15 if len(parts) < 3 else 0.09)
            _line(top, part, "n", "mean", colour, width=1.0, style=":")
            _line(top, part, "n", "median", colour, width=1.2, style="--")
            _line(top, part, "n", "best", colour, marker="o" if points["n"].n_unique() <= 8 else "")
        longest = max((part for _, part in parts), key=lambda part: part.height)
        _line(bottom, longest, "n", "kl", "#444444")
        ink = "#444444" if len(parts) > 1 else COLOURS[0]
        kinds: Any = [(f"best of n{interval}", "-"), ("median of n", "--"), ("mean", ":")]
        handles = [Line2D([], [], color=ink, linestyle=style, label=name) for name, style in kinds]
        if found.by is not None:
            ours = zip(parts, _colours(len(parts)), strict=True)
            values = [
                Line2D([], [], color=colour, linewidth=3, label=name) for (name, _), colour in ours
            ]
            figure.legend(
                handles=values, title=_plain(found.by), alignment="left", loc="outside right upper"
            )
        top.legend(handles=handles, loc="best")
        _halving(bottom, points["n"])
        top.set(ylabel="score")
        bottom.set(xlabel="n, samples of a prompt", ylabel="KL (nats)")
        bottom.set_ylim(bottom=0)
        figure.align_ylabels()

    return _drawn(draw, points, path, size=(7.2 if found.by else 6.4, 5.0), overwrite=overwrite)


def text_curve(found: Curve, width: int = 72) -> list[str]:
    """Best-of-n curves as lines of text: a row for n = 1, 2, 4, ..., the score from left to right.

    One curve has its interval, its median and its mean beside its best; of several each best has a
    letter.

    >>> pool = pl.DataFrame({"prompt": ["p"] * 3 + ["q"] * 3, "completion": list("abcabc"), "score": [1, 2, 6, 2, 3, 7]})
    >>> from prefmill.runs.curve import curve
    >>> for line in text_curve(curve(pool, resamples=0), width=40): print(line)
    best of n ●, median │, mean ○
    n 1          ●
    n 2          ○             ●
    n 3 │        ○                         ●
        2.5                              6.5
    """
    points = found.points.filter(pl.col("best").is_not_null())
    if not points.height:
        return []
    parts = (
        [("", points)]
        if found.by is None
        else [(_said(key[0]), part) for key, part in _parts(points, found.by)]
    )
    single = len(parts) == 1
    shown = [
        points["best"],
        *((points[name] for name in ("low", "high", "median", "mean")) if single else ()),
    ]
    known = [value for column in shown for value in column.drop_nulls()]
    least, most = float(min(known)), float(max(known))
    largest = int(points["n"].max())  # type: ignore[arg-type]
    rows = sorted({2**i for i in range(largest.bit_length())} | {largest})
    head = len(f"n {largest} ")
    room = max(8, width - head)

    def place(value: float) -> int:
        return round((value - least) / ((most - least) or 1.0) * (room - 1))

    letters = [chr(ord("a") + i % 26) for i in range(len(parts))]
    lines = (
        [
            "best of n ●, median │, mean ○"
            + (", interval ─" if points["low"].drop_nulls().len() else "")
        ]
        if single
        else []
    )
    if not single:
        named = ", ".join(
            f"{letter} {name}" for letter, (name, _) in zip(letters, parts, strict=True)
        )
        lines = [f"best of n by {_plain(str(found.by))}: {named}; * several"]
    for n in rows:
        line = [" "] * room
        for letter, (_, part) in zip(letters, parts, strict=True):
            for row in part.filter(n=n).iter_rows(named=True):
                if single:
                    if row["low"] is not None:
                        first, last = place(row["low"]), place(row["high"])
                        line[first : last + 1] = "─" * (last + 1 - first)
                    line[place(row["median"])] = "│"
                    line[place(row["mean"])] = "○"
                at = place(row["best"])
                line[at] = "●" if single else letter if line[at] == " " else "*"
        lines.append(f"n {n}".ljust(head) + "".join(line).rstrip())
    ends = f"{least:.4g}", f"{most:.4g}"
    lines.append(" " * head + ends[0] + ends[1].rjust(room - len(ends[0])))
    return lines


# --- parts
# ----------------------------------------------------------------------------------------------------------------------------


def _parts(frame: pl.DataFrame, by: str) -> list[tuple[tuple[object, ...], pl.DataFrame]]:
    return list(frame.partition_by(by, maintain_order=True, as_dict=True).items())


def _said(value: object) -> str:
    return (
        "none"
        if value is None
        else _plain(f"{value:g}" if isinstance(value, float) else str(value))
    )


def _plain(text: str) -> str:
    """A label in one line; one that begins with an underscore would be left out of legends."""
    text = " ".join(text.split())
    return f" {text}" if text.startswith("_") else text


def _colours(count: int) -> Sequence[str]:
    if count <= len(COLOURS):
        return COLOURS[:count]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.9 * i / (count - 1))) for i in range(count)]


def _line(
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


def _band(
    axes: Any, part: pl.DataFrame, x: str, low: str, high: str, colour: str, strength: float = 0.15
) -> None:
    ends = part.drop_nulls([low, high])
    if ends.height:
        axes.fill_between(
            ends[x].to_numpy(),
            ends[low].to_numpy(),
            ends[high].to_numpy(),
            color=colour,
            alpha=strength,
            linewidth=0,
        )


def _whole_numbers(axes: Any, values: pl.Series) -> None:
    """Ticks at whole numbers only, where `values` are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    if values.dtype.is_integer():
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _halving(axes: Any, n: pl.Series) -> None:
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


def _data_path(path: Path) -> Path:
    return path.with_suffix(".csv")


@contextmanager
def _styled() -> Iterator[None]:
    matplotlib = _matplotlib()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font"
        )  # a box for a letter is no reason to draw nothing
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingPackage.for_extra("plot", "matplotlib", "report") from None
    return matplotlib


def _drawn(
    draw: Callable[[Any], None],
    data: pl.DataFrame,
    path: str | Path,
    *,
    size: tuple[float, float],
    overwrite: bool,
) -> Plotted:
    """Both files, at once or not at all."""
    check_plot(path, overwrite=overwrite)
    path = Path(path)
    numbers = _data_path(path)
    with Staging([path, numbers], where="plot") as staging, _styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        draw(figure)
        kind = path.suffix.lower()[1:]
        figure.savefig(
            staging.path(path), format=kind, metadata={"Date": None} if kind == "svg" else None
        )
        data.write_csv(staging.path(numbers))
        staging.publish(overwrite=overwrite)
    return Plotted(str(path), str(numbers))
