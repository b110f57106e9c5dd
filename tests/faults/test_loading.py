"""What is loaded is what the folder says, in scoring, log-probabilities, sampling and training, or
it is refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import tiny
import tiny_models
import torch

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow, PrefmillError
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Request
from prefmill.scoring import ImplicitReward, LogProb, RewardModel

pools.one_thread()

PAIRS = pl.DataFrame(
    {
        "prompt": list("abcdefgh"),
        "chosen": [f"good {i}" for i in range(8)],
        "rejected": [f"bad {i}" for i in range(8)],
    }
)
WINNERS = pl.DataFrame({"prompt": list("abcd"), "completion": ["one", "two", "three", "four"]})


def changed(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model's folder with another config.json."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return target


def rewards(folder: Path, tmp_path: Path, **more: Any) -> dict[str, Callable[[], Any]]:
    """Every way in which a reward model's folder is used."""
    out = tmp_path / "trained"
    return {
        "score": lambda: RewardModel(model=folder, device="cpu", **more)(pools.batch(pools.POOL)),
        "train": lambda: pm.train_reward(
            PAIRS, out, model=folder, steps=1, holdout=0, device="cpu", **more
        ),
    }


def policies(folder: Path, tmp_path: Path, **more: Any) -> dict[str, Callable[[], Any]]:
    """Every way in which a language model's folder is used."""
    good, out = pools.causal("llama"), tmp_path / "trained"
    return {
        "logprob": lambda: LogProb(model=folder, device="cpu", **more)(pools.batch(pools.POOL)),
        "policy": lambda: ImplicitReward(model=folder, reference=good, device="cpu", **more)(
            pools.batch(pools.POOL)
        ),
        "reference": lambda: ImplicitReward(model=good, reference=folder, device="cpu", **more)(
            pools.batch(pools.POOL)
        ),
        "sample": lambda: LocalSampler(model=folder, device="cpu", max_new_tokens=2, **more).sample(
            [Request("p", 0.0, 0)]
        ),
        "train": lambda: pm.train_policy(WINNERS, out, model=folder, steps=1, device="cpu", **more),
    }


def refused(uses: dict[str, Callable[[], Any]], says: str) -> None:
    for name, use in uses.items():
        with pytest.raises(BadInput) as caught:
            use()
        assert re.search(says, str(caught.value)), f"{name}: {caught.value}"


# -- code of its own
# -----------------------------------------------------------------------------------------------------------------------

CODE = '''
import torch
from transformers import {base}

class Own({base}):
    """Stock weights, another value."""

    def forward(self, input_ids=None, attention_mask=None, **more):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        out.logits = {logits}
        return out
'''


def with_code(
    folder: Path,
    target: Path,
    autos: tuple[str, ...],
    logits: str = "3 - out.logits * 2",
    **settings: Any,
) -> Path:
    """A copy of a folder whose config.json names a class of its own under `autos`, with the stock
    model_type.
    """
    base = json.loads((folder / "config.json").read_text())["architectures"][0]
    changed(folder, target, auto_map=dict.fromkeys(autos, "modeling_own.Own"), **settings)
    (target / "modeling_own.py").write_text(CODE.format(base=base, logits=logits))
    return target


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
    says = "has no class for a reward model; got AutoModelForCausalLM, expected AutoModelForSequenceClassification"
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


# -- weights and their places
# --------------------------------------------------------------------------------------------------------------


def saved(family: str, auto: str, target: Path, **settings: Any) -> Path:
    """A random model of any class of Transformers, with its tokenizer."""
    import transformers

    tok = tiny.tokenizer()
    config = tiny_models.config(family, tok)
    for name, value in {"num_labels": 1, **settings}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    getattr(transformers, auto).from_config(config).eval().save_pretrained(target)
    tok.save_pretrained(target)
    return target


def test_a_process_reward_model_is_no_reward_model(tmp_path: Path) -> None:
    """It loses `score.bias` (decoders), or nothing at all (ModernBERT), and gives a number for a
    row.
    """
    folder = saved("llama", "AutoModelForTokenClassification", tmp_path / "llama")
    use = rewards(folder, tmp_path)["score"]
    with pytest.raises(
        BadInput,
        match="of another kind of model; got LlamaForTokenClassification, expected LlamaForSequenceClassif",
    ):
        use()
    with pytest.raises(
        BadInput,
        match=r"has no place for weights of .*; got \['score.bias'\], which would be dropped",
    ):
        RewardModel(
            model=changed(folder, tmp_path / "unsaid", architectures=None), device="cpu"
        ).load()
    with pytest.raises(BadInput, match="got ModernBertForTokenClassification"):
        RewardModel(
            model=saved("modernbert", "AutoModelForTokenClassification", tmp_path / "m"),
            device="cpu",
        ).load()


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


