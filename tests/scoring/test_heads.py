"""The traps of heads and weights: which position is read, which label, in which precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadArgument, BadInput  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import LogProb, RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

# -- 3: which token is pooled


def test_trap_03_pad_that_is_also_the_end_of_a_row() -> None:
    """TRL sets pad = eos where there is none: Transformers then pools one token early, in silence.
    We follow it, or not, and say so.
    """
    eos = tiny.tokenizer().eos_token_id
    folder = pools.reward("llama", pad_token_id=eos)
    model, tok = pools.plain(folder)
    rows = pools.POOL
    with torch.inference_mode():
        states = [
            model.model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).last_hidden_state[0, -1]
            for row in rows
        ]
        last = torch.stack([model.score(state)[0] for state in states]).numpy()
    hf = pools.oracle(folder, rows)
    assert np.abs(hf - last).min() > 1e-3, (
        "the two rules differ in every row here, or this tests nothing"
    )
    for pooling, wanted in (("hf", hf), ("last", last)):
        for batch_tokens in (None, 1):
            scorer = RewardModel(
                model=folder, device="cpu", pooling=pooling, batch_tokens=batch_tokens
            )
            with pytest.warns(
                UserWarning, match=f"rows end in the pad token, and pooling is '{pooling}'"
            ):
                got = scorer(pools.batch(rows))
            pools.assert_close(got, wanted, pooling)
            scorer(pools.batch(rows))  # told once: a second warning would be an error here


def test_trap_03_no_warning_where_both_rules_agree_and_no_choice_where_there_is_none() -> None:
    got = RewardModel(model=pools.reward("llama"), device="cpu", pooling="last")(
        pools.batch(pools.POOL)
    )
    pools.assert_close(got, pools.oracle(pools.reward("llama"), pools.POOL))
    with pytest.raises(
        BadArgument, match=r"pooling 'last' is not this model's to choose: .*\nHint: "
    ):
        RewardModel(model=pools.reward("bert"), device="cpu", pooling="last").load()


def test_trap_03_a_row_of_pads_only_is_pooled_as_transformers_does() -> None:
    folder = pools.reward(
        "gpt2", pad_token_id=20
    )  # its positions are absolute: with rotary ones, equal tokens have equal states everywhere
    engine = RewardModel(model=folder, device="cpu").engines[0]
    rows = TokenRows.of([[20, 20, 20], [20, 30, 20], [30, 31, 32]])
    model, _ = pools.plain(folder)
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.from_numpy(rows.row(i).astype(np.int64))[None])
            .logits[0, 0]
            .item()
            for i in range(3)
        ]
    pools.assert_close(engine.run(engine.plan(rows))[:, 0], np.array(wanted))


# -- 4 and 5: raw scores


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_04_05_scores_are_raw(family: str) -> None:
    """No sigmoid, as some engines put on a single label: scores below 0 and above 1 survive."""
    folder = pools.reward(family, initializer_range=0.9)
    rows = [(prompt, f"{text} {i}") for i, (prompt, text) in enumerate(pools.POOL * 3)]
    got = pools.scores(folder, rows)
    pools.assert_close(got, pools.oracle(folder, rows))
    assert got.min() < 0
    assert got.max() > 1


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_04_05_several_labels_need_one_named(family: str) -> None:
    folder = pools.reward(family, num_labels=3, problem_type="regression")
    with pytest.raises(
        BadArgument,
        match=r"3 labels; got no label, expected one of \['LABEL_0', 'LABEL_1', "
        r"'LABEL_2'\]\.\nHint: ",
    ):
        RewardModel(model=folder, device="cpu").load()
    with pytest.raises(BadArgument, match="no label 'LABEL_3'"):
        RewardModel(model=folder, device="cpu", label="LABEL_3").load()
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        wanted = np.array(
            [
                model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0].tolist()
                for row in pools.POOL
            ]
        )
    for label, column in (("LABEL_1", 1), (2, 2), ("0", 0)):
        pools.assert_close(
            pools.scores(folder, pools.POOL, label=label), wanted[:, column], f"label {label!r}"
        )


# -- 13: company

COMPANY = [(prompt, f"{text} {i}") for i in range(3) for prompt, text in pools.POOL if prompt]

# -- 14: the head is float32


def test_trap_14_near_equal_candidates_do_not_tie() -> None:
    """A bfloat16 model: its own head gives ties, and the best of 64 would be decided by
    rounding.
    """
    folder = pools.reward("llama")
    rows = [("Which is best?", f"{'the same answer ' * 3}{i:02d}") for i in range(64)]
    scorer = RewardModel(model=folder, device="cpu", dtype="bfloat16")
    engine = scorer.engines[0]
    assert engine.model.dtype == torch.bfloat16
    with torch.no_grad():
        engine.model.score.weight.mul_(
            0.05
        )  # scores close together around 20, as reward models have them
        engine.head.body(engine.model)
    got = scorer(pools.batch(rows)) + 20.0
    tok = scorer.encoder.tokenizer
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.bfloat16
    ).eval()
    with torch.inference_mode():
        plain.score.weight.mul_(0.05)
        own = np.array(
            [
                plain(input_ids=torch.tensor([pools.ids_of(tok, *row)]))
                .logits[0, 0]
                .add(20)
                .float()
                .item()
                for row in rows
            ]
        )
    assert len(set(own.tolist())) < 10, "the bfloat16 head ties, or this tests nothing"
    assert len(set(got.tolist())) == len(rows)
    assert len(set(got.astype(np.float32).tolist())) > 32


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_trap_14_heads_of_encoders_are_float32_too(family: str) -> None:
    """Their heads are read by the model's own forward: the values have more bits than bfloat16
    has.
    """
    scorer = RewardModel(model=pools.reward(family), device="cpu", dtype="bfloat16")
    assert scorer.engines[0].model.dtype == torch.bfloat16
    got = torch.tensor(scorer(pools.batch([("Which?", f"answer {i}") for i in range(16)])))
    assert (got != got.to(torch.bfloat16).double()).sum() > 8


# -- 17: numbers


def half_folder(target: Path, dtype: Any) -> Path:
    _, tok = pools.plain(pools.reward("llama"))
    transformers.LlamaForSequenceClassification.from_pretrained(
        pools.reward("llama"), dtype=dtype
    ).save_pretrained(target)
    tok.save_pretrained(target)
    assert json.loads((target / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )
    return target


def test_trap_17_float32_on_a_cpu_whatever_the_checkpoint_is(tmp_path: Path) -> None:
    folder = half_folder(tmp_path, torch.bfloat16)
    scorer = RewardModel(model=folder, device="cpu")
    assert scorer.engines[0].model.dtype == torch.float32
    pools.assert_close(scorer(pools.batch(pools.POOL)), pools.oracle(folder, pools.POOL))
    for dtype in ("bfloat16", "float16", "float32"):
        other = RewardModel(model=folder, device="cpu", dtype=dtype)
        assert str(other.engines[0].model.dtype) == f"torch.{dtype}"
        assert (other.fingerprint == scorer.fingerprint) == (dtype == "float32")
    with pytest.raises(BadArgument, match=r"dtype is not one of .*got 'int8'"):
        RewardModel(model=folder, device="cpu", dtype="int8").load()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "bert"])
def test_trap_17_half_precision_is_as_near_as_transformers_own(family: str, dtype: str) -> None:
    """The error against float32 is at most a quarter above that of Transformers' own half
    precision, one row at a time.
    """
    folder = pools.reward(family)
    exact = pools.oracle(folder, COMPANY)
    auto = transformers.AutoModelForSequenceClassification
    half = auto.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="eager" if family == "gemma2" else None,
    ).eval()
    _, tok = pools.plain(folder)
    with torch.inference_mode():
        theirs = np.array(
            [
                half(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 0].item()
                for row in COMPANY
            ]
        )
    ours = pools.scores(folder, COMPANY, dtype=dtype)
    assert np.sqrt(((ours - exact) ** 2).mean()) <= 1.25 * np.sqrt(((theirs - exact) ** 2).mean())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_17_broken_weights_are_not_hidden(family: str, value: float, tmp_path: Path) -> None:
    model, tok = pools.plain(pools.reward(family))
    broken = type(model)(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.get_input_embeddings().weight[tok.convert_tokens_to_ids("q")] = value
    broken.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    rows = [("Hi", "fine"), ("Hi", "a q in it"), ("Ho", "fine too")]
    got = RewardModel(model=tmp_path, device="cpu")(pools.batch(rows))
    assert np.isnan(got).tolist() == [False, True, False]
    pools.assert_close(got[[0, 2]], pools.oracle(pools.reward(family), [rows[0], rows[2]]))


# -- 18: the head's weights


def test_trap_18_a_missing_head_is_an_error() -> None:
    """Transformers would put a random one in its place, and warn."""
    with pytest.raises(
        BadInput,
        match=r"lack \['score\.weight'\]: the head would be random; expected all weights\.\nHint: "
        r"this is not a reward model",
    ):
        RewardModel(model=pools.causal("llama"), device="cpu").load()


def test_trap_18_a_causal_model_without_its_projection_is_an_error(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    with pytest.raises(BadInput, match=r"lack \['lm_head\.weight'\]: the head would be random"):
        LogProb(model=folder, device="cpu").load()


def test_trap_18_only_safetensors(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    model, _ = pools.plain(pools.reward("llama"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"no safetensors weights in .*\nHint: convert them once"):
        RewardModel(model=folder, device="cpu").load()


def test_trap_18_openrlhf_normalisation_is_applied(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "normalize_reward": True, "mean": 2.0, "std": 0.5})
    )
    got = RewardModel(model=folder, device="cpu")(pools.batch(pools.POOL))
    pools.assert_close(got, (pools.oracle(pools.reward("llama"), pools.POOL) - 2.0) / 0.5)
    for wrong in ({"mean": 2.0}, {"mean": 1.0, "std": 0.0}, {"mean": None, "std": 1.0}):
        (folder / "config.json").write_text(
            json.dumps({**config, "normalize_reward": True, **wrong})
        )
        with pytest.raises(BadInput, match=r"normalize_reward .*mean and .*std"):
            RewardModel(model=folder, device="cpu").load()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no model in .*: no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json' is not a valid JSON file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "cannot load .*model"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    ],
)
def test_trap_18_a_damaged_folder_is_told_as_such(damage: Any, says: str, tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    damage(folder)
    with pytest.raises(BadInput, match=says):
        RewardModel(model=folder, device="cpu")(pools.batch(pools.POOL))


def test_trap_18_no_such_folder() -> None:
    with pytest.raises(BadInput, match=r"no directory '\./nowhere'"):
        RewardModel(model="./nowhere", device="cpu").load()
