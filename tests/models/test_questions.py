"""A question is said once, and a turn that was begun goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
import tiny
import torch
from row_texts import plain_ids, plain_scores

import prefmill as pm
from prefmill.errors import BadRow
from prefmill.models.encoder import Encoder
from prefmill.sampling import EndpointSampler, LocalSampler
from prefmill.sampling.samplers import Request
from prefmill.scoring import LogProb, RewardModel

pools.one_thread()

# -- whole conversations

HI = {"role": "user", "content": "Hi"}

HELLO = {"role": "assistant", "content": "Hello"}

BYE = {"role": "assistant", "content": "Bye"}


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Hi", [HI, HELLO]),  # the binarised UltraFeedback
        ([HI], [HI, HELLO]),  # messages that are repeated
        ([{"from": "human", "value": "Hi"}], [HI, {"from": "gpt", "value": "Hello"}]),
        ("Hi", "Hello"),
        ("Hi", [HELLO]),
    ],
)
def test_the_question_is_said_once(prompt: Any, completion: Any) -> None:
    from prefmill.table.conversations import conversation

    talk = conversation(prompt, completion)
    assert (talk.prompt, talk.completion) == ([HI], [HELLO])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = Encoder(tiny.tokenizer(), template="chat", starts=True)
        batch = pa.RecordBatch.from_pylist([{"prompt": prompt, "completion": completion}])
        rows = encoder.encode(batch["prompt"], batch["completion"], np.arange(1)).rows
    assert rows.row(0).tolist() == plain_ids(pools.reward("llama"), [HI, HELLO])
    assert rows.starts[0] == len(plain_ids(pools.reward("llama"), [HI], add_generation_prompt=True))


def test_a_repeated_prompt_may_have_a_system_message_before_it() -> None:
    from prefmill.table.conversations import conversation

    system = {"role": "system", "content": "S"}
    for prompt in ("Hi", [HI], [system, HI]):
        talk = conversation(prompt, [system, HI, HELLO])
        assert (talk.prompt, talk.completion) == ([system, HI], [HELLO])
    goes_on = conversation([HI, HELLO], [HI, BYE])  # a prompt that another turn follows
    assert goes_on.messages == [HI, HELLO, HI, BYE]


def test_whole_conversations_in_score_and_training(tmp_path: Path) -> None:
    """The schema of the binarised UltraFeedback, with several turns: the prompt is what TRL's
    extraction leaves before the answer.
    """
    from prefmill.training.rows import pair_ids, read_pairs

    turns = [{"role": "system", "content": "S"}, HI, HELLO, {"role": "user", "content": "More"}]
    rows = [("Hi", [HI, HELLO], [HI, BYE]), ("Hi", [*turns, HELLO], [*turns, BYE])]
    pool = pl.DataFrame({"prompt": [p for p, _, _ in rows], "completion": [c for _, c, _ in rows]})
    pm.score(
        pool,
        tmp_path / "out.parquet",
        scorer=RewardModel(model=pools.reward("llama"), device="cpu"),
    )
    wanted = plain_scores(pools.reward("llama"), [chosen for _, chosen, _ in rows])
    pools.assert_close(pq.read_table(tmp_path / "out.parquet")["score"].to_numpy(), wanted)
    pairs = pl.DataFrame(rows, schema=["prompt", "chosen", "rejected"], orient="row")
    encoder = RewardModel(model=pools.reward("llama"), device="cpu").encoder
    ids, _, _ = pair_ids(
        encoder, read_pairs(pairs, where="train"), where="train", on_bad_row="error"
    )
    for side, place in (("chosen", 1), ("rejected", 2)):
        assert ids[side] == [plain_ids(pools.reward("llama"), row[place]) for row in rows]
    trained = pm.train_policy(
        pairs, tmp_path / "dpo", model=pools.causal("llama"), method="dpo", steps=1
    )
    assert trained.rows_used == 2


def test_a_conversation_without_an_answer_and_one_without_the_prompt() -> None:
    encoder = Encoder(tiny.tokenizer(), template="chat")

    def encode(prompt: str, completion: list[dict[str, str]]) -> list[int]:
        batch = pa.RecordBatch.from_pylist([{"prompt": prompt, "completion": completion}])
        return (
            encoder.encode(batch["prompt"], batch["completion"], np.arange(1)).rows.row(0).tolist()
        )

    with pytest.raises(
        BadRow, match="whole conversation without an answer; its last message is of 'user'"
    ):
        encode("Hi", [HI])
    with pytest.warns(UserWarning, match="a whole conversation in which its prompt does not stand"):
        found = encode("another", [HI, HELLO])
    assert found == plain_ids(pools.reward("llama"), [HI, HELLO])


# -- a prompt that ends in a message of the assistant


def test_a_prompt_of_the_assistant_is_continued(tmp_path: Path) -> None:
    """As TRL asks a policy: `continue_final_message`. The answer is scored in the message that it
    goes on in.
    """
    prompt = [HI, {"role": "assistant", "content": "Well, "}]
    folder = pools.causal("llama")
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=4)
    wanted = plain_ids(folder, prompt, continue_final_message=True)
    assert sampler.encoder.prompts([prompt]) == [wanted]
    model, tok = pools.plain(folder, "causal")
    with torch.inference_mode():
        drawn = model.generate(
            torch.tensor([wanted]),
            attention_mask=torch.ones(1, len(wanted), dtype=torch.long),
            max_new_tokens=4,
            do_sample=False,
        )[0, len(wanted) :]
    (answer,) = sampler.sample([Request(prompt, 0.0, 0)])
    assert answer.text == tok.decode(drawn, skip_special_tokens=True)
    whole = [HI, {"role": "assistant", "content": "Well, hello"}]
    for completion in ("hello", [{"role": "assistant", "content": "hello"}]):
        batch = pa.RecordBatch.from_pylist([{"prompt": prompt, "completion": completion}])
        scorer = RewardModel(model=pools.reward("llama"), device="cpu")
        pools.assert_close(scorer(batch), plain_scores(pools.reward("llama"), [whole]))
        rows = (
            LogProb(model=folder, device="cpu")
            .encoder.encode(batch["prompt"], batch["completion"], np.arange(1))
            .rows
        )
        assert (rows.row(0).tolist(), rows.starts[0]) == (plain_ids(folder, whole), len(wanted))


def test_a_prompt_of_the_assistant_goes_on_at_a_server() -> None:
    asked: list[Any] = []

    def answer(path: str, body: Any, headers: Any) -> Any:
        asked.append(body)
        return 200, {}, {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}

    prompt = [HI, {"role": "assistant", "content": "Well, "}]
    with serving.server(answer) as url:
        EndpointSampler(url=url, model="m", concurrency=1).sample(
            [Request(prompt, 0.0, 0), Request([HI], 0.0, 0)]
        )
    going_on = [
        (body.get("continue_final_message"), body.get("add_generation_prompt")) for body in asked
    ]
    assert going_on == [(True, False), (None, None)]


def test_dpo_does_not_close_a_prompt_of_the_assistant(tmp_path: Path) -> None:
    pairs = pl.DataFrame({"prompt": [[HI, HELLO]], "chosen": [[HELLO]], "rejected": [[BYE]]})
    with pytest.raises(BadRow, match="ends in an assistant's message, which TRL's DPO would close"):
        pm.train_policy(pairs, tmp_path / "out", model=pools.causal("llama"), method="dpo", steps=1)