# -- adapters
# ------------------------------------------------------------------------------------------------------------------------------


def adapter(target: Path, task: str, base: Path) -> Path:
    """An adapter that moves scores, as PEFT saves it."""
    import transformers
    from peft import LoraConfig, get_peft_model

    auto = (
        transformers.AutoModelForSequenceClassification
        if task == "SEQ_CLS"
        else transformers.AutoModelForCausalLM
    )
    model = auto.from_pretrained(base)
    torch.manual_seed(1)
    model = get_peft_model(
        model,
        LoraConfig(
            r=2, task_type=task, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        ),
    )
    model.save_pretrained(target)
    return target


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT's own
@pytest.mark.parametrize("task", ["SEQ_CLS", "CAUSAL_LM"])
def test_adapters_are_refused_and_the_line_merges_them(task: str, tmp_path: Path) -> None:
    """The line of the hint is run, and what it writes has the scores of the adapter."""
    base = pools.reward("llama") if task == "SEQ_CLS" else pools.causal("llama")
    folder = adapter(tmp_path / "adapter", task, base)
    uses = rewards if task == "SEQ_CLS" else policies
    refused(uses(folder, tmp_path), "cannot be told; got an adapter alone")
    both = shutil.copytree(base, tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, both)
    refused(
        uses(both, tmp_path),
        r"(?s)got full weights and an adapter \(PEFT, of .*Or move adapter_config.json away",
    )
    with pytest.raises(BadInput) as caught:
        next(iter(uses(folder, tmp_path).values()))()
    line = re.search(r'python -c "(.+?)"', str(caught.value))
    assert line is not None
    exec(line[1].replace("'merged'", repr(str(tmp_path / "merged"))))
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    merged, batch = tmp_path / "merged", pools.batch(pools.POOL)
    scorer = (
        RewardModel(model=merged, device="cpu")
        if task == "SEQ_CLS"
        else LogProb(model=merged, device="cpu")
    )
    before = (
        RewardModel(model=base, device="cpu")
        if task == "SEQ_CLS"
        else LogProb(model=base, device="cpu")
    )
    assert np.abs(scorer(batch) - before(batch)).max() > 1e-3
    if task == "SEQ_CLS":
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        plain = PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(base), folder
        ).eval()
        tok = tiny.tokenizer()
        with torch.inference_mode():
            wanted = [
                plain(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 0].item()
                for row in pools.POOL
            ]
        pools.assert_close(scorer(batch), np.array(wanted))


# -- forms of outputs, rows that break a model
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        ("out.logits[:, 0]", None),  # one score a row, of a head with several
        ("out.logits.squeeze()", "LABEL_1"),  # one row loses its first dimension
        ("out.logits[:, :1].squeeze()", None),  # one row of one label: a number
    ],
)
def test_logits_of_any_form(logits: str, label: str | None, tmp_path: Path) -> None:
    """Models of several attributes with code of their own; before, a traceback."""
    made = pools.reward("llama", num_labels=3, problem_type="regression")
    folder = with_code(made, tmp_path / "model", ("AutoModelForSequenceClassification",), logits)
    got = RewardModel(model=folder, device="cpu", label=label, trust_remote_code=True)(
        pools.batch(pools.POOL)
    )
    model, tok = pools.plain(made)
    column = 0 if label is None else 1
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, column].item()
            for row in pools.POOL
        ]
    pools.assert_close(got, np.array(wanted))


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (
            "out.logits[:, None].expand(-1, input_ids.shape[1], -1)",
            r"not of rows; got the shape \(1, 7, 1\)",
        ),
        ("out.logits.expand(-1, input_ids.shape[1])", "logits are of tokens; got 7"),
        ("None", "gives no logits"),
        ("out.nothing", "does not run on a row of tokens; AttributeError"),
    ],
)
def test_outputs_that_are_not_one_score_a_row(logits: str, says: str, tmp_path: Path) -> None:
    folder = with_code(
        pools.reward("llama"), tmp_path / "model", ("AutoModelForSequenceClassification",), logits
    )
    with pytest.raises(BadInput, match=says):
        RewardModel(model=folder, device="cpu", trust_remote_code=True).load()


