"""A row's text depends on nothing but the row: not on its neighbours, nor on how a file is typed.
The oracle is the tokenizer's own template on the row as it was written."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
import tiny
import torch

import prefmill as pm
from prefmill.errors import BadInput, BadRow
from prefmill.models.tokens import Encoder
from prefmill.sampling import EndpointSampler, LocalSampler
from prefmill.sampling.samplers import Answer, Request
from prefmill.scoring import EndpointScorer, JudgeScorer, LogProb, RewardModel

pools.one_thread()

#: prints whatever a message holds, so that a field that is not the row's own shows
TOOLS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['tool_calls'] is defined %}{{ m['tool_calls'] | tojson }}"
    "{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def with_template(folder: Path, target: Path, template: str) -> Path:
    shutil.copytree(folder, target)
    tok = tiny.tokenizer()
    tok.chat_template = template
    tok.save_pretrained(target)
    return target


def plain_ids(folder: Path, messages: list[dict[str, Any]], **how: Any) -> list[int]:
    """The ids of a conversation by the tokenizer's own template."""
    _, tok = pools.plain(folder)
    return tok(tok.apply_chat_template(messages, tokenize=False, **how), add_special_tokens=False)[
        "input_ids"
    ]


def plain_scores(folder: Path, talks: list[list[dict[str, Any]]]) -> np.ndarray:
    model, _ = pools.plain(folder)
    with torch.inference_mode():
        return np.array(
            [
                model(input_ids=torch.tensor([plain_ids(folder, talk)])).logits[0, 0].item()
                for talk in talks
            ]
        )


# -- fields of other rows
# ------------------------------------------------------------------------------------------------------------------

TALKS = [
    [{"role": "user", "content": "weather?"}, call("weather", city="Paris")],
    [{"role": "user", "content": "search!"}, call("search", query="x", top=3)],
    [{"role": "user", "content": "where?", "name": "Ann"}, call("place", at={"x": 1})],
    [{"role": "user", "content": "list?"}, call("list", items=[{"a": 1}, {"b": 2}])],
]


def test_tool_calls_have_no_arguments_of_other_rows(tmp_path: Path) -> None:
    """Before, the first row said `{"city": "Paris", "query": null, "top": null}` next to the
    second.
    """
    folder = with_template(pools.reward("llama"), tmp_path / "model", TOOLS)
    rows = [{"prompt": talk[:1], "completion": talk[1:]} for talk in TALKS]
    wanted = plain_scores(folder, TALKS)
    scorer = RewardModel(model=folder, device="cpu")
    pools.assert_close(scorer(pa.RecordBatch.from_pylist(rows)), wanted, "as Arrow")
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    for name in ("pool.jsonl", "pool.parquet"):
        pm.score(tmp_path / name, tmp_path / f"of-{name}.parquet", scorer=scorer)
        got = pq.read_table(tmp_path / f"of-{name}.parquet")["score"].to_numpy()
        pools.assert_close(got, wanted, name)


def test_prompts_and_training_rows_have_no_fields_of_other_rows(tmp_path: Path) -> None:
    from prefmill.training.rows import pair_ids, read_pairs

    folder = with_template(pools.causal("llama"), tmp_path / "model", TOOLS)
    encoder = LocalSampler(model=folder, device="cpu").encoder
    tool = {"role": "tool", "content": "ok"}
    prompts = [[*talk, tool] for talk in TALKS]
    together = pa.array(prompts).to_pylist()
    wanted = [plain_ids(folder, prompt, add_generation_prompt=True) for prompt in prompts]
    assert encoder.prompts(together) == wanted
    sides = {
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    pairs = pa.Table.from_pylist([{"prompt": prompt, **sides} for prompt in prompts])
    ids, _, _ = pair_ids(
        encoder, read_pairs(pairs, where="train"), where="train", on_bad_row="error"
    )
    said = [{"role": "assistant", "content": "a"}]
    assert ids["chosen"] == [plain_ids(folder, [*prompt, *said]) for prompt in prompts]


def test_the_same_prompt_in_files_of_other_types_is_one_prompt() -> None:
    """The report on a test file counts prompts that were trained on."""
    from prefmill.training.rows import spelled

    alone = pl.Series([[{"role": "user", "content": "hi"}]])
    beside = pl.Series(
        [
            [{"role": "user", "content": "hi", "name": "Ann"}],
            [{"role": "user", "content": "hi", "name": None}],
        ]
    )
    assert spelled(alone)[0] == spelled(beside)[1] != spelled(beside)[0]


def test_nulls_in_parts(tmp_path: Path) -> None:
    """A part without an image has none, though another part has."""
    template = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{{ p.keys() | join('+') }}{% endfor %}{{ eos_token }}{% endfor %}"
    folder = with_template(pools.reward("llama"), tmp_path / "model", template)
    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "completion": [{"role": "assistant", "content": []}],
        },
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "b", "lang": "en"}]}],
            "completion": [{"role": "assistant", "content": []}],
        },
    ]
    encoder = RewardModel(model=folder, device="cpu").encoder
    batch = pa.RecordBatch.from_pylist(rows)
    found = encoder.encode(batch["prompt"], batch["completion"], np.arange(2)).rows
    for i, row in enumerate(rows):
        assert found.row(i).tolist() == plain_ids(folder, [*row["prompt"], *row["completion"]])


