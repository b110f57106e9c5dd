"""What a loop's stages came to: the rule that stops it, findings in sentences, `report.md`,
`stages.parquet` and a plot.

The report says what the figures say, good or bad: a difference counts as one only where its 95 %
interval leaves 0 out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prefmill.loops import plot as stage_plot
from prefmill.loops.figures import columns_of
from prefmill.loops.folder import RunFolder
from prefmill.loops.recipe import Recipe, StopSection

Row = Mapping[str, Any]

_MUCH = 0.15  # a change of length or diversity by this share is told
_CUT_OFF = 0.1
_MANY_CUT_OFF = 0.25


def stop_rule(rows: Sequence[Row], stop: StopSection) -> str | None:
    """The rule by which the stages so far end the loop, in words, or None.

    >>> stop_rule([{"stage": 0, "reward_mean": 1.0}, {"stage": 1, "reward_mean": 0.5, "kl": 3.0}], StopSection(max_kl=2))
    'stage 1: KL estimate 3 nats per answer, over max_kl 2'
    """
    last = rows[-1]
    kl = last.get("kl")
    if stop.max_kl is not None and kl is not None and kl > stop.max_kl:
        return f"stage {last['stage']}: KL estimate {kl:.4g} nats per answer, over max_kl {stop.max_kl:g}"
    best = best_stage(rows)
    if stop.patience is not None and last["stage"] - best >= stop.patience:
        waited = last["stage"] - best
        return f"stage {last['stage']}: no held-out reward above that of stage {best} for {waited} stages, patience {stop.patience}"
    return None


def best_stage(rows: Sequence[Row]) -> int:
    """The stage with the largest mean reward on held-out prompts; the earliest of equals."""
    means = [-math.inf if row.get("reward_mean") is None else row["reward_mean"] for row in rows]
    return int(rows[means.index(max(means))]["stage"])


def findings(rows: Sequence[Row], stopped: str | None) -> list[str]:
    """What happened, in sentences, from the figures alone."""
    first, last = rows[0], rows[-1]
    said = [f"Stopped early at {stopped}."] if stopped else []
    if len(rows) == 1:
        return [*said, "Only stage 0 is measured so far: nothing was trained, or not yet."]
    ways = {}
    for prefix, judge, name in (
        ("", "the model that selected", "reward_mean"),
        ("second_", "the second judge, which selection never saw", "second_mean"),
    ):
        if last.get(f"{prefix}gain") is None:
            continue
        ways[prefix] = _way(last, prefix)
        interval = ""
        if last.get(f"{prefix}gain_low") is not None:
            interval = f", 95 % interval {last[f'{prefix}gain_low']:+.4g} to {last[f'{prefix}gain_high']:+.4g} over {last['prompts']} prompts"
        verb = {
            "up": "rose",
            "down": "fell",
            "same": "did not move by more than these prompts can show",
        }[ways[prefix]]
        said.append(
            f"Under {judge}, the mean over held-out prompts {verb}: {first[name]:.4g} at stage 0, {last[name]:.4g} at stage {last['stage']}"
            f" (difference {last[f'{prefix}gain']:+.4g}{interval}); it wins {100 * last[f'{prefix}win']:.1f} % of comparisons with stage 0"
            f" ({100 * last[f'{prefix}win_low']:.1f} to {100 * last[f'{prefix}win_high']:.1f} %)."
        )
    said += (
        [verdict]
        if (verdict := _VERDICTS.get((ways.get("", ""), ways.get("second_", "none"))))
        else []
    )
    best = best_stage(rows)
    if best != last["stage"]:
        said.append(f"The largest mean reward is that of stage {best}, not of the last stage.")
    said += _drift(first, last)
    for row in rows:
        if (row.get("pool_cut_off") or 0) > _MANY_CUT_OFF and row.get("selected_mean") is not None:
            said.append(
                f"{100 * row['pool_cut_off']:.0f} % of the samples of stage {row['stage']} were cut off. What was trained on has a mean"
                f" score of {row['selected_mean']:.4g}; of the samples the mean is {row['pool_mean']:.4g}, of the best of each prompt"
                f" {row['pool_best']:.4g}: more max_new_tokens, or a stop string, lets selection choose among more."
            )
    return said


_VERDICTS = {
    ("up", "up"): "Both judges prefer the last policy: no sign of reward hacking here.",
    (
        "up",
        "down",
    ): "The judge that selected likes the last policy better and the second one likes it less: this is what reward hacking looks like.",
    (
        "up",
        "same",
    ): "The second judge does not confirm the gain: it may be real and small, or particular to the model that selected.",
    (
        "up",
        "none",
    ): "No second judge was given, so nothing here can tell a gain from reward hacking.",
    ("same", "down"): "Training moved only the second judge, and downwards.",
    ("same", "up"): "Only the second judge sees a gain, which selection did not aim at.",
    (
        "down",
        "down",
    ): "Both judges like the last policy less: training did harm. A smaller learning rate or fewer epochs may help.",
    (
        "down",
        "up",
    ): "The judges disagree: the one that selected sees a loss, the second one a gain.",
    (
        "down",
        "same",
    ): "Training lowered the reward that it selected for. A smaller learning rate or fewer epochs may help.",
    (
        "down",
        "none",
    ): "Training lowered the reward that it selected for. A smaller learning rate or fewer epochs may help.",
}


def _way(row: Row, prefix: str) -> str:
    low, high = row.get(f"{prefix}gain_low"), row.get(f"{prefix}gain_high")
    if low is None or high is None:
        return "same"
    return "up" if low > 0 else "down" if high < 0 else "same"


def _drift(first: Row, last: Row) -> list[str]:
    """What changed beside the rewards: length, cut-off answers, diversity, distance."""
    said = []
    unit = (
        "tokens" if first.get("tokens") is not None and last.get("tokens") is not None else "chars"
    )
    if first[unit] and abs(last[unit] / first[unit] - 1) > _MUCH:
        grew = "longer" if last[unit] > first[unit] else "shorter"
        said.append(
            f"Answers became {grew}: {first[unit]:.0f} {unit} at stage 0, {last[unit]:.0f} at stage {last['stage']};"
            " a judge that looks at length would see that as well."
        )
    cut = [row.get("cut_off") or 0.0 for row in (first, last)]
    if max(cut) > _CUT_OFF:
        said.append(
            f"{100 * cut[0]:.0f} % of held-out answers were cut off at stage 0 and {100 * cut[1]:.0f} % at"
            f" stage {last['stage']}: their scores and their KL are those of unfinished answers."
        )
    if (
        first.get("distinct_2")
        and last.get("distinct_2")
        and abs(last["distinct_2"] / first["distinct_2"] - 1) > _MUCH
    ):
        fell = last["distinct_2"] < first["distinct_2"]
        why = (
            " Longer text has fewer distinct ones by itself."
            if fell and last[unit] > first[unit]
            else ""
        )
        said.append(
            f"Distinct bigrams {'fell' if fell else 'rose'} from {first['distinct_2']:.3f} to {last['distinct_2']:.3f} of all.{why}"
        )
    if last.get("kl") is not None:
        per_token = (
            f", {last['kl_per_token']:.3g} per token"
            if last.get("kl_per_token") is not None
            else ""
        )
        said.append(
            f"The last policy is about {last['kl']:.3g} nats per answer{per_token} from stage 0 (KL estimate)."
        )
    return said


# -- files
# ------------------------------------------------------------------------------------------------------------------------------


def write(
    run: RunFolder,
    rows: Sequence[Row],
    recipe: Recipe,
    counts: Mapping[str, int],
    stopped: str | None,
    *,
    plot: bool = True,
) -> list[str]:
    """`stages.parquet`, `report.md` and, where matplotlib is there, `stages.png` in the run's
    folder; the findings.
    """
    if not run.ran and (run.folder / "report.md").exists():  # nothing is new
        return findings(rows, stopped)
    names = [name for name in columns_of(rows) if name != "seconds"]
    steps = columns_of([row["seconds"] for row in rows])
    table = pl.DataFrame(
        [
            {
                **{name: row.get(name) for name in names},
                **{f"seconds_{name.replace('/', '_')}": row["seconds"].get(name) for name in steps},
            }
            for row in rows
        ],
        infer_schema_length=None,
    )
    run.write("stages.parquet", table.write_parquet)
    said = findings(rows, stopped)
    drawn = stage_plot.draw(run, rows) if plot else None
    text = _markdown(rows, said, recipe, counts, drawn)
    run.write("report.md", lambda path: path.write_text(text, encoding="utf-8"))
    return said


#: heading, value, interval: columns of the table that people see
TABLE = (
    ("mean reward", "reward_mean", True),
    ("median", "reward_median", False),
    ("best", "reward_best", False),
    ("wins", "win", True),
    ("second judge", "second_mean", True),
    ("second wins", "second_win", True),
    ("KL", "kl", True),
    ("tokens", "tokens", False),
    ("cut off", "cut_off", False),
    ("distinct-1", "distinct_1", False),
    ("distinct-2", "distinct_2", False),
)
#: of these, those that fit into a terminal
SHORT = {
    "mean reward": "reward",
    "wins": "wins",
    "second judge": "second",
    "second wins": "second wins",
    "KL": "KL",
    "tokens": "tokens",
    "distinct-2": "distinct-2",
}
_SHARES = ("win", "second_win", "cut_off")


def cells(row: Row, *, intervals: bool = True) -> dict[str, str]:
    """The figures of a stage as text, by heading; "" for what is not measured."""
    told = {"stage": str(row["stage"])}
    for heading, name, spread in TABLE:
        value = row.get(name)
        if value is None:
            told[heading] = ""
            continue
        told[heading] = _shown(name, value)
        if intervals and spread and row.get(f"{name}_low") is not None:
            told[heading] += (
                f" ({_shown(name, row[f'{name}_low'])} to {_shown(name, row[f'{name}_high'])})"
            )
    return told


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.4g}"


def _markdown(
    rows: Sequence[Row],
    said: Sequence[str],
    recipe: Recipe,
    counts: Mapping[str, int],
    drawn: str | None,
) -> str:
    shown = [cells(row) for row in rows]
    used = [heading for heading in shown[0] if any(row[heading] for row in shown)]
    lines = [
        "# Rejection sampling in stages",
        "",
        *(f"- {each}" for each in said),
        "",
        "## Held-out prompts, by policy",
        "",
    ]
    lines += _table(used, [[row[heading] for heading in used] for row in shown])
    if drawn:
        lines += ["", f"![stages]({drawn})"]
    lines += ["", "## What was trained on", ""]
    trained = [
        row
        for row in rows
        if row.get("selected_rows") is not None and row.get("pool_mean") is not None
    ]
    headings = [
        "stage",
        "pool mean",
        "pool best of K",
        "cut off",
        "rows selected",
        "their mean",
        "from stages",
    ]
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
        for row in trained
    ]
    lines += _table(headings, body) if body else ["Nothing yet."]
    lines += [
        "",
        "## Prompts",
        "",
        ", ".join(f"{name} {number:,}" for name, number in counts.items() if number) + ".",
        "",
        "## Time",
        "",
    ]
    seconds = [
        [
            str(row["stage"]),
            *(
                f"{row['seconds'].get(name, 0):.1f}"
                for name in columns_of([r["seconds"] for r in rows])
            ),
        ]
        for row in rows
    ]
    lines += _table(["stage", *columns_of([r["seconds"] for r in rows])], seconds)
    lines += [
        "",
        "Seconds of wall time, of the process that finished the step.",
        "",
        "## How to read this",
        "",
        *_NOTES,
        "",
    ]
    lines += ["## Recipe", "", "```json", recipe.as_text(), "```", ""]
    return "\n".join(lines)


_NOTES = (
    "- Stage s is the policy after s trainings; stage 0 is the model that the loop began with.",
    "- Reward: mean over prompts of the mean (median, largest) score of a prompt's answers; intervals are 95 %, by bootstrap over prompts.",
    "- Wins: every answer of a prompt against every one of stage 0 to it, ties half, mean over prompts; Wilson interval for as many trials"
    " as there are prompts.",
    "- KL: mean of log p(y) - log p_0(y) over answers y of the policy, in nats per answer. An estimate may be below 0.",
    "- distinct-n: distinct n-grams over all n-grams (Li et al. 2016); it falls with length by itself.",
)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *rows]]
