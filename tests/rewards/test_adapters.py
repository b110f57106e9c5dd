"""PEFT adapters: the numbers of the adapter applied by PEFT itself, or a refusal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import owners
import peft
import polars as pl
import pools
import pytest
import tiny
import torch
from coded import PAIRS
from command import prefmill
from safetensors.torch import load_file, save_file

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, PrefmillError
from prefmill.models.adapters import Adapter
from prefmill.models.loading import weights
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Request
from prefmill.scoring import ImplicitReward, LogProb, RewardModel

pytestmark = [
    pytest.mark.score,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
pools.one_thread()

LAYERS = ["q_proj", "v_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-all": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True, "lora_alpha": 4},
    "dora": {"use_dora": True},
    "bias": {"bias": "lora_only"},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "norms": {"modules_to_save": ["input_layernorm"]},
    "ia3": {
        "config": peft.IA3Config,
        "target_modules": ["k_proj", "v_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
    "loha": {"config": peft.LoHaConfig, "r": 2, "target_modules": LAYERS},
    "lokr": {"config": peft.LoKrConfig, "r": 2, "target_modules": LAYERS},
    "oft": {"config": peft.OFTConfig, "oft_block_size": 4, "target_modules": LAYERS},
}


def scorer(folder: Path, **options: Any) -> RewardModel:
    return RewardModel(model=folder, device="cpu", **options)


def scored(folder: Path, **options: Any) -> np.ndarray:
    return scorer(folder, **options)(pools.batch(pools.POOL))


def refused(folder: Path, says: str, kind: type[PrefmillError] = BadInput, **options: Any) -> None:
    with pytest.raises(kind, match=says):
        scored(folder, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["causal", "reward"])
def test_the_scores_of_the_adapter_applied(base: str, kind: str, tmp_path: Path) -> None:
    """The head is the adapter's, whether its base has one or not."""
    under = pools.causal("llama") if base == "causal" else pools.reward("llama")
    wrapped = owners.adapter(tmp_path / "adapter", under, **KINDS[kind])
    pools.assert_close(scored(tmp_path / "adapter"), owners.logits(wrapped, pools.POOL))


@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3"])
def test_other_families(family: str, tmp_path: Path) -> None:
    layers = {"bert": ["query", "value"], "gpt2": ["c_attn"]}.get(family, LAYERS)
    wrapped = owners.adapter(tmp_path / "adapter", pools.reward(family), target_modules=layers)
    pools.assert_close(scored(tmp_path / "adapter"), owners.logits(wrapped, pools.POOL))


def test_a_task_that_is_not_told(tmp_path: Path) -> None:
    """As get_peft_model leaves it: the head is the base's own."""
    wrapped = owners.adapter(tmp_path / "adapter", pools.reward("llama"), task=None)
    pools.assert_close(scored(tmp_path / "adapter"), owners.logits(wrapped, pools.POOL))


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "norms"])
def test_applied_and_merged_are_one(kind: str, tmp_path: Path) -> None:
    """What is not merged (over quantised weights) has its head in place all the same."""
    wrapped = owners.adapter(tmp_path / "adapter", pools.reward("llama"), **KINDS[kind])
    base = weights(pools.reward("llama"), "reward", dtype=torch.float32)
    adapter = Adapter.read(tmp_path / "adapter", "reward")
    model = adapter.apply(base, without=set(), merge=False).eval()
    assert isinstance(model.score, torch.nn.Linear)
    assert any("default" in name for name, _ in model.named_parameters())
    pools.assert_close(owners.logits(model, pools.POOL), owners.logits(wrapped, pools.POOL))


def test_added_tokens_come_with_the_adapter(tmp_path: Path) -> None:
    """The embedding is as large as the adapter's, and the tokenizer is its own."""
    folder = tmp_path / "adapter"
    wrapped = owners.adapter(folder, pools.causal("llama"), resize=2, tokenizer=True)
    model = scorer(folder)
    pools.assert_close(model(pools.batch(pools.POOL)), owners.logits(wrapped, pools.POOL))
    assert model.engines[0].vocabulary == len(tiny.tokenizer()) + 2


def test_llama_factorys_reward_models(tmp_path: Path) -> None:
    """An adapter of a language model, and the value head in a file of its own."""
    folder = tmp_path / "adapter"
    wrapped = owners.adapter(
        folder, pools.causal("llama"), "CAUSAL_LM", auto="AutoModelForCausalLM"
    )
    weight, bias = owners.layer()
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(head, folder / "value_head.safetensors", {"format": "pt"})
    states = owners.states(pools.POOL, model=wrapped)
    wanted = np.array([(state @ weight[0] + bias).item() for state in states])
    model = scorer(folder)
    pools.assert_close(model(pools.batch(pools.POOL)), wanted)
    assert model.fingerprint["pooling"] == "last"


