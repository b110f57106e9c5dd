"""Layouts that a trainer reads otherwise: what LLaMA-Factory's converter skips or does not read."""

from __future__ import annotations

import re

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.writers.layouts import convert

SCORES = {"chosen_score": [5.0], "rejected_score": [1.0]}


def said(role: str, content: str | None, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def pair(prompt: list, chosen: list | None = None, rejected: list | None = None) -> pl.DataFrame:
    sides = {
        "chosen": [chosen or [said("assistant", "a")]],
        "rejected": [rejected or [said("assistant", "b")]],
    }
    return pl.DataFrame({"prompt": [prompt]} | sides | SCORES)


def skipped_by_its_converter(row: dict) -> bool:
    """Its rules for ranking data, from `data/converter.py`, in plain Python."""
    turns = [message["from"] for message in row["conversations"]]
    if turns and turns[0] == "system":
        turns = turns[1:]
    tags = (("human", "observation"), ("gpt", "function_call"))
    wrong = any(tag not in tags[i % 2] for i, tag in enumerate(turns))
    sides = any(row[side]["from"] not in tags[1] for side in ("chosen", "rejected"))
    return wrong or sides or len(turns) % 2 == 0


GOOD = {
    "one question": ([said("user", "q")], ["human"]),
    "a system and three turns": (
        [said("system", "s"), said("user", "q"), said("assistant", "r"), said("user", "t")],
        ["system", "human", "gpt", "human"],
    ),
    "a tool's result": (
        [said("user", "q"), said("assistant", '<tool_call>{"name": "f"}'), said("tool", "42")],
        ["human", "gpt", "observation"],
    ),
    "a developer": ([said("developer", "s"), said("user", "q")], ["system", "human"]),
    "a function call in its own words": (
        [said("human", "q"), said("function_call", "{}"), said("observation", "42")],
        ["human", "function_call", "observation"],
    ),
}
SKIPPED = {
    "two questions": [said("user", "q"), said("user", "r")],
    "an even number": [said("user", "q"), said("assistant", "r")],
    "a system only": [said("system", "s")],
    "a system in the middle": [said("user", "q"), said("system", "s"), said("user", "r")],
    "begins with the answer": [said("assistant", "r"), said("user", "q"), said("assistant", "t")],
    "a role that nobody knows": [said("critic", "q")],
    "a role that is null": [said(None, "q")],
    "two results in turn": [
        said("user", "q"),
        said("assistant", "r"),
        said("tool", "1"),
        said("tool", "2"),
    ],
    "no message": [],
}


@pytest.mark.parametrize("name", GOOD)
def test_its_converter_takes_what_is_written(name: str) -> None:
    prompt, tags = GOOD[name]
    (row,) = convert(pair(prompt), format="llama-factory").to_dicts()
    assert [message["from"] for message in row["conversations"]] == tags
    assert [message["value"] for message in row["conversations"]] == [m["content"] for m in prompt]
    assert (row["chosen"], row["rejected"]) == (
        {"from": "gpt", "value": "a"},
        {"from": "gpt", "value": "b"},
    )
    assert not skipped_by_its_converter(row)


@pytest.mark.parametrize("name", SKIPPED)
def test_what_its_converter_skips_is_refused_with_a_count(name: str) -> None:
    frame = pair(SKIPPED[name])
    frame = pl.DataFrame(
        frame.to_dicts() * 2 + pair([said("user", "q")]).to_dicts(),
        schema=pair([said("user", "q")]).schema,
    )
    with pytest.raises(BadInput, match="skips 2 of 3 pairs") as caught:
        convert(frame, format="llama-factory")
    assert "--format trl" in str(caught.value)


def test_answers_that_are_no_answer_are_refused() -> None:
    question = [said("user", "q")]
    for answer in ([said("user", "a")], [said("tool", "a")], [said("assistant", "a")] * 2):
        with pytest.raises(BadInput, match=re.escape("skips 1 of 1 pairs")):
            convert(pair(question, chosen=answer), format="llama-factory")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tool_calls", [{"function": {"name": "f", "arguments": "{}"}}]),
        ("name", "ann"),
        ("tool_call_id", "1"),
        ("weight", 0),
    ],
)
def test_fields_that_it_does_not_read_are_refused_and_empty_ones_are_not(field, value) -> None:
    prompt = [said("user", "q", **{field: value})]
    with pytest.raises(BadInput, match=f"reads role and content only; got '{field}' in 1 messages"):
        convert(pair(prompt), format="llama-factory")
    empty = (
        pair(prompt)
        .clear()
        .vstack(pair(prompt))
        .with_columns(
            pl.col("prompt").list.eval(
                pl.struct(
                    pl.element().struct.field("role", "content"),
                    pl.lit(None, pair(prompt).schema["prompt"].inner.fields[2].dtype).alias(field),
                )
            )
        )
    )
    (row,) = convert(empty, format="llama-factory").to_dicts()
    assert row["conversations"] == [{"from": "human", "value": "q"}]


def test_tool_calls_of_an_answer_and_a_null_content_are_refused() -> None:
    call = said("assistant", None, tool_calls=[{"name": "f"}])
    with pytest.raises(BadInput, match="needs a text in every message; got 1 messages of 'chosen'"):
        convert(pair([said("user", "q")], chosen=[call]), format="llama-factory")
    call = said("assistant", "", tool_calls=[{"name": "f"}])
    with pytest.raises(BadInput, match="got 'tool_calls' in 1 messages of 'rejected'"):
        convert(pair([said("user", "q")], rejected=[call]), format="llama-factory")


def test_a_run_that_is_refused_leaves_nothing(tmp_path) -> None:
    rows = {"prompt": [SKIPPED["two questions"]] * 2, "completion": ["a", "b"], "score": [5, 1]}
    pl.DataFrame(rows).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(BadInput, match="skips 1 of 1 pairs"):
        pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / "out.jsonl", format="llama-factory")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
