"""Process reward models in the folders of their owners: own code, and value heads; and the places
that name a scorer: recipes, several devices.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import stepped
import tiny_models

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

from safetensors.torch import load_file, save_file  # noqa: E402

import prefmill as pm  # noqa: E402
from prefmill.errors import BadInput  # noqa: E402
from prefmill.loops.keys import described_by  # noqa: E402
from prefmill.scoring import ChoiceScorer, RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

CODE = """
from torch import nn
from transformers import Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput


class Own(Qwen2PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        size = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **more):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        return TokenClassifierOutput(logits=self.score(out.last_hidden_state))
"""
STEPS = [
    ("What is 2+2?", ["First, add two and two.", "That makes four.", "So the answer is 4."]),
    ("What is 2+2?", ["First, add two and two.", "That makes five."]),
    ("Halve 24. " * 12, ["Step 1: halve it.", "12"]),
]
POOL = [(prompt, "\n\n".join(steps)) for prompt, steps in STEPS]
QWEN: dict[str, Any] = {"step_separator": "\n\n", "step_marker": "<extra_0>", "label": 1}


def own_code(folder: Path) -> Path:
    """Qwen2.5-Math-PRM: a head of two layers, in a class that config.json names for AutoModel."""
    tok = stepped.bpe()
    tiny_models.save_causal_model("qwen2", folder, tok=tok, seed=6)
    weights = load_file(folder / "model.safetensors")
    weights = {key: value for key, value in weights.items() if key.startswith("model.")}
    draw = torch.Generator().manual_seed(2)
    for name, shape in (("0.weight", (32, 32)), ("0.bias", (32,)), ("2.weight", (2, 32))):
        weights[f"score.{name}"] = torch.randn(shape, generator=draw) / 4
    weights["score.2.bias"] = torch.tensor([0.5, -0.5])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Own"], "auto_map": {"AutoModel": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE)
    return folder


def assert_steps(got: list[Any], wanted: list[list[float]]) -> None:
    assert [len(steps) for steps in got] == [len(steps) for steps in wanted]
    pools.assert_close(np.concatenate(got), np.concatenate(wanted))


def test_own_code(tmp_path: Path) -> None:
    folder = own_code(tmp_path / "prm")
    model = stepped.plain(folder, "AutoModel", trust_remote_code=True)
    tok = pools.plain_tokenizer(folder)
    wanted = [stepped.qwen(model, tok, prompt, steps) for prompt, steps in STEPS]
    with pytest.raises(BadInput, match="names custom code"):
        RewardModel(model=folder, device="cpu", **QWEN).load()
    scorer = RewardModel(model=folder, device="cpu", trust_remote_code=True, **QWEN)
    done = scorer.run(scorer.prepare(pools.batch(POOL)))
    assert_steps(list(done.lists["steps"]), wanted)
    # A head of several layers is one over the states too, which the probe sees.
    assert scorer.load() == "streams"
    whole = RewardModel(model=folder, device="cpu", trust_remote_code=True, label=1)
    with pytest.raises(BadInput, match=r"--step-separator TEXT scores its steps"):
        whole(pools.batch(POOL))


def test_a_value_head(tmp_path: Path) -> None:
    """Skywork-o1-Open-PRM: TRL's value head, with a bias, at the ends of steps, then a sigmoid."""
    folder = tiny_models.save_causal_model("qwen2", tmp_path / "prm", tok=stepped.bpe(), seed=6)
    weights = load_file(folder / "model.safetensors")
    weight, bias = torch.randn(1, 32, generator=torch.Generator().manual_seed(2)), torch.ones(1)
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file({**weights, **head}, folder / "model.safetensors", {"format": "pt"})
    model, tok = stepped.plain(folder, "AutoModelForCausalLM"), pools.plain_tokenizer(folder)
    wanted = []
    for prompt, steps in STEPS:
        ids, at = tok.encode(prompt + "\n"), []
        for step in steps:
            ids = [*ids, *tok.encode(step), tok.encode("\n")[-1]]
            at.append(len(ids) - 1)
        with torch.inference_mode():
            states = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, at]
            wanted.append((states @ weight[0] + bias).double().sigmoid().tolist())
    scorer = RewardModel(
        model=folder,
        device="cpu",
        template="concat",
        step_separator="\n",
        steps_apart=True,
        step_values="probability",
    )
    rows = [(f"{prompt}\n", "\n".join(steps)) for prompt, steps in STEPS]
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert_steps(list(done.lists["steps"]), wanted)


def test_devices_and_pairs(tmp_path: Path) -> None:
    """A process on each device, and both sides of pairs: the steps of one process alone."""
    folder = stepped.token_classifier("qwen2")
    scorer = RewardModel(model=folder, device="cpu", **QWEN)
    rows = pl.DataFrame(POOL, schema=["prompt", "completion"], orient="row")
    pm.score(rows, tmp_path / "one.parquet", scorer=scorer, chunk_rows=1)
    two = tmp_path / "two.parquet"
    pm.score(rows, two, scorer=scorer, chunk_rows=1, devices=["cpu", "cpu"])
    assert pl.read_parquet(two).equals(pl.read_parquet(tmp_path / "one.parquet"))
    pairs = rows.rename({"completion": "chosen"}).with_columns(rejected=pl.lit("no"))
    pm.score(pairs, tmp_path / "pairs.parquet", scorer=scorer)
    out = pl.read_parquet(tmp_path / "pairs.parquet")
    wanted = pl.read_parquet(two)["score_steps"].to_list()
    assert_steps(out["chosen_score_steps"].to_list(), wanted)
    assert out["rejected_score_steps"].list.len().to_list() == [1, 1, 1]


def test_recipes() -> None:
    """The words of a recipe are the fields."""
    own = {"model": "m", "step_separator": "\n\n", "reduce": "last", "label": 1}
    reward = described_by("score", {"kind": "reward", **own})
    assert reward is not None
    assert {*own, "weights", "step_marker", "steps_apart", "step_values"} <= {*reward.keys}
    assert reward.make is not None
    assert reward.make(own) == RewardModel(**own)
    choice = described_by("score", {"kind": "choice"})
    assert choice is not None
    assert {"choices", "rubric", "ask", "score_as", "first_token"} <= {*choice.keys}
    assert choice.make is not None
    made = choice.make({"model": "m", "choices": ["good", "bad"]})
    assert isinstance(made, ChoiceScorer)
    assert made.columns == ("score", "good", "bad")
