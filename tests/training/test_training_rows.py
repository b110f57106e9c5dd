"""Rows to train on: the question is said once, and what is learnt is an answer."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl
import pytest

from prefmill.errors import BadRow
from prefmill.table.conversations import conversation
from prefmill.training.rows import pair_ids, read_pairs, read_winners, winner_ids


class Encoder:
    """Every message is its role, in the order of a row: what is read is what stands in `ids`."""

    template = "chat"

    def encode(self, prompts, completions, groups):
        pairs = zip(prompts.to_pylist(), completions.to_pylist(), strict=True)
        rows = [conversation(prompt, completion) for prompt, completion in pairs]
        spoken = [[(m["role"], m["content"]) for m in row.messages] for row in rows]
        held = SimpleNamespace(
            row=lambda i: SimpleNamespace(tolist=lambda: spoken[i]),
            starts=SimpleNamespace(tolist=lambda: [len(row.prompt) for row in rows]),
        )
        return SimpleNamespace(rows=held, kept=list(range(len(rows))))


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in (t.split(":") for t in turns)]


QUESTION, ANSWER = said("user:q"), said("user:q", "assistant:a")


@pytest.mark.parametrize("prompt", ["q", QUESTION])
def test_a_prompt_next_to_whole_conversations_is_said_once(prompt, tmp_path):
    rows = {"prompt": [prompt], "chosen": [ANSWER], "rejected": [said("user:q", "assistant:b")]}
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    pairs = read_pairs(tmp_path / "pairs.parquet", where="train")
    ids, kept, lost = pair_ids(Encoder(), pairs, where="train", on_bad_row="error")
    assert ids == {
        "chosen": [[("user", "q"), ("assistant", "a")]],
        "rejected": [[("user", "q"), ("assistant", "b")]],
    }
    assert (list(kept), lost) == ([0], {})


@pytest.mark.parametrize("role", ["user", "system", "tool", "human"])
def test_a_last_turn_that_is_no_answer_is_not_learnt(role, tmp_path):
    talks = [ANSWER, [*ANSWER, {"role": role, "content": "thanks"}], ANSWER]
    pl.DataFrame({"messages": talks}).write_parquet(tmp_path / "sft.parquet")
    winners = read_winners(tmp_path / "sft.parquet", {}, where="train")
    with pytest.raises(BadRow, match=f"row 1 .*ends in a message of '{role}'"):
        winner_ids(Encoder(), winners, where="train", on_bad_row="error")
    ids, starts, lost = winner_ids(Encoder(), winners, where="train", on_bad_row="null")
    assert ids == [[("user", "q"), ("assistant", "a")]] * 2
    assert (starts, lost) == ([1, 1], {"bad_message": 1})


def test_completions_that_end_in_a_question_are_not_learnt(tmp_path):
    rows = {
        "prompt": [QUESTION] * 2,
        "completion": [said("assistant:a"), said("assistant:a", "user:q")],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "sft.parquet")
    winners = read_winners(tmp_path / "sft.parquet", {}, where="train")
    ids, _, lost = winner_ids(Encoder(), winners, where="train", on_bad_row="null")
    assert (len(ids), lost) == (1, {"bad_message": 1})


def test_an_empty_answer_and_equal_sides_are_counted(tmp_path):
    good, bad = said("assistant:a"), said("assistant:b")
    rows = {
        "prompt": ["q"] * 4,
        "chosen": [[], good, good, good],
        "rejected": [bad, [], good, bad],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    pairs = read_pairs(tmp_path / "pairs.parquet", where="train")
    assert pairs.dropped == {"same_text": 1}
    with pytest.raises(BadRow, match=r"row 0 .*completion without a message; got \[\]"):
        pair_ids(Encoder(), pairs, where="train", on_bad_row="error")
