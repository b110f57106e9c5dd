"""Policies: SFT and DPO learn what the rows say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tiny
from bases import pairs

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest.importorskip("trl", reason="needs the extra prefmill[train]")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[train]")


from prefmill.training import trl as trainers  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- policies

WINNERS = pl.DataFrame({"prompt": ["ab?", "cd?"] * 4, "completion": ["yes", "no way"] * 4})


def test_sft_learns_to_answer_and_to_stop(policy_base, caught, tmp_path):
    """Loss on the completion and its end only; what comes out answers what a sampler asks."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = pm.train_policy(
        WINNERS, tmp_path / "policy", model=policy_base, epochs=40, batch_size=8, learning_rate=1e-2
    )
    assert (report.rows_used, report.steps, report.method) == (8, 40, "sft")
    tok, data = caught["tokenizer"], caught["trainer"].train_dataset
    for row in data:
        learned = [
            t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
        ]
        asked = row["input_ids"][: len(row["input_ids"]) - len(learned)]
        said = tok.decode(learned)
        assert said in ("yes<eos>", "no way<eos>")
        prompt = "ab?" if said.startswith("yes") else "cd?"
        talk = [{"role": "user", "content": prompt}]
        assert (
            asked
            == tok.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
    model, tok = (
        kind.from_pretrained(tmp_path / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert model.generation_config.eos_token_id == [tok.eos_token_id]
    for prompt, answer in WINNERS.unique().rows():
        ids = tok.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )[0, ids.shape[1] :]
        assert tok.decode(out) == answer + "<eos>"


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_dpo_moves_towards_the_chosen(lora_rank, policy_base, caught, tmp_path):
    if lora_rank:
        pytest.importorskip("peft", reason="needs the extra prefmill[lora]")
    frame = pairs()
    report = pm.train_policy(
        frame,
        tmp_path / "policy",
        model=policy_base,
        method="dpo",
        steps=12,
        batch_size=8,
        learning_rate=1e-2,
        lora_rank=lora_rank,
    )
    assert report.losses[0][1] == pytest.approx(
        np.log(2), abs=1e-5
    )  # policy and reference are one at the first step
    assert report.loss < 0.6
    scorer = pm.ImplicitReward(model=tmp_path / "policy", reference=policy_base, device="cpu")
    scores = {
        side: scorer(
            pa.record_batch(
                {"prompt": frame["prompt"].to_arrow(), "completion": frame[side].to_arrow()}
            )
        )
        for side in ("chosen", "rejected")
    }
    assert (scores["chosen"] > scores["rejected"]).mean() > 0.9
    trained = {
        (tuple(row["prompt_ids"] + row[f"{side}_ids"]), len(row["prompt_ids"]))
        for row in caught["trainer"].train_dataset
        for side in ("chosen", "rejected")
    }
    for side in ("chosen", "rejected"):
        rows = scorer.encoder.encode(
            frame["prompt"].to_arrow(), frame[side].to_arrow(), np.arange(16)
        ).rows
        assert {tuple(rows.row(i).tolist()) for i in range(16)} <= {ids for ids, _ in trained}


def test_policy_rows_left_out_are_counted(policy_base, tmp_path):
    frame = pl.concat(
        [
            WINNERS,
            pl.DataFrame({"prompt": ["x" * 90, None, "a"], "completion": ["y" * 90, "a", None]}),
        ]
    )
    report = pm.train_policy(frame, tmp_path / "policy", model=policy_base, steps=1, max_length=100)
    assert (report.rows_in, report.rows_used) == (11, 8)
    assert report.dropped == {"null_prompt": 1, "null_completion": 1, "too_long": 1}


def test_conversations_and_other_column_names(policy_base, tmp_path):
    talks = pl.DataFrame(
        {
            "messages": [
                [{"role": "user", "content": p}, {"role": "assistant", "content": c}]
                for p, c in WINNERS.rows()
            ]
            + [None]
        }
    )
    talks.write_parquet(tmp_path / "talks.parquet")
    named = WINNERS.rename({"prompt": "asked", "completion": "said"})
    one = pm.train_policy(tmp_path / "talks.parquet", tmp_path / "a", model=policy_base, steps=2)
    pm.train_policy(
        named,
        tmp_path / "b",
        model=policy_base,
        steps=2,
        roles={"prompt": "asked", "completion": "said"},
    )
    assert one.dropped == {"null_completion": 1}
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_the_end_of_a_turn_stops_an_answer():
    tok = tiny.tokenizer()
    tok.add_special_tokens(
        {"additional_special_tokens": ["<|end|>"]}, replace_extra_special_tokens=False
    )
    assert trainers.stop_ids(tok, None) == [tok.eos_token_id]
    tok.chat_template = tiny.CHAT_TEMPLATE.replace("{{ eos_token }}", "<|end|>\n")
    assert trainers.stop_ids(tok, 5) == [5, tok.eos_token_id, tok.convert_tokens_to_ids("<|end|>")]
