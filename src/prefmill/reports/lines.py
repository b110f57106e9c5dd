"""Numbers over a few places in a row, as lines: a picture for the page, tracks for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: How the lines of one picture are told apart, without colour too: dashes, and signs of a track.
_DASHES = ("", "6 4", "2 4")
_SIGNS = "●○│"
_TRACK = 40  # characters


@dataclass(frozen=True)
class Line:
    """One line: a value for each place, None where there is none; `low` to `high` is its band."""

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Lines:
    """Lines over the places `labels`; `axis` says what a place is."""

    caption: str
    labels: Sequence[str]
    lines: Sequence[Line]
    axis: str

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number of all lines and bands; of none 0 and 0."""
        series = [each for line in self.lines for each in (line.values, line.low, line.high)]
        known = [value for values in series for value in values if value is not None]
        return (min(known), max(known)) if known else (0.0, 0.0)


def picture(lines: Lines) -> str:
    """The lines as what stands inside of an SVG of 100 by 100, which is stretched as it likes."""
    low, high = lines.ends
    reach, wide = (high - low) or 1.0, max(1, len(lines.labels) - 1)

    def at(place: int, value: float) -> tuple[float, float]:
        return 2 + 96 * place / wide, 96 - 92 * (value - low) / reach

    drawn = []
    for number, line in enumerate(lines.lines):
        name = f"l{number % len(_DASHES)}"
        band = _band(line)
        if len(band) > 1:
            edge = [at(place, top) for place, _, top in band]
            edge += [at(place, bottom) for place, bottom, _ in reversed(band)]
            drawn.append(f'<polygon class="{name}" points="{_points(edge)}"/>')
        known = [at(*each) for each in _known(line.values)]
        dash = _DASHES[number % len(_DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        drawn.append(f'<polyline class="{name}"{dashed} points="{_points(known)}"/>')
        # A line without length has round ends only: a dot, whatever the picture is stretched to.
        drawn += [f'<path class="{name}" d="M{x:.2f} {y:.2f}h0"/>' for x, y in known]
    return "".join(drawn)


def legend(lines: Lines) -> list[tuple[str, str]]:
    """The class and the name of each line, where there are several."""
    if len(lines.lines) < 2:
        return []
    return [(f"l{number % len(_DASHES)}", line.name) for number, line in enumerate(lines.lines)]


def tracks(lines: Lines) -> Iterator[str]:
    """The lines from left (least) to right (largest), a track for each place."""
    low, high = lines.ends
    reach = (high - low) or 1.0

    def at(value: float) -> int:
        return round((value - low) / reach * (_TRACK - 1))

    signs = [f"{sign} {line.name}" for sign, line in zip(_SIGNS, lines.lines, strict=False)]
    first = lines.lines[0]
    band = f", ─ interval of {first.name}" if _band(first) else ""
    yield f"-- {lines.caption} ({', '.join(signs)}{band})"
    width = max([*map(len, lines.labels), len(lines.axis)])
    for place, label in enumerate(lines.labels):
        cells = [" "] * _TRACK
        for start, bottom, top in _band(first):
            if start == place:
                cells[at(bottom) : at(top) + 1] = "─" * (at(top) + 1 - at(bottom))
        for line, sign in reversed([*zip(lines.lines, _SIGNS, strict=False)]):
            if (value := line.values[place]) is not None:
                cells[at(value)] = sign
        yield f"  {label:>{width}}  {''.join(cells)}".rstrip()
    least, most = f"{low:.4g}", f"{high:.4g}"
    yield f"  {lines.axis:>{width}}  {least}{most:>{_TRACK - len(least)}}"


def _known(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(place, value) for place, value in enumerate(values) if value is not None]


def _band(line: Line) -> list[tuple[int, float, float]]:
    both = zip(line.low, line.high, strict=True)
    return [
        (place, low, high)
        for place, (low, high) in enumerate(both)
        if low is not None and high is not None
    ]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
