"""The files train: what `prefmill.run` makes of feedback goes through TRL's own trainers, on a tiny
model, for two steps.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tiny

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[train]")
torch = pytest.importorskip("torch", reason="needs the extra prefmill[train]")
trl = pytest.importorskip("trl", reason="needs the extra prefmill[train]")


pytestmark = [
    pytest.mark.train,
    # TRL 1.16 itself uses the old names of an option that transformers 5.23 renamed.
    pytest.mark.filterwarnings(
        "ignore:`(is_)?gradient_checkpointing(_\\w+)?` is deprecated:FutureWarning"
    ),
]

ROWS = 12


def pairs(rows: int = ROWS) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [f"What is {i} plus {i}?" for i in range(rows)],
            "chosen": [f" It is {2 * i}." for i in range(rows)],
            "rejected": [f" No idea{'!' * (i % 3)}" for i in range(rows)],
            "chosen_score": [5.0] * rows,
            "rejected_score": [1.0 + i % 3 for i in range(rows)],
        }
    )


def labels(rows: int = ROWS) -> pl.DataFrame:
    every = pairs(rows)
    return pl.concat(
        every.select(
            "prompt", completion=side, label=pl.lit(side == "chosen"), score=f"{side}_score"
        )
        for side in ("chosen", "rejected")
    )


def make_file(frame: pl.DataFrame, target: Path, **options: Any) -> str:
    """Feedback whose pairs (or labels) are the rows of `frame`, through prefmill as a user would
    run it.
    """
    if "label" in frame.columns:
        plan: pm.Pairs | pm.Unpaired = pm.Unpaired()
        feedback = frame.select("prompt", "completion", "score")
    else:
        plan = pm.Pairs()
        sides = [
            frame.select("prompt", completion=side, score=f"{side}_score")
            for side in ("chosen", "rejected")
        ]
        feedback = pl.concat(sides)
    source = target.with_name(f"{target.name}-feedback.parquet")
    feedback.write_parquet(source)
    report = pm.run(plan, source, target, **options)
    assert report.pairs_out == frame.height
    return report.output[""]


def load(path: str, cache: Path) -> Any:
    if Path(path).is_dir():
        return datasets.load_from_disk(path)
    kind = "parquet" if path.endswith(".parquet") else "json"
    return datasets.load_dataset(kind, data_files=path, split="train", cache_dir=str(cache))


def train(kind: str, data: Any, folder: Path) -> Any:
    """Two steps of TRL's `kind` trainer on `data`; asserts that it took them."""
    tok = tiny.tokenizer()
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        max_length=128,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = tiny.reward_model(tok) if kind == "Reward" else tiny.causal_model(tok)
    model.save_pretrained(
        folder / "model"
    )  # DPO and KTO load their reference model from the path of the first one
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(folder / "model"), args=config, train_dataset=data, processing_class=tok
    )
    result = trainer.train()
    assert result.global_step == 2
    assert math.isfinite(result.training_loss)
    assert result.training_loss > 0
    return trainer


TARGETS = ["pairs.parquet", "pairs.jsonl", "pairs"]
LAYOUTS = {
    "standard": {},
    "conversational": {"chat": True},
    "implicit": {"format": "trl-implicit", "chat": True},
}


@pytest.mark.parametrize(
    ("layout", "target"), list(zip(LAYOUTS, TARGETS, strict=True))
)  # every layout, every kind of file
@pytest.mark.parametrize("kind", ["Reward", "DPO"])
def test_pairs_train(kind: str, layout: str, target: str, tmp_path: Path) -> None:
    data = load(make_file(pairs(), tmp_path / target, **LAYOUTS[layout]), tmp_path / "cache")
    assert data.num_rows == ROWS
    train(kind, data, tmp_path / "run")


@pytest.mark.parametrize(("chat", "target"), [(False, TARGETS[0]), (True, TARGETS[1])])
def test_labels_train(chat: bool, target: str, tmp_path: Path) -> None:
    data = load(make_file(labels(), tmp_path / target, format="kto", chat=chat), tmp_path / "cache")
    assert data.features["label"] == datasets.Value("bool")
    train("KTO", data, tmp_path / "run")


def test_margin_reaches_the_reward_loss(tmp_path: Path) -> None:
    plain = load(make_file(pairs(), tmp_path / "plain.parquet"), tmp_path / "cache")
    wide = load(make_file(pairs(), tmp_path / "wide.parquet", margin_scale=2.0), tmp_path / "cache")
    losses = [
        train("Reward", data, tmp_path / "run").state.log_history[0]["loss"]
        for data in (plain, wide)
    ]
    assert (
        losses[1] > losses[0] + 1
    )  # -log sigmoid(difference - margin): a margin of 4 and more costs more than 1


@pytest.mark.parametrize(
    ("kind", "clustered", "chat"),
    [("Reward", False, False), ("Reward", True, True), ("DPO", True, False)],
)
def test_a_stream_trains(kind: str, clustered: bool, chat: bool, tmp_path: Path) -> None:
    """Feedback as an `IterableDataset`, through prefmill, straight into the trainer: no file of
    pairs in between.
    """
    import prefmill.datasets as pmd

    told = pairs()
    feedback = pl.concat(
        [
            told.select("prompt", completion=side, score=f"{side}_score")
            for side in ("chosen", "rejected")
        ]
    )
    rows = feedback.sort("prompt", maintain_order=True).with_row_index("id")
    stream = datasets.Dataset.from_polars(rows).to_iterable_dataset(num_shards=5)
    data = pmd.pairs(stream, clustered=clustered, chat=chat)
    assert isinstance(data, datasets.IterableDataset)
    train(kind, data, tmp_path / "run")