def test_bart_takes_rows_with_any_number_of_end_tokens(tmp_path: Path) -> None:
    """Together it takes only rows that have equally many; alone it takes each, and so do we."""
    from transformers import BartConfig, BartForSequenceClassification

    tok = tiny.tokenizer()
    torch.manual_seed(0)
    settings = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    tokens = {name: getattr(tok, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = BartConfig(
        vocab_size=len(tok),
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_labels=1,
        init_std=0.5,
        **settings,
        **tokens,
    )
    config.decoder_start_token_id = tok.eos_token_id
    BartForSequenceClassification(config).eval().save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    rows = [("a", "b"), ("a<eos>c", "b"), ("a", "b<eos><eos>"), ("d", "e")]
    pools.assert_close(
        RewardModel(model=tmp_path, device="cpu")(pools.batch(rows)), pools.oracle(tmp_path, rows)
    )


def test_a_row_that_breaks_the_model_is_named(tmp_path: Path) -> None:
    from prefmill.models.probe import random_rows

    tok = tiny.tokenizer()
    token = next(i for i in range(20, len(tok)) if i not in random_rows(len(tok)).ids)
    bad = tok.decode([token])
    logits = f"[][0] if (input_ids == {token}).any() else out.logits"
    folder = with_code(
        pools.reward("llama"), tmp_path / "model", ("AutoModelForSequenceClassification",), logits
    )
    scorer = RewardModel(model=folder, device="cpu", trust_remote_code=True)
    with pytest.raises(BadRow, match="row 2 breaks Own; IndexError") as caught:
        scorer(pools.batch([("a", "b"), ("a", "c"), ("a", bad), ("d", "e")]))
    assert (caught.value.row, caught.value.reason) == (2, "model_failed")


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_token_beyond_the_embedding_is_named(family: str, tmp_path: Path) -> None:
    """Added to the tokenizer, the model not resized. Rows without it have their scores."""
    folder = shutil.copytree(pools.reward(family), tmp_path / "model")
    tok = tiny.tokenizer()
    tok.add_tokens(["<new>"])
    tok.save_pretrained(folder)
    scorer = RewardModel(model=folder, device="cpu")
    pools.assert_close(
        scorer(pools.batch(pools.POOL)), pools.oracle(pools.reward(family), pools.POOL)
    )
    with pytest.raises(
        BadRow,
        match=r"row 1 has the token '<new>', which the model does not; got id 103, expected one below 103",
    ) as caught:
        scorer(pools.batch([("a", "b"), ("a", "say <new>")]))
    assert (caught.value.row, caught.value.reason) == (1, "unknown_token")
    policy = shutil.copytree(pools.causal("llama"), tmp_path / "policy")
    tok.save_pretrained(policy)
    for scorer in (
        LogProb(model=policy, device="cpu"),
        ImplicitReward(model=policy, reference=policy, device="cpu"),
    ):
        with pytest.raises(BadRow, match="'<new>'"):
            scorer(pools.batch([("a", "say <new>")]))


@pytest.mark.parametrize(
    ("quantised", "says"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            r"cannot load .*ImportError: .*optimum",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"cannot load .*bitsandbytes"),
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


# -- classifiers
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("told", [None, "single_label_classification"])
def test_a_softmax_classifier_ranks_by_probability(
    family: str, labels: int, told: str | None, tmp_path: Path
) -> None:
    """The score is the log-odds of the label: its sigmoid is the probability that a pipeline
    gives.
    """
    folder = pools.reward(family, num_labels=labels, problem_type=told)
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        logits = torch.cat(
            [model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits for row in pools.POOL]
        )
    wanted = logits.double().softmax(dim=1)[:, 1].numpy()
    got = pools.scores(folder, pools.POOL, label="LABEL_1")
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), wanted, atol=1e-5)
    assert (np.argsort(got) == np.argsort(wanted)).all()
    assert (np.argsort(logits[:, 1].numpy()) != np.argsort(wanted)).any()


@pytest.mark.parametrize("told", ["regression", "multi_label_classification"])
def test_labels_that_do_not_exclude_each_other_are_raw(told: str) -> None:
    folder = pools.reward("llama", num_labels=2, problem_type=told)
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 1].item()
            for row in pools.POOL
        ]
    pools.assert_close(pools.scores(folder, pools.POOL, label=1), np.array(wanted))


# -- hostile numbers
# -----------------------------------------------------------------------------------------------------------------------


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
