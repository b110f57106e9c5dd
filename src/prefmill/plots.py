"""Pictures: lines with intervals as PNG or SVG, and their numbers next to them as CSV.

Matplotlib is loaded for it, without a display.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from prefmill.disk.targets import Publisher, check_free, shown, staging, target_of
from prefmill.errors import BadArgument, ColumnMissing, MissingPackage

if TYPE_CHECKING:
    from prefmill.runs.looks.curve import Curve

PICTURES = (".png", ".svg")
# Okabe and Ito's colours, which people who see no red or no green can tell apart; yellow, too light
# for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK = "#444444"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "xtick.color": _INK,
    "ytick.color": _INK,
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
#: Publishes what is made, `overwrite` as it was given: who keeps a record does so around it.
Publish = Callable[..., None]


def _published(stage: Publisher, *, overwrite: bool) -> None:
    stage.publish(overwrite=overwrite)


@dataclass(frozen=True)
class Plotted:
    """Where a picture lies, and its numbers."""

    picture: str
    data: str


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


def check_plot(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise what drawing would raise about its target, so that no work ends in it.

    >>> check_plot("a.gif")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: plot: cannot draw such a picture; got 'a.gif', expected ...
    """
    path = target_of(path, "plot")
    if path.suffix.lower() not in PICTURES:
        raise BadArgument(
            f"plot: cannot draw such a picture; got {str(path)!r},"
            f" expected a name that ends in {' or '.join(PICTURES)}."
        )
    check_free(*files_of(path), overwrite=overwrite, where="plot")
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
    publish: Publish = _published,
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
    parts = _parts(frame, series)

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

    size = (6.4, 4.0)
    return _drawn(draw, frame, path, size=size, overwrite=overwrite, publish=publish)


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
                _line(axes, frame, x, name, colour, label=label, marker="o")
                if {f"{name}_low", f"{name}_high"} <= known:
                    _band(axes, frame, x, f"{name}_low", f"{name}_high", colour)
            if panel.level is not None:
                axes.axhline(panel.level, color="grey", linewidth=0.8, linestyle="--")
            if panel.from_zero:
                axes.set_ylim(bottom=0)
            _whole_numbers(axes, frame[x])
            axes.set_title(panel.title)
            axes.set_xlabel(x)
            if len(panel.lines) > 1:
                axes.legend()

    size = (4.2 * across, 3.2 * down)
    return _drawn(draw, frame, path, size=size, overwrite=overwrite)


def plot_curve(
    curve: Curve, path: str | Path, *, overwrite: bool = False, publish: Publish = _published
) -> Plotted:
    """Draw best-of-n curves, and below what they cost in KL.

    Best (with its interval), median and mean score stand against n. Of a checked curve it is the
    share that is right, by each way of choosing. Raises what `plot_lines` raises.
    """
    if curve.check is not None:
        size = (7.2, 4.2)
        return _drawn(
            lambda figure: _draw_checked(figure, curve),
            curve.points,
            path,
            size=size,
            overwrite=overwrite,
            publish=publish,
        )
    size = (7.2 if curve.by else 6.4, 5.0)
    return _drawn(
        lambda figure: _draw_curve(figure, curve),
        curve.points,
        path,
        size=size,
        overwrite=overwrite,
        publish=publish,
    )


def _draw_curve(figure: Any, curve: Curve) -> None:
    points, parts = curve.points, _parts(curve.points, curve.by)
    colours = _colours(len(parts))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    marker = "o" if points["n"].n_unique() <= 8 else ""
    strength = 0.15 if len(parts) < 3 else 0.09
    for (_, part), colour in zip(parts, colours, strict=True):
        _band(top, part, "n", "low", "high", colour, strength=strength)
        _line(top, part, "n", "mean", colour, width=1.0, style=":")
        _line(top, part, "n", "median", colour, width=1.2, style="--")
        _line(top, part, "n", "best", colour, marker=marker)
    longest = max((part for _, part in parts), key=lambda part: part.height)
    _line(bottom, longest, "n", "kl", _INK)
    _add_legends(figure, top, curve, [name for name, _ in parts], colours)
    _halving(bottom, points["n"])
    top.set(ylabel="score")
    bottom.set(xlabel="n, samples of a prompt", ylabel="KL (nats)")
    bottom.set_ylim(bottom=0)
    figure.align_ylabels()


#: How the ways of choosing one of n are drawn where a check says what is right.
_WAYS = {"passed": ("pass@n", "--"), "picked": ("best score", "-"), "majority": ("majority", ":")}