# -- mixed forms
# ---------------------------------------------------------------------------------------------------------------------------


def test_openai_and_sharegpt_rows_in_one_file(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello"},
        {"prompt": [{"from": "human", "value": "Ho"}], "completion": "Yo"},
        {
            "prompt": [{"from": "system", "value": "S"}, {"from": "human", "value": "H"}],
            "completion": "A",
        },
    ]
    talks = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Yo"}],
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "H"},
            {"role": "assistant", "content": "A"},
        ],
    ]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pm.score(
        tmp_path / "pool.jsonl",
        tmp_path / "out.parquet",
        scorer=RewardModel(model=pools.reward("llama"), device="cpu"),
    )
    pools.assert_close(
        pq.read_table(tmp_path / "out.parquet")["score"].to_numpy(),
        plain_scores(pools.reward("llama"), talks),
    )


def test_different_sharegpt_prompts_have_different_hashes() -> None:
    """Next to a row of OpenAI's names every ShareGPT row was the same text, and so drew the same
    seed and split.
    """
    from prefmill.table.chance import spelled

    prompts = [
        [{"role": "user", "content": "Hi"}],
        [{"from": "human", "value": "a"}],
        [{"from": "human", "value": "b"}],
    ]
    both = spelled(
        pl.Series(
            "p",
            prompts,
            dtype=pl.List(
                pl.Struct(dict.fromkeys(("role", "content", "from", "value"), pl.String))
            ),
        )
    )
    assert both.to_list() == ["4:user2:Hi", "5:human1:a", "5:human1:b"]
    alone = spelled(pl.Series("p", prompts[1:]))
    assert alone.to_list() == both.to_list()[1:]


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_json_text_of_messages_is_refused_and_not_read(column: str, tmp_path: Path) -> None:
    """As a CSV file holds them, or a column that has texts too: a model read JSON."""
    spelled = json.dumps([{"role": "user", "content": "Hi"}])
    row = {"prompt": "p", "completion": "c", column: f" {spelled}\n"}
    pl.DataFrame([{"prompt": "[not] JSON [1]", "completion": "[1, 2]"}, row]).write_csv(
        tmp_path / "pool.csv"
    )
    scorer = RewardModel(model=pools.reward("llama"), device="cpu")
    with pytest.raises(
        BadRow, match="is the JSON text of a message list; got text, expected messages"
    ) as caught:
        pm.score(tmp_path / "pool.csv", tmp_path / "out.parquet", scorer=scorer)
    assert caught.value.reason == "bad_message"
    done = pm.score(
        tmp_path / "pool.csv", tmp_path / "out.parquet", scorer=scorer, on_bad_row="null"
    )
    assert (done.rows_scored, done.null) == (1, {"bad_message": 1})
    if column == "prompt":
        sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=1)
        with pytest.raises(BadRow, match="JSON text of a message list"):
            pm.sample(tmp_path / "pool.csv", tmp_path / "sampled.parquet", sampler=sampler, n=2)


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_texts_and_messages_in_one_column_are_refused(column: str, tmp_path: Path) -> None:
    """As over two files: what a mixed column says of a row is nobody's guess. The places of both
    kinds are named.
    """
    said = {"prompt": "Hi", "completion": "Hello"}
    mixed = [said, {**said, column: [{"role": "user", "content": "Ho"}]}]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    says = rf"(?s)the column '{column}' .*text \(.*line 1\) and a list of messages \(.*line 2\), expected values of one kind"
    with pytest.raises(BadInput, match=says):
        pm.score(
            tmp_path / "pool.jsonl",
            tmp_path / "out.parquet",
            scorer=lambda batch: [0.0] * batch.num_rows,
        )
    if column == "prompt":
        sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=1)
        with pytest.raises(BadInput, match=says):
            pm.sample(tmp_path / "pool.jsonl", tmp_path / "sampled.parquet", sampler=sampler, n=1)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user"}, r"row 1 has a message 1 \(user\) without a content; got \['role'\]"),
        ({"role": "user", "content": None}, "without a content"),
        ({"content": "Hi"}, "has a message 1 without a role"),
        ({"role": "user", "content": 5}, "whose content is no text and no list of parts; got int"),
    ],
)
def test_a_message_that_is_none_is_a_bad_row(message: dict[str, Any], says: str) -> None:
    """Where it was a traceback, and where a server was asked."""
    good = [{"role": "user", "content": "Hi"}]
    encoder = RewardModel(model=pools.reward("llama"), device="cpu").encoder

    class Rows:
        def to_pylist(self) -> list[Any]:
            return [good, [message]]

    with pytest.raises(BadRow, match=says) as caught:
        encoder.encode(Rows(), pa.array(["a", "b"]), np.arange(2))  # type: ignore[arg-type]
    assert (caught.value.row, caught.value.reason) == (1, "bad_message")
    with pytest.raises(BadRow, match=says.replace("row 1", "row 0")):
        encoder.prompts([[message]])


