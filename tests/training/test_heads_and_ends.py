"""Training: a classifier gets a new head, what is held out is said, pairs without a preference are
counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import tiny
import tiny_models

import prefmill as pm
from prefmill.errors import BadInput

pytest.importorskip("trl")


def pairs_of(prompts: list[str], **more: Any) -> pl.DataFrame:
    sides = {
        "chosen": [f"good {i}" for i in range(len(prompts))],
        "rejected": [f"bad {i}" for i in range(len(prompts))],
    }
    return pl.DataFrame({"prompt": prompts, **sides, **more})


@pytest.mark.parametrize(("family", "labels"), [("llama", 3), ("bert", 3), ("bert", 2)])
def test_a_classifier_gets_a_new_head(tmp_path: Path, family: str, labels: int) -> None:
    """The head of several labels goes, the weights under it stay; the docs promised it, and it was
    refused.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from prefmill.training.trl import load, training

    folder = tiny_models.save_reward_model(family, tmp_path / "classifier", num_labels=labels)
    with training(0):
        trainee = load("reward", str(folder), None, device="cpu", lora=False)
    assert trainee.model.config.num_labels == 1
    before = AutoModelForSequenceClassification.from_pretrained(folder).base_model.state_dict()
    after = trainee.model.base_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "embed" not in name)
    report = pm.train_reward(
        pairs_of(["a", "b", "c", "d"]),
        tmp_path / "out",
        model=folder,
        steps=1,
        holdout=0,
        batch_size=2,
    )
    assert report.rows_used == 4
    scores = pm.RewardModel(model=tmp_path / "out")(
        pa.record_batch({"prompt": ["a"], "completion": ["b"]})
    )
    assert scores.shape == (1,)


def test_weights_of_another_size_are_no_head(tmp_path: Path) -> None:
    """Only a head may be left out: layers of another size than the configuration says are an
    error.
    """
    import json

    folder = tiny_models.save_reward_model("llama", tmp_path / "model", num_labels=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(BadInput, match=r"cannot load|lack"):
        pm.train_reward(pairs_of(["a", "b"]), tmp_path / "out", model=folder, steps=1, holdout=0)


@pytest.mark.parametrize("prompts", [["same"] * 30, ["one"] * 2])
def test_all_pairs_of_one_prompt(tmp_path: Path, prompts: list[str]) -> None:
    """30 rows were "the input has no rows": all were held out."""
    folder = tiny_models.save_reward_model("llama", tmp_path / "model")
    seeds = []
    for seed in range(40):  # which prompts are held out hangs on the seed
        from prefmill.training.rows import hold_out, read_pairs

        kept, _ = hold_out(read_pairs(pairs_of(prompts), where="train"), 0.5, seed, where="train")
        seeds += [seed] if not kept.frame.height else []
    assert seeds
    words = (
        rf"all {len(prompts)} pairs are held out, for they have 1 prompts in all; got holdout "
        rf"0\.5.*\nHint: --holdout 0"
    )
    with pytest.raises(BadInput, match=words):
        pm.train_reward(
            pairs_of(prompts), tmp_path / "out", model=folder, steps=1, holdout=0.5, seed=seeds[0]
        )


def test_equal_sides_are_no_preference(tmp_path: Path) -> None:
    """Of texts and of messages, in training and in what is measured on."""
    folder = tiny_models.save_reward_model("llama", tmp_path / "model")
    texts = pl.DataFrame(
        {"prompt": ["a", "b", "c"], "chosen": ["x", "y", "z"], "rejected": ["x", "n", "z"]}
    )
    talks = texts.with_columns(
        *(
            pl.col(side).map_elements(
                lambda text: [{"role": "assistant", "content": text}],
                return_dtype=pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
            )
            for side in ("chosen", "rejected")
        )
    )
    for name, pairs in (("texts", texts), ("talks", talks)):
        report = pm.train_reward(
            pairs, tmp_path / name, model=folder, steps=1, batch_size=1, test={"again": pairs}
        )
        assert (report.rows_in, report.rows_used, report.dropped) == (3, 1, {"same_text": 2})
        assert report.held_out[0].dropped == {"same_text": 2}
        assert report.held_out[0].accuracy.pairs == 1
    with pytest.raises(BadInput, match=r"nothing to train on; got 0 usable rows \(1 same_text\)"):
        pm.train_reward(texts[:1], tmp_path / "none", model=folder, steps=1, holdout=0)


# -- log-probabilities


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_causal_model(
        "llama", tmp_path_factory.mktemp("policy") / "model", tok=tiny.tokenizer()
    )


@pytest.fixture(scope="module")
def plain_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tok = tiny.tokenizer()
    tok.chat_template = None
    return tiny_models.save_causal_model(
        "llama", tmp_path_factory.mktemp("policy") / "plain", tok=tok
    )


@pytest.mark.parametrize("which", ["policy", "plain_policy"])
def test_an_answer_that_was_cut_off_has_no_end_token(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What the sampler summed over the tokens it drew is what the scorer says: of answers cut off,
    and of those that ended.
    """
    model = request.getfixturevalue(which)
    sampler = pm.LocalSampler(model=model, max_new_tokens=24)
    prompts = pl.DataFrame({"prompt": [f"p{i}" for i in range(30)]})
    pm.sample(prompts, tmp_path / "pool.parquet", sampler=sampler, n=4, temperatures=[1.0])
    pm.score(tmp_path / "pool.parquet", tmp_path / "scored.parquet", scorer=pm.LogProb(model=model))
    rows = pl.read_parquet(tmp_path / "scored.parquet")
    # Where the text is read as the tokens that were drawn: one token a character, so that only
    # unknown ones differ.
    same = rows.filter(
        pl.col("completion").str.len_chars() + (pl.col("finish_reason") == "stop")
        == pl.col("n_tokens")
    )
    assert set(same["finish_reason"]) == {"length", "stop"}
    assert same["score"].to_list() == pytest.approx(same["logprob"].to_list(), abs=1e-3)
    implicit = pm.ImplicitReward(model=model, reference=model, beta=1.0)
    pm.score(tmp_path / "pool.parquet", tmp_path / "implicit.parquet", scorer=implicit)
    found = pl.read_parquet(tmp_path / "implicit.parquet").join(
        same.select("id", "logprob"), on="id"
    )
    assert found["score_policy_logprob"].to_list() == pytest.approx(
        found["logprob_right"].to_list(), abs=1e-3
    )


def test_an_empty_completion_is_not_the_best(plain_policy: Path, tmp_path: Path) -> None:
    """Without an end token nothing is summed, and 0 is the best log-probability that there is."""
    from prefmill.errors import BadRow

    pool = pl.DataFrame(
        {"prompt": ["Hi", "Hi"], "completion": ["", "Yo"], "finish_reason": ["length", "length"]}
    )
    for scorer in (
        pm.LogProb(model=plain_policy),
        pm.ImplicitReward(model=plain_policy, reference=plain_policy),
    ):
        with pytest.raises(BadRow, match="row 0 has no token that could be scored"):
            pm.score(pool, tmp_path / "out.parquet", scorer=scorer, overwrite=True)
        done = pm.score(
            pool, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null", overwrite=True
        )
        assert done.null == {"no_tokens": 1}
        assert pl.read_parquet(tmp_path / "out.parquet")["score"].is_null().to_list() == [
            True,
            False,
        ]
