"""The demo's parts: its feedback is the same every time, flaws and all; its reward model trains,
and scoring reads the same tokens.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAN = pm.Pairs(
    strategy="all", chosen_min=None, rejected_below=None, min_margin=2, max_pairs_per_prompt=3
)


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, example("make_feedback").make(folder)


def test_feedback_is_the_same_every_time(made, tmp_path):
    make = example("make_feedback").make
    make(tmp_path / "again")
    make(tmp_path / "other", seed=1)
    first, again, other = tables(made[0]), tables(tmp_path / "again"), tables(tmp_path / "other")
    assert set(first) == {"feedback", "unseen", "pool", "truth"}
    for name, frame in first.items():
        assert frame.equals(again[name]), name
        assert not frame.equals(other[name]), name


def test_planted_flaws_are_counted(made, tmp_path):
    folder, flaws = made
    report = pm.run(PLAN, folder / "feedback.parquet", tmp_path / "pairs.parquet")
    assert {name: report.dropped[name] for name in flaws} == flaws
    assert report.dropped["tie"] > 0
    assert report.rows_in == report.rows_used + report.rows_not_selected + sum(
        report.dropped.values()
    )


def test_the_unseen_is_unseen_and_every_pool_has_eight(made):
    first = tables(made[0])
    prompts = {name: set(frame["prompt"].drop_nulls()) for name, frame in first.items()}
    assert not prompts["feedback"] & (prompts["unseen"] | prompts["pool"])
    assert not prompts["unseen"] & prompts["pool"]
    assert first["pool"].group_by("prompt").len()["len"].unique().to_list() == [8]
    assert first["pool"].select("prompt", "completion").is_unique().all()
    assert first["truth"].group_by("prompt").agg(pl.col("quality").max())["quality"].min() > 4


def test_length_does_not_tell(made, tmp_path):
    pm.run(PLAN, made[0] / "unseen.parquet", tmp_path / "pairs.parquet")
    pairs = pl.read_parquet(tmp_path / "pairs.parquet")
    longer, same = (
        compare(pairs["chosen"].str.len_chars(), pairs["rejected"].str.len_chars()).mean()
        for compare in (pl.Series.gt, pl.Series.eq)
    )
    assert pairs.height > 200
    assert longer + same / 2 < 0.65


def test_summary_of_perfect_scores(made):
    truth = pl.read_parquet(made[0] / "truth.parquet")
    scored = truth.select("prompt", "completion", score=pl.col("quality"))
    best = scored.sort("score").group_by("prompt", maintain_order=True).last()
    said = example("demo").summary(scored, best, truth)
    rows = {
        line.strip().split("  ")[0]: line.split()[-2:]
        for line in said.splitlines()
        if line.endswith("%")
    }
    assert rows["best of 8 by the reward model"] == rows["the truly best (the ceiling)"]
    assert rows["best of 8 by the reward model"][1] == "100%"
    assert (
        float(rows["the worst by the reward model"][0])
        < float(rows["any of the 8 (random)"][0])
        < 4
    )


def test_the_demo_stops_at_a_failing_command(capsys):
    demo = example("demo")
    demo.run("python -c 'print(1)'")
    with pytest.raises(SystemExit, match="exit code 3"):
        demo.run("python -c 'raise SystemExit(3)'")
    assert "$ python -c 'print(1)'" in capsys.readouterr().out
