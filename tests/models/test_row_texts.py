"""A row's text depends on nothing but the row: not on its neighbours, nor on how a file is typed.
The oracle is the tokenizer's own template on the row as it was written."""

from __future__ import annotations

import json
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
from row_texts import TOOLS, call, plain_ids, plain_scores, with_template

import prefmill as pm
from prefmill.errors import BadInput, BadRow
from prefmill.models.encoder import Encoder
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Answer
from prefmill.scoring import EndpointScorer, JudgeScorer, RewardModel

pools.one_thread()

# -- fields of other rows

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
    template = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{{ p.keys() | "
        "join('+') }}{% endfor %}{{ eos_token }}{% endfor %}"
    )
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
    says = (
        rf"(?s)the column '{column}' .*text \(.*line 1\) and a list of messages \(.*line 2\), "
        rf"expected values of one kind"
    )
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
        encoder.encode(Rows(), pa.array(["a", "b"]), np.arange(2))
    assert (caught.value.row, caught.value.reason) == (1, "bad_message")
    with pytest.raises(BadRow, match=says.replace("row 1", "row 0")):
        encoder.prompts([[message]])


# -- whole conversations

HI = {"role": "user", "content": "Hi"}

HELLO = {"role": "assistant", "content": "Hello"}

# -- what a template leaves out

R1 = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] if m['role'] "
    "== 'assistant' else m['content'] }}"
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
    from encoders import pair_tokenizer

    tok = pair_tokenizer()
    found = (
        Encoder(tok, template="pair")
        .encode(pa.array(["ab", "ab"]), pa.array(["", "c"]), np.arange(2))
        .rows
    )
    assert [found.row(i).tolist() for i in range(2)] == tok(["ab", "ab"], ["", "c"])["input_ids"]
    assert len(tok("ab", "")["input_ids"]) == len(found.row(0)) - 1