def test_a_value_head_in_the_adapter(tmp_path: Path) -> None:
    """As OpenRLHF saves it: one more module, under PEFT's prefix."""
    folder = tmp_path / "adapter"
    wrapped = owners.adapter(
        folder, pools.causal("llama"), "CAUSAL_LM", auto="AutoModelForCausalLM"
    )
    weight, _ = owners.layer(bias=False)
    path = folder / "adapter_model.safetensors"
    state = {**load_file(path), "base_model.model.value_head.weight": weight}
    save_file(state, path, {"format": "pt"})
    told = json.loads((folder / "adapter_config.json").read_text())
    told |= {"modules_to_save": ["value_head"], "task_type": None}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    states = owners.states(pools.POOL, model=wrapped)
    pools.assert_close(scored(folder), np.array([(s @ weight[0]).item() for s in states]))


def test_token_classifiers(tmp_path: Path) -> None:
    """The score is that of the last token; the base may be a language model."""
    auto = "AutoModelForTokenClassification"
    wrapped = owners.adapter(tmp_path / "a", pools.causal("llama"), "TOKEN_CLS", auto=auto)
    tok, wanted = tiny.tokenizer(), []
    with torch.inference_mode():
        for row in pools.POOL:
            ids = torch.tensor([pools.ids_of(tok, *row)])
            wanted.append(wrapped(input_ids=ids).logits[0, -1, 0].item())
    pools.assert_close(scored(tmp_path / "a"), np.array(wanted))


def test_policies(tmp_path: Path) -> None:
    """Log-probabilities, DPO's reward against the base, and answers, of an adapter."""
    base, batch = (
        pools.causal("llama"),
        pools.batch([("ab?", "yes"), ("ab?", "no way"), ("c", "d")]),
    )
    folder = tmp_path / "adapter"
    owners.adapter(folder, base, "CAUSAL_LM", auto="AutoModelForCausalLM")
    from peft import AutoPeftModelForCausalLM

    merged = AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    got = LogProb(model=folder, device="cpu")(batch)
    wanted = LogProb(model=tmp_path / "merged", device="cpu")(batch)
    pools.assert_close(got, wanted)
    assert np.abs(got - LogProb(model=base, device="cpu")(batch)).max() > 1e-2
    for model, reference in ((folder, base), (base, folder)):
        whole = [tmp_path / "merged" if each == folder else each for each in (model, reference)]
        pools.assert_close(
            ImplicitReward(model=model, reference=reference, device="cpu")(batch),
            ImplicitReward(model=whole[0], reference=whole[1], device="cpu")(batch),
        )
    requests = [Request("ab?", 0.0, 0), Request("What?", 1.0, 5)]
    answers = [
        LocalSampler(model=each, device="cpu", max_new_tokens=8).sample(requests)
        for each in (folder, tmp_path / "merged")
    ]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]


def test_the_base_that_is_named_counts(tmp_path: Path) -> None:
    moved = shutil.copytree(pools.causal("llama"), tmp_path / "moved")
    wrapped = owners.adapter(tmp_path / "adapter", moved)
    wanted = owners.logits(wrapped, pools.POOL)
    moved.rename(tmp_path / "elsewhere")
    refused(
        tmp_path / "adapter",
        r"(?s)the base of the adapter in .* is not here; got .*moved.*Hint: --base DIR|HUB_ID",
    )
    pools.assert_close(scored(tmp_path / "adapter", base=tmp_path / "elsewhere"), wanted)
    other = scored(tmp_path / "adapter", base=pools.causal("llama", 7))
    assert np.abs(other - wanted).max() > 1e-3
    prints = [
        scorer(tmp_path / "adapter", base=base).fingerprint
        for base in (tmp_path / "elsewhere", pools.causal("llama", 7))
    ]
    assert prints[0]["model"] == prints[1]["model"]
    assert prints[0]["base"] != prints[1]["base"]
    refused(
        tmp_path / "adapter",
        r"(?s)does not fit its base.*Hint: --base",
        base=pools.causal("gpt2"),
    )
    refused(pools.reward("llama"), "a base is of an adapter", BadArgument, base=moved)


