"""Best against median and random: one recipe with several rules of selection, the same budget,
several seeds.

    python examples/compare_picks.py examples/rejection_sampling.toml -o runs/picks --seeds 3

    runs/picks/best-0, median-0, random-0, best-1, ...   a run each; killed, the same command goes
    on runs/picks/picks.json, stages.csv, picks.png         what came of them

What runs of one seed have in common (samples and scores of stage 0) is made once and taken over.
The table says for each rule the mean reward on held-out prompts after the last stage, by both
judges, and the gain over stage 0; and for best against each control the difference over all seeds
with its 95 % interval over prompts (each prompt's mean over seeds: answers to one prompt are not
independent).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import polars as pl

import prefmill as pm
from prefmill.loops.recipe import read_recipe
from prefmill.plots import plot_lines
from prefmill.rules.intervals import bootstrap


def heldout(folder: Path, stage: int) -> pl.DataFrame:
    """The answers of a stage with all their scores."""
    names = [
        name
        for name in ("kl", "second", "score")
        if (folder / f"stage-{stage}" / "heldout" / f"{name}.parquet").exists()
    ]
    return pl.read_parquet(folder / f"stage-{stage}" / "heldout" / f"{names[0]}.parquet")


def difference(
    output: Path, column: str, rules: tuple[str, str], seeds: list[int], last: dict[str, int]
) -> dict[str, float]:
    """The mean difference of `column` between two rules after their last stages, and its interval
    over prompts.
    """
    sides = []
    for rule in rules:
        answers = pl.concat(
            [
                heldout(output / f"{rule}-{seed}", last[f"{rule}-{seed}"]).select("prompt", column)
                for seed in seeds
            ]
        )
        sides.append(answers.group_by("prompt").agg(pl.col(column).mean()).sort("prompt"))
    both = sides[0].join(sides[1], on="prompt", suffix="_control")
    values = (both[column] - both[f"{column}_control"]).to_numpy()
    low, high = bootstrap(values)
    return {"difference": float(values.mean()), "low": low, "high": high, "prompts": len(values)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--pick",
        action="append",
        metavar="RULE",
        help="again for each  [default: best, median, random]",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", type=int, help="instead of the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    rules, seeds = given.pick or ["best", "median", "random"], list(range(given.seeds))
    reports: dict[str, pm.LoopReport] = {}
    for seed in seeds:
        for rule in rules:
            recipe = read_recipe(given.recipe, sets=[*given.set, f"select.pick={rule}"])
            before = [given.output / name for name in reports if name.endswith(f"-{seed}")]
            found = pm.loop(
                recipe,
                given.output / f"{rule}-{seed}",
                seed=seed,
                stages=given.stages,
                reuse=before,
            )
            reports[f"{rule}-{seed}"] = found
            print(
                f"{rule}, seed {seed}: {found.stages[-1]['reward_mean']:.4f} ({found.seconds:.0f}"
                " s)",
                flush=True,
            )
    last = {name: int(report.stages[-1]["stage"]) for name, report in reports.items()}
    judges = [
        name
        for name in ("score", "second")
        if name in heldout(given.output / f"{rules[0]}-0", 0).columns
    ]
    table = {}
    for rule in rules:
        of = [reports[f"{rule}-{seed}"].stages[-1] for seed in seeds]
        names = (
            "reward_mean",
            "gain",
            "win",
            "second_mean",
            "second_gain",
            "second_win",
            "tokens",
            "kl",
        )
        table[rule] = {
            name: sum(row[name] for row in of) / len(of)
            for name in names
            if all(row.get(name) is not None for row in of)
        }
    against = {
        f"{rules[0]} - {control}": {
            judge: difference(given.output, judge, (rules[0], control), seeds, last)
            for judge in judges
        }
        for control in rules[1:]
    }
    stages = pl.DataFrame(
        [
            {
                "stage": row["stage"],
                "reward": row["reward_mean"],
                "trained on": name.rpartition("-")[0],
            }
            for name, report in reports.items()
            for row in report.stages
        ]
    )
    of_rule = (
        stages.group_by("stage", "trained on", maintain_order=True)
        .agg(pl.col("reward").mean())
        .sort("stage", maintain_order=True)
    )
    of_rule.write_csv(given.output / "stages.csv")
    if importlib.util.find_spec("matplotlib"):
        plot_lines(
            of_rule,
            given.output / "picks.png",
            x="stage",
            y="reward",
            series="trained on",
            overwrite=True,
        )
    result = {"seeds": len(seeds), "rules": table, "differences": against}
    (given.output / "picks.json").write_text(json.dumps(result, indent=1), "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
