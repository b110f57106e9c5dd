"""What training writes and where it starts: adapters, value heads."""

from __future__ import annotations

import json
from pathlib import Path

import owners
import pools
import pytest
from coded import PAIRS

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.scoring import RewardModel

pytest.importorskip("trl", reason="needs the extra prefmill[train]")

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
pools.one_thread()


def test_a_trained_adapter_is_scored_as_it_is_written(tmp_path: Path) -> None:
    """It is merged when it is saved: its folder is a plain reward model."""
    out = tmp_path / "lora"
    options = {"model": pools.causal("llama"), "steps": 1, "holdout": 0, "lora_rank": 2}
    pm.train_reward(PAIRS, out, device="cpu", **options)
    assert not (out / "adapter_config.json").exists()
    got = RewardModel(model=out, device="cpu")(pools.batch(pools.POOL))
    pools.assert_close(got, pools.oracle(out, pools.POOL))


def test_training_goes_on_from_a_value_head(tmp_path: Path) -> None:
    """With hardly a step the scores are those of before, and no old mean is taken off them."""
    folder = owners.value_head(
        tmp_path / "model",
        "value_head",
        bias=False,
        body="bare",
        architectures=["RewardModel"],
        normalize_reward=True,
        mean=0.5,
        std=2.0,
    )
    out = tmp_path / "out"
    pm.train_reward(PAIRS, out, model=folder, steps=1, holdout=0, learning_rate=1e-9, device="cpu")
    told = json.loads((out / "config.json").read_text())
    assert told["architectures"] == ["LlamaForSequenceClassification"]
    got = RewardModel(model=out, device="cpu")(pools.batch(pools.POOL))
    pools.assert_close(got, owners.valued(pools.POOL, bias=False))


def test_a_bias_would_be_lost(tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", "v_head.summary")
    with pytest.raises(BadInput, match=r"'v_head.summary' of .* has a bias, for which"):
        pm.train_reward(PAIRS, tmp_path / "out", model=folder, steps=1, holdout=0, device="cpu")
