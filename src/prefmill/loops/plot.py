"""What the plot of a loop's stages shows."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prefmill.errors import MissingPackage
from prefmill.loops.folder import RunFolder
from prefmill.plots import Panel, plot_panels

_REWARDS = {"reward_best": "best of n", "reward_mean": "mean", "reward_median": "median"}
_WINS = {"win": "selecting judge", "second_win": "second judge"}
_DISTINCT = {"distinct_1": "distinct-1", "distinct_2": "distinct-2"}
PANELS = (
    Panel("reward on held-out prompts", _REWARDS),
    Panel("second judge", {"second_mean": "mean"}),
    Panel("wins against stage 0", _WINS, level=0.5),
    Panel("answer length", {"tokens": "tokens"}, from_zero=True),
    Panel("distinct n-grams", _DISTINCT),
    Panel("KL from stage 0, nats per answer", {"kl": "estimate"}),
)

#: The file of the plot that `report.md` shows.
PICTURE = "stages.png"


def can_draw() -> bool:
    """Whether what draws is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """`stages.png`, `stages.svg` and their numbers, `stages.csv`, in the run's folder.

    The name of the first; None where matplotlib is not installed.
    """
    drawn = [name for panel in PANELS for name in panel.lines]
    names = [name for each in drawn for name in (each, f"{each}_low", f"{each}_high")]
    known = ["stage", *(name for name in names if any(name in row for row in rows))]
    table = [{name: row.get(name) for name in known} for row in rows]
    frame = pl.DataFrame(table, infer_schema_length=None)
    try:
        for kind in ("svg", "png"):
            plot_panels(frame, run.folder / f"stages.{kind}", PANELS, x="stage", overwrite=True)
    except MissingPackage:
        return None
    return PICTURE
