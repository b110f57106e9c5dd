"""Value heads of TRL, LLaMA-Factory, OpenRLHF and others: their owners' numbers, or a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import owners
import polars as pl
import pools
import pytest
import tiny
import torch
from command import prefmill
from safetensors.torch import load_file, save_file

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.scoring import LogProb, RewardModel

pytestmark = pytest.mark.score
pools.one_thread()

OPENRLHF: dict[str, Any] = {"architectures": ["RewardModel"], "body": "bare", "bias": False}


def scored(folder: Path, **options: Any) -> np.ndarray:
    return RewardModel(model=folder, device="cpu", **options)(pools.batch(pools.POOL))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v_head.summary", {}),
        ("v_head.summary", {"family": "gpt2"}),
        ("v_head.summary", {"wrapper": "pretrained_model."}),
        ("v_head.summary", {"apart": True}),
        ("value_head", OPENRLHF),
        ("value_head", {**OPENRLHF, "family": "qwen2"}),
        ("own_head", {**OPENRLHF, "value_head_prefix": "own_head"}),
        ("v_head", {**OPENRLHF, "architectures": ["AtheneForSequenceClassification"]}),
        ("regression_head", {**OPENRLHF, "architectures": ["LlamaRewardModel"]}),
    ],
)
def test_the_owners_numbers(name: str, shape: dict[str, Any], tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", name, **shape)
    bias, family = shape.get("bias", True), shape.get("family", "llama")
    scorer = RewardModel(model=folder, device="cpu")
    pools.assert_close(
        scorer(pools.batch(pools.POOL)), owners.valued(pools.POOL, family, bias=bias)
    )
    assert scorer.load() == "streams"
    assert scorer.fingerprint["pooling"] == "last"


@pytest.mark.parametrize("more", [{"invariant": True}, {"share_prefix": "off"}, {"compile": False}])
def test_every_way_of_running_reads_the_head(more: dict[str, Any], tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", "v_head.summary")
    pools.assert_close(scored(folder, **more), owners.valued(pools.POOL))


def test_half_precision_keeps_the_head_in_float32(tmp_path: Path) -> None:
    """As TRL does; the body is rounded, the head is not."""
    folder = owners.value_head(tmp_path / "model", "v_head.summary")
    scorer = RewardModel(model=folder, device="cpu", dtype="bfloat16")
    got, wanted = scorer(pools.batch(pools.POOL)), owners.valued(pools.POOL)
    assert scorer.engines[0].model.score.weight.dtype == torch.float32
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()


def test_the_last_token_counts_where_it_is_the_pad_token(tmp_path: Path) -> None:
    """Value heads read what is attended to; Transformers' rule would take the token before."""
    folder = owners.value_head(tmp_path / "model", "value_head", **OPENRLHF)
    eos = tiny.tokenizer().eos_token_id
    owners.configure(folder, pad_token_id=eos)
    with pytest.warns(UserWarning, match="rows end in the pad token, and pooling is 'last'"):
        got = scored(folder)
    pools.assert_close(got, owners.valued(pools.POOL, bias=False))
    with pytest.warns(UserWarning, match="pooling is 'hf'"):
        other = scored(folder, pooling="hf")
    assert np.abs(other - got).max() > 1e-3


@pytest.mark.parametrize("buffers", [False, True])
def test_openrlhf_normalises(buffers: bool, tmp_path: Path) -> None:
    """With the mean and deviation of its configuration, or the buffers of older versions."""
    saved = {"mean": 0.5, "std": 2.0}
    where: dict[str, Any] = {"buffers": saved} if buffers else saved
    folder = owners.value_head(
        tmp_path / "model", "value_head", normalize_reward=True, **where, **OPENRLHF
    )
    pools.assert_close(scored(folder), (owners.valued(pools.POOL, bias=False) - 0.5) / 2.0)
    owners.configure(folder, normalize_reward=False)
    pools.assert_close(scored(folder), owners.valued(pools.POOL, bias=False))


