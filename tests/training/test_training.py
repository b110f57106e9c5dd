"""Training: what is trained on is what is scored and sampled; nothing vanishes uncounted; nothing
half is left behind.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from bases import laid_out, pairs, reward_base

import prefmill as pm
from prefmill.errors import (
    BadInput,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest.importorskip("trl", reason="needs the extra prefmill[train]")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[train]")


from prefmill.training import kinds as training  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def logits_by_ids(trainer: Any) -> dict[tuple[int, ...], float]:
    """What the trainer's model says of every row, by its ids, through the trainer's own collator
    (and so padded).
    """
    data = trainer.train_dataset
    batch = trainer.data_collator([data[i] for i in range(len(data))])
    with torch.inference_mode():
        logits = (
            trainer.model.eval()(
                **{k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
            )
            .logits[:, 0]
            .tolist()
        )
    return dict(zip(map(tuple, [*data["chosen_ids"], *data["rejected_ids"]]), logits, strict=True))


BASES = [
    ("llama", True, True),
    ("llama", True, False),
    ("llama", False, True),
    ("bert", False, True),
]


@pytest.mark.parametrize(
    ("base", "layout"),
    [
        (BASES[0], "text"),
        (BASES[0], "chat"),
        (BASES[0], "chat-implicit"),
        (BASES[1], "text"),
        (BASES[2], "text"),
        (BASES[2], "text-implicit"),
        (BASES[3], "text"),
        (BASES[3], "chat"),
    ],
)
def test_training_and_scoring_see_the_same(base, layout, home, caught, tmp_path):
    frame = pairs()
    model = reward_base(home, base[0], template=base[1], pad=base[2])
    data = laid_out(frame, layout)
    report = pm.train_reward(
        data, tmp_path / "reward", model=model, steps=2, batch_size=4, learning_rate=1e-2, holdout=0
    )
    assert (report.rows_in, report.rows_used, report.steps, report.dropped) == (16, 16, 2, {})
    said = logits_by_ids(caught["trainer"])
    scorer = pm.RewardModel(model=tmp_path / "reward", device="cpu")
    for side in ("chosen", "rejected"):
        batch = pa.record_batch(
            {"prompt": frame["prompt"].to_arrow(), "completion": frame[side].to_arrow()}
        )
        rows = scorer.encoder.encode(batch["prompt"], batch["completion"], np.arange(16)).rows
        ids = [tuple(rows.row(i).tolist()) for i in range(16)]
        assert scorer(batch).tolist() == pytest.approx([said[row] for row in ids], abs=1e-5)
        assert [said[row] for row in ids] != pytest.approx([said[ids[0]]] * 16, abs=1e-4)
    if layout.startswith("chat"):  # what TRL itself would tokenise
        trainer, tok = caught["trainer"], caught["tokenizer"]
        theirs = trainer._prepare_dataset(
            training.by_length({**data.to_dict(as_series=False), "length": [1] * 16}),
            tok,
            trainer.args,
            "t",
        )
        ours = trainer.train_dataset
        for side in ("chosen_ids", "rejected_ids"):
            assert sorted(theirs[side]) == sorted(ours[side])


def test_the_end_is_scored_where_pad_and_end_were_one_token(home, tmp_path):
    report = pm.train_reward(
        pairs(),
        tmp_path / "reward",
        model=reward_base(home, "llama", pad=False),
        steps=1,
        holdout=0,
    )
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    tok = pm.RewardModel(model=tmp_path / "reward").encoder.tokenizer
    assert config["pad_token_id"] == tok.pad_token_id != tok.eos_token_id
    assert config["vocab_size"] == len(tok)
    batch = pa.record_batch({"prompt": ["p", "q"], "completion": ["a", "bcd"]})
    ends = [
        pm.RewardModel(model=tmp_path / "reward", pooling=rule)(batch).tolist()
        for rule in ("hf", "last")
    ]
    assert ends[0] == ends[1]
    assert report.output == str(tmp_path / "reward")


def test_pairs_left_out_are_counted(home, tmp_path):
    frame = pl.concat(
        [
            pairs(8),
            pl.DataFrame(
                {
                    "prompt": ["x" * 300, "short", None, "p"],
                    "chosen": ["a", "y" * 300, "a", None],
                    "rejected": ["b"] * 4,
                    "chosen_score": [5.0] * 4,
                    "rejected_score": [1.0] * 4,
                }
            ),
        ]
    )
    told: list[str] = []
    report = pm.train_reward(
        frame,
        tmp_path / "reward",
        model=reward_base(home, "llama"),
        steps=1,
        max_length=100,
        holdout=0.4,
        seed=3,
        progress=lambda phase, share: told.append(phase),
    )
    assert report.dropped == {"null_prompt": 1, "null_completion": 1} | (
        {"too_long": report.dropped["too_long"]}
    )
    assert (
        report.rows_in
        == 12
        == report.rows_used + report.rows_held_out + sum(report.dropped.values())
    )
    (held,) = report.held_out
    assert held.pairs_in == report.rows_held_out == held.accuracy.pairs + sum(held.dropped.values())
    assert held.prompts_trained == 0
    assert report.dropped["too_long"] + held.pairs_in >= 2
    assert json.loads((tmp_path / "reward" / "prefmill.json").read_text()) == json.loads(
        json.dumps(report.as_json())
    )
    assert "too_long" in (tmp_path / "reward" / "README.md").read_text()
    assert {"reading", "measuring"} < set(told)
    assert {path.name for path in (tmp_path / "reward").iterdir()} == {
        "README.md",
        "prefmill.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_seed_decides_and_nobody_elses_numbers_move(home, tmp_path):
    model = reward_base(home, "llama")
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pm.train_reward(
            pairs(), tmp_path / name, model=model, steps=2, batch_size=4, seed=seed, holdout=0
        )
        torch.rand(1) if name == "a" else None
        if name == "a":
            torch.set_rng_state(before[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    prints = [pm.RewardModel(model=tmp_path / name).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_it_learns_and_measures_by_margin(home, tmp_path):
    draw = random.Random(0)
    rows = [
        (
            f"q{i}",
            "yes" + "." * draw.randrange(5),
            "no" + "." * draw.randrange(5),
            5.0,
            float(draw.randrange(1, 5)),
        )
        for i in range(200)
    ]
    frame = pl.DataFrame(
        rows,
        schema=["prompt", "chosen", "rejected", "chosen_score", "rejected_score"],
        orient="row",
    )
    frame[:40].write_parquet(tmp_path / "test.parquet")
    report = pm.train_reward(
        frame[20:],
        tmp_path / "reward",
        model=reward_base(home, "llama"),
        test=[tmp_path / "test.parquet"],
        steps=25,
        batch_size=16,
        learning_rate=1e-2,
    )
    (held,) = report.held_out
    assert report.rows_held_out == 0
    assert report.loss < 0.3 < 0.6 < report.losses[0][1]
    assert held.accuracy.value > 0.9 > held.longer.value
    assert (held.prompts, held.prompts_trained) == (40, 20)
    assert held.accuracy.low < held.accuracy.value < held.accuracy.high or held.accuracy.value == 1
    assert [(b.at_least, b.at_most) for b in held.margins] == [(m, m) for m in (1.0, 2.0, 3.0, 4.0)]
    assert sum(b.accuracy.pairs for b in held.margins) == 40


def test_margin_reaches_the_loss(home, tmp_path):
    frame = pairs()
    first = [
        pm.train_reward(
            each, tmp_path / name, model=reward_base(home, "llama"), steps=1, holdout=0
        ).losses[0][1]
        for name, each in {"plain": frame, "wide": frame.with_columns(margin=pl.lit(4.0))}.items()
    ]
    assert first[1] > first[0] + 1  # -log sigmoid(difference - margin)
    with pytest.raises(BadInput, match="1 pairs have no finite margin"):
        pm.train_reward(
            frame.with_columns(margin=pl.when(pl.int_range(pl.len()) > 0).then(1.0)),
            tmp_path / "x",
            model=reward_base(home, "llama"),
        )


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_adapter_is_merged(family, home, tmp_path):
    pytest.importorskip("peft", reason="needs the extra prefmill[lora]")
    from safetensors.torch import load_file

    model = reward_base(home, family, template=family != "bert")
    pm.train_reward(
        pairs(),
        tmp_path / "reward",
        model=model,
        steps=3,
        batch_size=4,
        lora_rank=2,
        learning_rate=1e-2,
        holdout=0,
    )
    new, old = (load_file(folder / "model.safetensors") for folder in (tmp_path / "reward", model))
    assert set(new) == set(old)
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert any("layer" in name for name in changed)
    assert any(name.startswith(("score", "classifier")) for name in changed)
    assert not any("embed" in name or "norm" in name.lower() for name in changed)
    assert np.isfinite(
        pm.RewardModel(model=tmp_path / "reward")(
            pa.record_batch({"prompt": ["p"], "completion": ["a"]})
        )
    ).all()
