"""The plot of a loop's stages, where matplotlib is installed: rewards, win rates, length and
diversity, distance from stage 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefmill.loops.folder import RunFolder

_PANELS = (
    (
        "reward on held-out prompts",
        (("reward_best", "best of n"), ("reward_mean", "mean"), ("reward_median", "median")),
    ),
    ("second judge", (("second_mean", "mean"),)),
    ("wins against stage 0", (("win", "selecting judge"), ("second_win", "second judge"))),
    ("answer length", (("tokens", "tokens"),)),
    ("distinct n-grams", (("distinct_1", "distinct-1"), ("distinct_2", "distinct-2"))),
    ("KL from stage 0, nats per answer", (("kl", "estimate"),)),
)


def draw(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """`stages.png` and `stages.svg` in the run's folder; the name of the first, or None where
    matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        return None
    from prefmill.plots import STYLE

    with rc_context(STYLE):
        return _drawn(run, rows)


def _drawn(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from prefmill.plots import COLOURS

    panels = [
        (title, lines)
        for title, lines in _PANELS
        if any(row.get(name) is not None for name, _ in lines for row in rows)
    ]
    columns = min(3, len(panels))
    depth = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * depth), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, lines) in enumerate(panels):
        axes = figure.add_subplot(depth, columns, place + 1)
        for (name, label), colour in zip(lines, COLOURS, strict=False):
            told = [row for row in rows if row.get(name) is not None]
            if not told:
                continue
            at, values = [row["stage"] for row in told], [row[name] for row in told]
            axes.plot(at, values, marker="o", label=label, color=colour)
            if all(row.get(f"{name}_low") is not None for row in told):
                axes.fill_between(
                    at,
                    [row[f"{name}_low"] for row in told],
                    [row[f"{name}_high"] for row in told],
                    alpha=0.15,
                    color=colour,
                )
        if "wins" in title:
            axes.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
        if title == "answer length":
            axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_xlabel("stage")
        axes.set_xticks([row["stage"] for row in rows])
        if len(lines) > 1:
            axes.legend()
    for kind in ("png", "svg"):
        run.write(
            f"stages.{kind}", lambda path, kind=kind: figure.savefig(path, format=kind, dpi=120)
        )  # type: ignore[misc]
    return "stages.png"