def test_openrlhf_with_a_head_called_score(tmp_path: Path) -> None:
    """Transformers would take two labels, for none are named, and another token."""
    folder = owners.value_head(tmp_path / "model", "score", normalize_reward=False, **OPENRLHF)
    owners.configure(folder, pad_token_id=tiny.tokenizer().eos_token_id, id2label=None)
    with pytest.warns(UserWarning, match="pooling is 'last'"):
        got = scored(folder)
    pools.assert_close(got, owners.valued(pools.POOL, bias=False))


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    def refused(folder: Path, says: str) -> None:
        with pytest.raises(BadInput, match=says):
            scored(folder)

    folder = owners.value_head(tmp_path / "two", "v_head.summary")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "score.weight": torch.ones(1, 32)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    refused(folder, r"head of .*two' cannot be told; got \['score', 'v_head.summary'\]")
    folder = owners.value_head(tmp_path / "layers", "v_head.summary.0")
    refused(folder, "is not one linear layer; got the weights 'v_head.summary.0.")
    folder = owners.value_head(tmp_path / "wide", "v_head", bias=False)
    weights = load_file(folder / "model.safetensors")
    weights["v_head.weight"] = torch.ones(2, 32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"'v_head' does not fit; got the shape \(2, 32\), expected \(1, 32\)")
    refused(
        owners.value_head(tmp_path / "more", "v_head", bias=False, buffers={"gate.weight": 1.0}),
        "no place for weights .*gate.weight",
    )
    refused(
        owners.value_head(tmp_path / "less", "v_head", num_hidden_layers=3),
        r"lack \['model.layers.2",
    )
    critic = {**OPENRLHF, "architectures": ["CriticModel"]}
    refused(owners.value_head(tmp_path / "critic", "value_head", **critic), "is a critic")


def test_a_pickled_head_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the hint is run, and what it writes is the head."""
    folder = owners.value_head(tmp_path / "model", "v_head.summary", apart=True)
    head = load_file(folder / "value_head.safetensors")
    torch.save(head, folder / "value_head.bin")
    (folder / "value_head.safetensors").unlink()
    with pytest.raises(BadInput, match=r"is pickled; expected value_head\.safetensors") as caught:
        scored(folder)
    line = re.search(r'python -c "(.+?)"', str(caught.value))
    assert line is not None
    monkeypatch.chdir(folder)
    exec(line[1])
    pools.assert_close(scored(folder), owners.valued(pools.POOL))


def test_a_value_head_is_of_no_policy(tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", "v_head.summary")
    with pytest.raises(BadInput, match=r"no place for weights .*v_head\.summary"):
        LogProb(model=folder, device="cpu")(pools.batch(pools.POOL))


def test_vllm_has_no_place_for_it(tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", "v_head.summary")
    with pytest.raises(BadArgument, match=r"vLLM reads no value head; got 'v_head\.summary'"):
        pm.VllmReward(model=folder).load()


def test_the_fingerprint_covers_the_head(tmp_path: Path) -> None:
    prints = []
    for seed in (1, 2):
        folder = owners.value_head(tmp_path / f"model{seed}", "v_head.summary", apart=True)
        head = owners.layer(seed)
        names = ("v_head.summary.weight", "v_head.summary.bias")
        save_file(dict(zip(names, head, strict=True)), folder / "value_head.safetensors")
        prints.append(RewardModel(model=folder, device="cpu").fingerprint["model"])
    assert prints[0] != prints[1]


def test_through_the_command(tmp_path: Path) -> None:
    folder = owners.value_head(tmp_path / "model", "v_head.summary", apart=True)
    rows = [row for row in dict.fromkeys(pools.POOL) if all(row)]
    frame = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
    frame.write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "scored.parquet"
    done = prefmill(
        "score",
        tmp_path / "pool.parquet",
        "-o",
        out,
        "--model",
        folder,
        "--device",
        "cpu",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_in"] == len(rows)
    got = pl.read_parquet(out)
    wanted = owners.valued(got.select("prompt", "completion").rows())
    pools.assert_close(got["score"].to_numpy(), wanted)
