"""Outputs of a model that are not one score a row, and rows that break it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pools
import pytest
import tiny
import torch
from coded import with_code

from prefmill.errors import BadInput, BadRow
from prefmill.scoring import ImplicitReward, LogProb, RewardModel

pools.one_thread()

# -- forms of outputs, rows that break a model


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
        match=r"row 1 has the token '<new>', which the model does not; got id 103, expected one "
        r"below 103",
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


# -- classifiers


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
