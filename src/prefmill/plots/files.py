"""Where a picture is saved: its own file, and its numbers next to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.disk.targets import Publisher, check_free, shown, staging, target_of
from prefmill.errors import BadArgument
from prefmill.plots.style import DPI, loaded_matplotlib, styled

PICTURES = (".png", ".svg")
#: Publishes what is made, `overwrite` as it was given: who keeps a record does so around it.
Publish = Callable[..., None]


def published(stage: Publisher, *, overwrite: bool) -> None:
    """Publish a picture of which nobody keeps a record."""
    stage.publish(overwrite=overwrite)


@dataclass(frozen=True)
class Plotted:
    """Where a picture lies, and its numbers."""

    picture: str
    data: str


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
    loaded_matplotlib()


def files_of(path: str | Path) -> list[Path]:
    """The files of a picture: itself, and its numbers.

    >>> files_of("out/curve.png")
    [PosixPath('out/curve.png'), PosixPath('out/curve.csv')]
    """
    return [Path(path), Path(path).with_suffix(".csv")]


def drawn(
    draw: Callable[[Any], None],
    data: pl.DataFrame,
    path: str | Path,
    *,
    size: tuple[float, float],
    overwrite: bool,
    publish: Publish = published,
) -> Plotted:
    """Draw on a new figure of `size` inches, and save both files, at once or not at all."""
    check_plot(path, overwrite=overwrite)
    path, numbers = files_of(path)
    with staging([path, numbers], where="plot") as stage, styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        draw(figure)
        kind = path.suffix.lower()[1:]
        # A date would give equal plots other bytes.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(stage.path(path), format=kind, metadata=metadata)
        data.write_csv(stage.path(numbers))
        publish(stage, overwrite=overwrite)
    return Plotted(shown(path), shown(numbers))
