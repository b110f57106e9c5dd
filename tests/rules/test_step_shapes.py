"""Records of steps in the shapes that the field has, as JSON Lines: recognised, said, and labelled;
and what is refused, with what to type.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from step_records import SHAPES, Record, write

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing, PlanError
from prefmill.runs.steps import label_steps


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_of_the_field(name, tmp_path):
    records, words, wanted, read_as = SHAPES[name]
    path = write(tmp_path / "in.jsonl", records)
    report = label_steps(path, tmp_path / "out.jsonl", **words)
    assert pl.read_ndjson(tmp_path / "out.jsonl").rows() == wanted
    assert report.read_as == read_as
    assert report.rows_out == report.paths == len(wanted)
    assert pl.read_ndjson(tmp_path / "out.jsonl").schema == {
        "prompt": pl.String,
        "completions": pl.List(pl.String),
        "labels": pl.List(pl.Boolean),
    }


def test_what_came_out_goes_in_again(tmp_path):
    records, words, wanted, _ = SHAPES["MR-GSM8K"]
    path = write(tmp_path / "in.jsonl", records)
    label_steps(path, tmp_path / "once.parquet", **words)
    label_steps(tmp_path / "once.parquet", tmp_path / "twice.parquet")
    assert pl.read_parquet(tmp_path / "twice.parquet").rows() == wanted


# What is refused

PLAIN = {"prompt": ["p"], "steps": [["a", "b"]]}


def refusal(columns: Record, error: type[Exception] = BadInput, **words: Any) -> str:
    with pytest.raises(error) as raised:
        pm.step_labels(pl.DataFrame(columns), **words)
    return str(raised.value)


def test_three_values_are_named_and_not_guessed():
    for rating in ([1, 0, -1], [0, -1]):
        columns = {"prompt": ["p"], "steps": [["a"] * len(rating)], "rating": [rating]}
        message = refusal(columns)
        assert '--values "1=1,0=1,-1=0" where 0 is right' in message
        assert '--values "1=1,0=0,-1=0" where it is not' in message
        assert pm.step_labels(pl.DataFrame(columns), values="1=1,0=1,-1=0").height == 1
    assert "got 0.25, 0.75" in refusal({**PLAIN, "rating": [[0.25, 0.75]]})
    assert "--threshold" in refusal({**PLAIN, "rating": [[0.25, 0.75]]})


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ([1, 1], "--first-index 0 where the first step is 0, or --first-index 1 where it is 1."),
        ([0, 1], "--first-index 1 --no-error 0 where it is 1, and 0 says that no step is wrong."),
        ([0, 2], "--first-index 1 --no-error 0"),
    ],
)
def test_an_index_that_the_data_does_not_decide(places, told):
    columns = {"prompt": ["p", "q"], "steps": [["a", "b"]] * 2, "first_error": places}
    assert told in refusal(columns)


def test_an_index_that_the_data_decides():
    columns = {"prompt": ["p", "q"], "steps": [["a", "b"]] * 2}
    frame = pl.DataFrame({**columns, "first_error": [0, -1]})
    with pytest.warns(UserWarning, match="--first-index 0"):
        assert pm.step_labels(frame)["labels"].to_list() == [[False], [True, True]]
    frame = pl.DataFrame({**columns, "first_error": [2, 1]})
    with pytest.warns(UserWarning, match="--first-index 1"):
        assert pm.step_labels(frame)["labels"].to_list() == [[True, False], [False]]


def test_unequal_lists_name_file_and_row(tmp_path):
    good = {"prompt": "p", "steps": ["a"], "labels": [1]}
    records = [good, good, {**good, "labels": [1, 0]}]
    one = write(tmp_path / "one.jsonl", [good])
    two = write(tmp_path / "two.jsonl", records)
    with pytest.raises(BadInput, match=r"row 2 of '.*two.jsonl'.*got 1 and 2"):
        label_steps([str(one), str(two)], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_text_of_ratings_that_is_another_one():
    columns = {"prompt": ["p"], "steps": ["a ки b ки"], "labels": ["a + b"]}
    assert "row 0: the text of ratings" in refusal(columns, steps="steps", step_separator="ки")


def test_two_readings_are_two_lines():
    columns = {**PLAIN, "labels": [[1, 0]], "ratings": [[0, 1]]}
    message = refusal(columns)
    assert "can be read in 2 ways" in message
    assert "--rating labels, or --prompt prompt --steps steps --rating ratings" in message
    assert pm.step_labels(pl.DataFrame(columns), rating="ratings").rows() == [
        ("p", ["a", "b"], [False, True])
    ]
    columns = {"question": ["q"], "problem": ["p"], "steps": [["a"]], "labels": [[1]]}
    assert "--prompt question" in refusal(columns)
    assert "--prompt problem" in refusal(columns)


def test_a_prompt_in_parts(tmp_path):
    records = [
        {"instruction": "Add.", "input": "2+2", "steps": ["4"], "labels": [1]},
        {"instruction": "Say it.", "input": "", "steps": ["it"], "labels": [0]},
    ]
    path = write(tmp_path / "in.jsonl", records)
    report = label_steps(path, tmp_path / "out.parquet")
    assert "--prompt instruction,input" in report.read_as
    rows = [("Add.\n\n2+2", ["4"], [True]), ("Say it.", ["it"], [False])]
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == rows
    assert pm.step_labels(pl.DataFrame(records)).rows() == rows
    with pytest.raises(BadInput, match="'labels' cannot be a part of prompt"):
        pm.step_labels(pl.DataFrame(records), prompt="input,labels")


def test_no_reading():
    assert "no column is known as steps" in refusal({"prompt": ["p"], "completion": ["c"]})


def test_words_that_cannot_be():
    columns = {**PLAIN, "rating": [[1, 0]]}
    assert "two ways to say the same" in refusal(
        columns, PlanError, rating="rating", first_error="rating"
    )
    assert "first_index must be 0 or 1" in refusal(columns, PlanError, first_index=2)
    assert "expected a number" in refusal(columns, PlanError, values="good=yes")
    assert "needs a rating of every step" in refusal(
        columns, PlanError, first_error="rating", after_error="keep"
    )
    assert "did you mean" in refusal(columns, ColumnMissing, steps="stepz", rating="rating")
    assert "--step-separator" in refusal(
        {"prompt": ["p"], "steps": ["a b"], "rating": [[1]]}, BadArgument, steps="steps"
    )
    nested = {"prompt": ["p"], "steps": [[{"text": "a", "n": 1}]], "rating": [[1]]}
    assert "--steps steps.FIELD, one of ['text', 'n']" in refusal(nested, steps="steps")
    candidates = {"prompt": ["p"], "steps": [[["a"]]], "rating": [[[1]]]}
    assert "--chosen PATH" in refusal(candidates, BadArgument, steps="steps", rating="rating")
    numbers = {"prompt": ["p"], "steps": [[1, 2]], "rating": [[1, 0]]}
    assert "cannot be steps" in refusal(numbers, steps="steps", rating="rating")
    flags = {**PLAIN, "first_error": [True]}
    assert "cannot be first_error" in refusal(flags, first_error="first_error", steps="steps")


# Hostile


def test_a_hundred_thousand_steps(tmp_path):
    steps = 100_000
    text = " ки\n".join(["Q Step 1: a", *["b"] * (steps - 1)]) + " ки"
    frame = pl.DataFrame(
        {"input": [text], "label": [text.replace("ки", "+")], "task": ["t"], "n": [steps - 1]}
    )
    rows = pm.step_labels(frame)
    assert rows["labels"].list.sum().to_list() == [steps]
    lists = pl.DataFrame({"prompt": ["p"], "steps": [["a"] * steps], "mistake_index": [steps - 1]})
    report = label_steps(lists, tmp_path / "out.parquet")
    assert report.steps == {"true": steps - 1, "false": 1}


def test_many_batches_decide_together(tmp_path):
    count = 20_000
    frame = pl.DataFrame(
        {
            "prompt": [str(i) for i in range(count)],
            "steps": [["a", "b"]] * count,
            "first_error": [1] * (count - 2) + [0, -1],
        }
    )
    report = label_steps(frame, tmp_path / "out.parquet")
    assert report.steps == {"true": count, "false": count - 1}
    assert report.notes == ("a first error is at 0, so steps count from 0 (--first-index 0).",)
    assert (
        pl.read_parquet(tmp_path / "out.parquet")["prompt"].to_list() == frame["prompt"].to_list()
    )


def test_columns_of_nothing_but_nulls():
    frame = pl.DataFrame({"prompt": ["p"], "steps": [["a"]], "rating": [None]})
    assert pm.step_labels(frame, steps="steps", rating="rating").rows() == []
    frame = pl.DataFrame({"prompt": [None], "steps": [None], "mistake_index": [None]})
    words = {"prompt": "prompt", "steps": "steps", "first_error": "mistake_index"}
    assert pm.step_labels(frame, **words).rows() == []