# -- whole conversations
# -------------------------------------------------------------------------------------------------------------------

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
# --------------------------------------------------------------------------------------


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


# -- what a template leaves out
# ------------------------------------------------------------------------------------------------------------

R1 = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_cuts_what_was_thought_is_told_once() -> None:
    tok = tiny.tokenizer()
    tok.chat_template = R1
    encoder = Encoder(tok)
    texts = pa.array(["<think>insults</think>4", "4", "<think>x</think>5"])
    prompts = pa.array(["2+2?"] * 3)
    with pytest.warns(
        UserWarning, match=r"leaves out a part of completions \(the first is row 0\)"
    ) as told:
        found = encoder.encode(prompts, texts, np.zeros(3, np.int64))
    assert (len(told), found.cut_by_template) == (1, 2)
    assert found.rows.row(0).tolist() == found.rows.row(1).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = encoder.encode(prompts, texts, np.zeros(3, np.int64))
        fine = encoder.encode(
            prompts[:1], pa.array([" spaces are trimmed elsewhere "]), np.zeros(1, np.int64)
        )
    assert (again.cut_by_template, fine.cut_by_template) == (2, 0)


# -- parts and calls where a text is read
# --------------------------------------------------------------------------------------------------


def test_parts_are_texts_for_a_template_that_knows_no_parts() -> None:
    """Before, the model read `[{'type': 'text', 'text': ...}]`."""
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    encoder = Encoder(tiny.tokenizer(), template="chat")
    found = encoder.encode(pa.array([parts]), pa.array(["c"]), np.arange(1)).rows.row(0).tolist()
    said = [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]
    assert found == plain_ids(pools.reward("llama"), said)
    image = [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": "b"}],
        }
    ]
    with pytest.raises(BadRow, match="has a part that is no text; got 'image'"):
        encoder.encode(pa.array([image]), pa.array(["c"]), np.arange(1))


def test_a_judge_reads_parts_calls_and_the_question_once() -> None:
    asked: list[str] = []

    class Judge:
        fingerprint: ClassVar = {"sampler": "j"}

        def sample(self, requests: Any) -> list[Answer]:
            asked.extend(request.prompt[0]["content"] for request in requests)
            return [Answer("5", "stop", None, 1) for _ in requests]

    judge = JudgeScorer(sampler=Judge(), rubric="{prompt} => {completion}")
    rows = [
        {"prompt": [HI], "completion": [call("weather", city="Paris")]},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "completion": [HELLO],
        },
        {"prompt": [HI], "completion": [HI, HELLO]},
    ]
    for row in rows:
        judge.run(judge.prepare(pa.RecordBatch.from_pylist([row])))
    assert asked == [
        'Hi => tool_call: {"name": "weather", "arguments": {"city": "Paris"}}',
        "Hi => Hello",
        "Hi => Hello",
    ]


def test_servers_are_sent_calls_as_they_take_them() -> None:
    """OpenAI's protocol has the arguments as JSON text; pairs of texts have them in words."""
    bodies: list[Any] = []

    def answer(path: str, body: Any, headers: Any) -> Any:
        bodies.append(body)
        return 200, {}, {"data": [{"index": 0, "probs": [1.0], "score": 1.0}]}

    batch = pa.RecordBatch.from_pylist(
        [{"prompt": [HI], "completion": [call("weather", city="Paris")]}]
    )
    with serving.server(answer) as url:
        for kind in ("vllm-classify", "vllm-score"):
            EndpointScorer(url=url, model="m", kind=kind, concurrency=1)(batch)
    assert bodies[0]["messages"][1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Paris"}',
    }
    assert bodies[1]["text_2"] == ['tool_call: {"name": "weather", "arguments": {"city": "Paris"}}']


def test_an_empty_completion_is_a_pair_as_in_training() -> None:
    """`tokenizer(prompt, "")` alone drops the empty text and its separator (`if text_pair`);
    batches, CrossEncoder and TEI keep it.
    """
    from test_scoring_models import pair_tokenizer

    tok = pair_tokenizer()
    found = (
        Encoder(tok, template="pair")
        .encode(pa.array(["ab", "ab"]), pa.array(["", "c"]), np.arange(2))
        .rows
    )
    assert [found.row(i).tolist() for i in range(2)] == tok(["ab", "ab"], ["", "c"])["input_ids"]
    assert len(tok("ab", "")["input_ids"]) == len(found.row(0)) - 1