def _draw_checked(figure: Any, curve: Curve) -> None:
    """What each way of choosing one of n is worth; colours are ways, or values of `by`."""
    points, parts = curve.points, _parts(curve.points, curve.by)
    axes = figure.add_subplot()
    ways = {way: how for way, how in _WAYS.items() if way in points.columns}
    colours = _colours(len(parts) if curve.by is not None else len(ways))
    marker = "o" if points["n"].n_unique() <= 8 else ""
    for place, (name, part) in enumerate(parts):
        for number, (way, (text, style)) in enumerate(ways.items()):
            colour = colours[number if curve.by is None else place]
            label = text if curve.by is None else f"{name}: {text}"
            _line(axes, part, "n", way, colour, label=label, style=style, marker=marker)
            _band(axes, part, "n", f"{way}_low", f"{way}_high", colour, strength=0.09)
    _halving(axes, points["n"])
    axes.set(xlabel="n, samples of a prompt", ylabel=f"mean of {_one_line(str(curve.check))}")
    axes.legend(loc="best")


def _add_legends(
    figure: Any, axes: Any, curve: Curve, names: Sequence[str], colours: Sequence[str]
) -> None:
    """What the styles of lines mean, and outside of the axes what their colours mean."""
    from matplotlib.lines import Line2D

    interval = f" ({100 * curve.level:g} % interval)" if _has_intervals(curve.points) else ""
    styles: dict[str, Any] = {f"best of n{interval}": "-", "median of n": "--", "mean": ":"}
    ink = _INK if len(names) > 1 else COLOURS[0]
    handles = [
        Line2D([], [], color=ink, linestyle=style, label=label) for label, style in styles.items()
    ]
    if curve.by is not None:
        values = [
            Line2D([], [], color=colour, linewidth=3, label=name)
            for name, colour in zip(names, colours, strict=True)
        ]
        title = _one_line(curve.by)
        figure.legend(handles=values, title=title, alignment="left", loc="outside right upper")
    axes.legend(handles=handles, loc="best")


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
    parts = _parts(points, curve.by)
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
        interval = ", interval ─" if _has_intervals(curve.points) else ""
        return f"best of n ●, median │, mean ○{interval}"
    pairs = zip(letters, names, strict=True)
    signs = ", ".join(f"{letter} {name}" for letter, name in pairs)
    return f"best of n by {_one_line(str(curve.by))}: {signs}; * several"


def _mark_all(cells: list[str], row: Mapping[str, Any], place: Callable[[float], int]) -> None:
    if row["low"] is not None:
        first, last = place(row["low"]), place(row["high"])
        cells[first : last + 1] = "─" * (last + 1 - first)
    for name, sign in (("median", "│"), ("mean", "○"), ("best", "●")):
        cells[place(row[name])] = sign


# --- parts ---


def _has_intervals(points: pl.DataFrame) -> bool:
    return points["low"].null_count() < points.height


def _parts(frame: pl.DataFrame, by: str | None) -> list[tuple[str, pl.DataFrame]]:
    """The rows of each line, by its name."""
    if by is None:
        return [("", frame)]
    parts = frame.partition_by(by, maintain_order=True, as_dict=True)
    return [(_label(value), part) for (value,), part in parts.items()]


def _label(value: object) -> str:
    if value is None:
        return "none"
    return _one_line(f"{value:g}" if isinstance(value, float) else str(value))


def _one_line(text: str) -> str:
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
    rows = part.drop_nulls([low, high])
    if rows.height:
        ends = rows[low].to_numpy(), rows[high].to_numpy()
        axes.fill_between(rows[x].to_numpy(), *ends, color=colour, alpha=strength, linewidth=0)


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


def files_of(path: str | Path) -> list[Path]:
    """The files of a picture: itself, and its numbers.

    >>> files_of("out/curve.png")
    [PosixPath('out/curve.png'), PosixPath('out/curve.csv')]
    """
    return [Path(path), Path(path).with_suffix(".csv")]


@contextmanager
def _styled() -> Iterator[None]:
    matplotlib = _matplotlib()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A box for a letter is no reason to draw nothing.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
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
    publish: Publish = _published,
) -> Plotted:
    """Both files, at once or not at all."""
    check_plot(path, overwrite=overwrite)
    path, numbers = files_of(path)
    with staging([path, numbers], where="plot") as stage, _styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        draw(figure)
        kind = path.suffix.lower()[1:]
        # A date would give equal plots other bytes.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(stage.path(path), format=kind, metadata=metadata)
        data.write_csv(stage.path(numbers))
        publish(stage, overwrite=overwrite)
    return Plotted(shown(path), shown(numbers))