def test_the_fingerprint_covers_the_adapter(tmp_path: Path) -> None:
    prints = []
    for name, alpha in (("one", 2), ("two", 4)):
        owners.adapter(tmp_path / name, pools.reward("llama"), lora_alpha=alpha)
        prints.append(scorer(tmp_path / name).fingerprint)
    assert prints[0]["base"] == prints[1]["base"]
    assert prints[0]["model"] != prints[1]["model"]


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    base = pools.reward("llama")
    owners.adapter(tmp_path / "good", base)

    def changed(name: str, change: Any, **settings: Any) -> Path:
        folder = shutil.copytree(tmp_path / "good", tmp_path / name)
        state = load_file(folder / "adapter_model.safetensors")
        change(state)
        save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return folder

    def nothing(state: dict[str, Any]) -> None:
        """Leave the weights as they are."""

    def more(state: dict[str, Any]) -> None:
        first = next(key for key in state if "q_proj" in key)
        state[first.replace("layers.0", "layers.9").replace("layers.1", "layers.9")] = state[
            first
        ].clone()

    def fewer(state: dict[str, Any]) -> None:
        del state[next(key for key in state if "q_proj" in key)]

    def no_head(state: dict[str, Any]) -> None:
        for key in [key for key in state if "score" in key]:
            del state[key]

    refused(changed("more", more), r"has weights without a place; got \['.*layers\.9\.")
    refused(changed("fewer", fewer), r"lacks weights; got \[")
    refused(changed("task", nothing, task_type="CAUSAL_LM"), "task CAUSAL_LM, expected SEQ_CLS")
    refused(changed("nameless", nothing, base_model_name_or_path=None), "names no base")
    refused(changed("prompts", nothing, peft_type="PREFIX_TUNING"), "puts tokens of its own before")
    refused(changed("odd", nothing, peft_type="OWN"), "does not fit its base.*OWN")
    over = changed("over", nothing, base_model_name_or_path=str(tmp_path / "good"))
    refused(over, "is an adapter itself")
    # With a head in the base nothing is random; over a language model the head would be.
    pools.assert_close(
        scored(changed("headless", no_head, task_type=None)),
        scored(changed("headless-too", no_head)),
    )
    random = changed("random", no_head, base_model_name_or_path=str(pools.causal("llama")))
    refused(random, r"lack \['score.weight'\]: the head would be random")
    pickled = changed("pickled", nothing)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(pickled, r"no adapter_model.safetensors in .*; got \['adapter_model.bin'\]")


def test_full_weights_next_to_an_adapter_are_refused(tmp_path: Path) -> None:
    both = shutil.copytree(pools.reward("llama"), tmp_path / "both")
    owners.adapter(tmp_path / "adapter", pools.reward("llama"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, both)
    says = r"(?s)got full weights and an adapter \(PEFT, of .*Hint: move adapter_config.json away"
    refused(both, says)
    refused(both, says, base=pools.causal("llama"))


def test_training_starts_from_full_weights(tmp_path: Path) -> None:
    """The line of the hint is run, and what it writes has the scores of the adapter."""
    wrapped = owners.adapter(tmp_path / "adapter", pools.reward("llama"), tokenizer=True)
    with pytest.raises(BadInput, match=r"is an adapter .*; expected full weights") as caught:
        pm.train_reward(PAIRS, tmp_path / "out", model=tmp_path / "adapter", steps=1, holdout=0)
    line = re.search(r'python -c "(.+?)"', str(caught.value))
    assert line is not None
    exec(line[1].replace("'merged'", repr(str(tmp_path / "merged"))))
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    pools.assert_close(scored(tmp_path / "merged"), owners.logits(wrapped, pools.POOL))


def test_through_the_command(tmp_path: Path) -> None:
    moved = shutil.copytree(pools.causal("llama"), tmp_path / "moved")
    wrapped = owners.adapter(tmp_path / "adapter", moved)
    moved.rename(tmp_path / "base")
    rows = [row for row in dict.fromkeys(pools.POOL) if all(row)]
    frame = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
    frame.write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "scored.parquet"
    command = ("score", tmp_path / "pool.parquet", "-o", out, "--model", tmp_path / "adapter")
    done = prefmill(*command, models=True)
    assert done.returncode == 1
    assert "--base DIR|HUB_ID names the model that the adapter was trained on" in done.stderr
    done = prefmill(*command, "--base", tmp_path / "base", "--device", "cpu", models=True)
    assert done.returncode == 0, done.stderr
    got = pl.read_parquet(out)
    wanted = owners.logits(wrapped, got.select("prompt", "completion").rows())
    pools.assert_close(got["score"].to_numpy(), wanted)
