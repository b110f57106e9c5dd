"""The files that say what a loop came to: `stages.parquet`, `report.md` and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.loops import plot as stage_plot
from prefmill.loops.figures import columns_of
from prefmill.loops.findings import findings
from prefmill.loops.folder import RunFolder
from prefmill.loops.recipe import Recipe

Row = Mapping[str, Any]

#: columns of the table that people see: the figure of each heading
HEADINGS = {
    "mean reward": "reward_mean",
    "median": "reward_median",
    "best": "reward_best",
    "wins": "win",
    "second judge": "second_mean",
    "second wins": "second_win",
    "KL": "kl",
    "tokens": "tokens",
    "cut off": "cut_off",
    "distinct-1": "distinct_1",
    "distinct-2": "distinct_2",
}
_WITH_INTERVAL = ("reward_mean", "win", "second_mean", "second_win", "kl")
_SHARES = ("win", "second_win", "cut_off")
NOTES = (
    "Stage s is the policy after s trainings; stage 0 is the model that the loop began with.",
    "Reward: mean over prompts of the mean (median, largest) score of a prompt's answers;"
    " intervals are 95 %, by bootstrap over prompts.",
    "Wins: every answer of a prompt against every one of stage 0 to it, ties half, mean over"
    " prompts; Wilson interval for as many trials as there are prompts.",
    "KL: mean of log p(y) - log p_0(y) over answers y of the policy, in nats per answer. An"
    " estimate may be below 0.",
    "distinct-n: distinct n-grams over all n-grams (Li et al. 2016); it falls with length by"
    " itself.",
)


def write_report(
    run: RunFolder,
    rows: Sequence[Row],
    recipe: Recipe,
    counts: Mapping[str, int],
    stopped: str | None,
    *,
    plot: bool = True,
) -> list[str]:
    """The report's files in the run's folder, where anything is new; the findings."""
    sentences = findings(rows, stopped)
    table, report = _table_of(rows), run.folder / "report.md"

    def text(drawn: str | None) -> str:
        return _markdown(rows, sentences, recipe, counts, drawn)

    # The last step may be done and the report not: a run was killed between the two.
    stands = not run.ran and report.exists() and _is_table(run.folder / "stages.parquet", table)
    told = report.read_text("utf-8") if stands else None
    if told == text(stage_plot.PICTURE) or (told == text(None) and not stage_plot.can_draw()):
        return sentences
    run.write("stages.parquet", table.write_parquet)
    new = text(stage_plot.draw(run, rows) if plot else None)
    run.write("report.md", lambda path: path.write_text(new, encoding="utf-8"))
    return sentences


def _is_table(path: Path, table: pl.DataFrame) -> bool:
    return path.exists() and pl.read_parquet(path).equals(table)


def _table_of(rows: Sequence[Row]) -> pl.DataFrame:
    names = [name for name in columns_of(rows) if name != "seconds"]
    steps = _steps_of(rows)
    table = []
    for row in rows:
        seconds = {f"seconds_{step.replace('/', '_')}": row["seconds"].get(step) for step in steps}
        table.append({**{name: row.get(name) for name in names}, **seconds})
    return pl.DataFrame(table, infer_schema_length=None)


def _steps_of(rows: Sequence[Row]) -> list[str]:
    return columns_of(row["seconds"] for row in rows)


def cells(row: Row, *, intervals: bool = True) -> dict[str, str]:
    """The figures of a stage as text, by heading; "" for what is not measured."""
    shown = {"stage": str(row["stage"])}
    for heading, name in HEADINGS.items():
        shown[heading] = _shown(name, row.get(name))
        if intervals and name in _WITH_INTERVAL and row.get(f"{name}_low") is not None:
            low, high = (_shown(name, row[f"{name}_{end}"]) for end in ("low", "high"))
            shown[heading] += f" ({low} to {high})"
    return shown


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.4g}"


def _markdown(
    rows: Sequence[Row],
    sentences: Sequence[str],
    recipe: Recipe,
    counts: Mapping[str, int],
    drawn: str | None,
) -> str:
    shown = [cells(row) for row in rows]
    used = [heading for heading in shown[0] if any(row[heading] for row in shown)]
    held_out = _table(used, [[row[heading] for heading in used] for row in shown])
    if drawn:
        held_out += ["", f"![stages]({drawn})"]
    prompts = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
    sections = {
        "# Rejection sampling in stages": [f"- {each}" for each in sentences],
        "## Held-out prompts, by policy": held_out,
        "## What was trained on": _trained(rows),
        "## Prompts": [f"{prompts}."],
        "## Time": _times(rows),
        "## How to read this": [f"- {note}" for note in NOTES],
        "## Recipe": ["```json", recipe.as_text(), "```"],
    }
    return "\n".join("\n".join([title, "", *body, ""]) for title, body in sections.items())


def _trained(rows: Sequence[Row]) -> list[str]:
    headings = ("pool mean", "pool best of K", "cut off", "rows selected", "their mean")
    body = [
        [
            str(row["stage"]),
            f"{row['pool_mean']:.4g}",
            f"{row['pool_best']:.4g}",
            _shown("cut_off", row["pool_cut_off"]),
            str(row["selected_rows"]),
            f"{row['selected_mean']:.4g}",
            row.get("selected_from", ""),
        ]
        for row in rows
        if row.get("selected_rows") is not None and row.get("pool_mean") is not None
    ]
    return _table(["stage", *headings, "from stages"], body) if body else ["Nothing yet."]


def _times(rows: Sequence[Row]) -> list[str]:
    steps = _steps_of(rows)
    body = []
    for row in rows:
        seconds = [f"{row['seconds'].get(step, 0):.1f}" for step in steps]
        body.append([str(row["stage"]), *seconds])
    table = _table(["stage", *steps], body)
    return [*table, "", "Seconds of wall time, of the process that finished the step."]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *rows]]
