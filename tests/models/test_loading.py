"""What is loaded is what the folder says, in scoring, log-probabilities, sampling and training, or
it is refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import torch
from coded import PAIRS, changed, policies, refused, rewards, saved, with_code

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, PrefmillError
from prefmill.scoring import LogProb, RewardModel

pools.one_thread()


@pytest.mark.parametrize(
    "auto",
    ["AutoModelForSequenceClassification", "AutoModel", "AutoModelForCausalLM", "AutoConfig"],
)
def test_code_of_a_known_type_is_not_passed_over(auto: str, tmp_path: Path) -> None:
    """Before, the stock class scored, sampled and was trained, with another ranking."""
    folder = with_code(pools.reward("llama"), tmp_path / "reward", (auto,))
    refused(
        rewards(folder, tmp_path),
        r"(?s)names custom code for \w+; without it.*Hint: --trust-remote-code runs",
    )
    folder = with_code(pools.causal("llama"), tmp_path / "causal", (auto,))
    refused(policies(folder, tmp_path), r"(?s)names custom code.*Hint: --trust-remote-code runs")


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModel"])
def test_trusted_code_is_the_code_that_scores(auto: str, tmp_path: Path) -> None:
    folder = with_code(pools.reward("llama"), tmp_path / "model", (auto,))
    got = RewardModel(model=folder, device="cpu", trust_remote_code=True)(pools.batch(pools.POOL))
    wanted = 3 - 2 * pools.oracle(pools.reward("llama"), pools.POOL)
    pools.assert_close(got, wanted)
    assert (np.argsort(got) != np.argsort(-wanted)).any()


def test_trusted_code_is_the_code_that_is_summed_and_trained(tmp_path: Path) -> None:
    folder = with_code(
        pools.causal("llama"), tmp_path / "causal", ("AutoModelForCausalLM",), "out.logits * 0"
    )
    scorer = LogProb(model=folder, device="cpu", trust_remote_code=True)
    scored = scorer.run(scorer.prepare(pools.batch([("p", "abc")])))
    assert scored.columns["mean"][0] == pytest.approx(-np.log(len(tiny.tokenizer())), abs=1e-5)
    folder = with_code(
        pools.reward("llama"), tmp_path / "reward", ("AutoModelForSequenceClassification",)
    )
    assert (
        pm.train_reward(
            PAIRS, tmp_path / "out", model=folder, steps=1, holdout=0, trust_remote_code=True
        ).steps
        == 1
    )
    assert "Own" in json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]


def test_code_without_a_class_for_the_task_is_refused(tmp_path: Path) -> None:
    """Even where it may run: the class of Transformers would be taken in its place."""
    folder = with_code(pools.reward("llama"), tmp_path / "reward", ("AutoModelForCausalLM",))
    says = (
        "has no class for a reward model; got AutoModelForCausalLM, expected "
        "AutoModelForSequenceClassification"
    )
    refused(rewards(folder, tmp_path, trust_remote_code=True), says)
    folder = with_code(
        pools.causal("llama"), tmp_path / "causal", ("AutoModelForSequenceClassification",)
    )
    refused(policies(folder, tmp_path, trust_remote_code=True), "has no class for a language model")


def test_a_tokenizer_of_its_own_is_not_passed_over(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    path = folder / "tokenizer_config.json"
    told = {**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["own.Slow", None]}}
    path.write_text(json.dumps(told))
    (folder / "own.py").write_text("raise SystemExit('code of a stranger was run')\n")
    refused(rewards(folder, tmp_path), "names custom code for AutoTokenizer")


def test_the_fingerprint_covers_code(tmp_path: Path) -> None:
    """In the folder, and in folders below it."""
    folder = with_code(
        pools.reward("llama"), tmp_path / "model", ("AutoModelForSequenceClassification",)
    )
    prints = []
    for text in ("A = 1\n", "A = 2\n"):
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts" / "deep.py").write_text(text)
        prints.append(
            RewardModel(model=folder, device="cpu", trust_remote_code=True).fingerprint["model"]
        )
    assert prints[0] != prints[1]


def test_a_token_classifier_is_loaded_as_what_it_says(tmp_path: Path) -> None:
    """Where it does not say so it would lose `score.bias`, or give a number for a row; and it
    cannot be trained as a reward model.
    """
    folder = saved("llama", "AutoModelForTokenClassification", tmp_path / "llama")
    uses = rewards(folder, tmp_path)
    assert uses["score"]().shape == (len(pools.POOL),)
    engine = RewardModel(model=folder, device="cpu").engines[0]
    assert type(engine.model).__name__ == "LlamaForTokenClassification"
    refused({"train": uses["train"]}, "has no place for weights of|of another kind of model")
    unsaid = changed(folder, tmp_path / "unsaid", architectures=None)
    with pytest.raises(
        BadInput,
        match=r"has no place for weights of .*; got \['score.bias'\], which would be dropped",
    ):
        RewardModel(model=unsaid, device="cpu").load()


@pytest.mark.parametrize(
    ("made", "told", "lost"),
    [
        ({}, {"num_hidden_layers": 1}, "model.layers.1"),
        ({}, {"num_hidden_layers": 0}, "model.layers.0"),
        ({"attention_bias": True}, {"attention_bias": False}, "self_attn.k_proj.bias"),
        ({"mlp_bias": True}, {"mlp_bias": False}, "mlp.down_proj.bias"),
    ],
)
def test_weights_without_a_place_are_refused(
    made: dict[str, Any], told: dict[str, Any], lost: str, tmp_path: Path
) -> None:
    says = rf"has no place for weights of .*{re.escape(lost)}.*would be dropped"
    folder = saved("llama", "AutoModelForSequenceClassification", tmp_path / "reward", **made)
    refused(rewards(changed(folder, tmp_path / "less", **told), tmp_path), says)
    folder = saved("llama", "AutoModelForCausalLM", tmp_path / "causal", **made)
    refused(policies(changed(folder, tmp_path / "less-causal", **told), tmp_path), says)


def test_a_body_without_a_head_that_has_more_layers_is_not_trained_on(tmp_path: Path) -> None:
    """Its weights have no prefix: what is dropped of a head's and what of a body's is told apart
    all the same.
    """
    folder = saved("llama", "AutoModel", tmp_path / "body")
    assert pm.train_reward(PAIRS, tmp_path / "fine", model=folder, steps=1, holdout=0).steps == 1
    less = changed(folder, tmp_path / "less", num_hidden_layers=1)
    with pytest.raises(BadInput, match=r"no place for weights .*'layers.1"):
        pm.train_reward(PAIRS, tmp_path / "out", model=less, steps=1, holdout=0)


def test_a_new_head_in_place_of_another_is_what_training_is_for(tmp_path: Path) -> None:
    for family, auto in (
        ("bert", "AutoModelForMaskedLM"),
        ("llama", "AutoModelForCausalLM"),
        ("llama", "AutoModelForTokenClassification"),
    ):
        folder = saved(family, auto, tmp_path / auto, num_labels=2)
        assert (
            pm.train_reward(PAIRS, tmp_path / f"of-{auto}", model=folder, steps=1, holdout=0).steps
            == 1
        )


@pytest.mark.parametrize("tied", [False, True])
def test_a_reward_model_is_no_policy(tied: bool, tmp_path: Path) -> None:
    """With tied embeddings nothing is missing: the head of the reward model is dropped, and what is
    left talks.
    """
    folder = saved(
        "llama", "AutoModelForSequenceClassification", tmp_path / "model", tie_word_embeddings=tied
    )
    refused(
        policies(folder, tmp_path),
        r"lack \['lm_head.weight'\]|got LlamaForSequenceClassification|no place for .*score.weight",
    )


def test_a_value_head_is_not_dropped(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(pools.causal("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "v_head.summary.weight": torch.ones(1, 32)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    refused(policies(folder, tmp_path), r"no place for .*v_head.summary.weight")


def test_an_index_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    """The fingerprint is of the folder: weights elsewhere would not be in it."""
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    names = ["score.weight", "model.norm.weight"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(
        rewards(folder, tmp_path),
        r"the index of the weights .* names \['../elsewhere.safetensors'\]",
    )


# -- quantised


@pytest.mark.parametrize(
    ("quantised", "says"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            r"cannot load .*ImportError: .*optimum",
        ),
        ({"quant_method": "awq", "bits": 4}, r"cannot load .*ImportError: .*gptqmodel"),
        ({"quant_method": "of-my-own"}, "quantised by 'of-my-own', which Transformers cannot read"),
    ],
)
def test_quantised_weights_without_their_package(
    quantised: dict[str, Any], says: str, tmp_path: Path
) -> None:
    refused(
        rewards(
            changed(pools.reward("llama"), tmp_path / "r", quantization_config=quantised), tmp_path
        ),
        says,
    )
    refused(
        policies(
            changed(pools.causal("llama"), tmp_path / "c", quantization_config=quantised), tmp_path
        ),
        says,
    )


# -- hostile numbers


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"num_hidden_layers": -1},
            "num_hidden_layers in .* is no number of layers; got -1, expected one up to the 21",
        ),
        ({"num_hidden_layers": 10**9}, "is no number of layers; got 1000000000"),
        ({"num_hidden_layers": 1.5}, "is no number of layers; got 1.5"),
        ({"num_hidden_layers": "2"}, "no usable config.json .*num_hidden_layers"),
        ({"num_attention_heads": 0}, "(cannot load|no usable config.json)"),
        ({"hidden_act": "nothing"}, "cannot load .*KeyError: 'nothing'"),
        ({"hidden_size": -32}, "(cannot load|no usable config.json)"),
        ({"vocab_size": 10**12}, "cannot load"),
        ({"model_type": 3}, "no usable config.json"),
        ({"rope_parameters": {"rope_type": "nothing", "rope_theta": 1.0}}, "cannot load"),
        ({"pad_token_id": 10**9}, "(cannot load|does not run|no usable config.json)"),
    ],
)
def test_a_hostile_configuration_is_an_error_of_the_folder(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """Never a traceback, never hours."""
    folder = changed(pools.reward("llama"), tmp_path / "reward", **settings)
    refused(rewards(folder, tmp_path), says)
    folder = changed(pools.causal("llama"), tmp_path / "causal", **settings)
    for use in policies(folder, tmp_path).values():
        with pytest.raises((BadInput, BadArgument)) as caught:
            use()
        assert isinstance(caught.value, PrefmillError)
