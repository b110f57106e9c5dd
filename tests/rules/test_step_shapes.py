"""Records of steps in the shapes that the field has, as JSON Lines: recognised, said, and labelled;
and what is refused, with what to type.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing, PlanError
from prefmill.runs.steps import label_steps

Record = dict[str, Any]


def candidate(text: str, rating: int | None) -> Record:
    return {"text": text, "rating": rating, "flagged": None}


#: Two steps, of which the second has no good candidate; a person wrote one. Then the end.
PRM800K: list[Record] = [
    {
        "question": {"problem": "2+2+2?", "ground_truth_answer": "6"},
        "label": {
            "steps": [
                {
                    "completions": [candidate("2+2=4", 1), candidate("2+2=5", -1)],
                    "human_completion": None,
                    "chosen_completion": 0,
                },
                {
                    "completions": [candidate("so 4", -1)],
                    "human_completion": {"text": "4+2=6", "rating": None, "source": "human"},
                    "chosen_completion": None,
                },
                {
                    "completions": [candidate("let us think", 0)],
                    "human_completion": None,
                    "chosen_completion": None,
                },
            ],
            "finish_reason": "give_up",
        },
    },
    {
        "question": {"problem": "1+1?", "pre_generated_steps": ["2"]},
        "label": {
            "steps": [
                {
                    "completions": [candidate("1+1=2", 1)],
                    "human_completion": None,
                    "chosen_completion": 0,
                },
                {"completions": None, "human_completion": None, "chosen_completion": None},
            ],
            "finish_reason": "solution",
        },
    },
]
PRM800K_ROWS = [
    ("2+2+2?", ["2+2=5"], [False]),
    ("2+2+2?", ["2+2=4", "so 4"], [True, False]),
    ("2+2+2?", ["2+2=4", "4+2=6", "let us think"], [True, True, True]),
    ("1+1?", ["1+1=2"], [True]),
]
PRM800K_READ = (
    "--prompt question.problem --steps label.steps.completions.text"
    " --rating label.steps.completions.rating --chosen label.steps.chosen_completion"
    " --written label.steps.human_completion.text"
)
TWO = [["a", "b", "c"], ["d"]]


def rows_of(**columns: list[Any]) -> list[Record]:
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


#: name: records, words, rows, what it was read as
SHAPES: dict[str, tuple[list[Record], Record, list[tuple[Any, ...]], str]] = {
    "PRM800K, neutral is right": (
        PRM800K,
        {"values": "1=1,0=1,-1=0"},
        PRM800K_ROWS,
        f"{PRM800K_READ} --values 1=1,0=1,-1=0",
    ),
    "PRM800K, neutral is wrong": (
        PRM800K,
        {"values": {"1": 1, "0": 0, "-1": 0}},
        [*PRM800K_ROWS[:2], (*PRM800K_ROWS[2][:2], [True, True, False]), PRM800K_ROWS[3]],
        f"{PRM800K_READ} --values 1=1,0=0,-1=0",
    ),
    "Math-Shepherd": (
        rows_of(
            input=["2+2? Step 1: 2+2=4 ки\nStep 2: The answer is: 5 ки"],
            label=["2+2? Step 1: 2+2=4 +\nStep 2: The answer is: 5 -"],
            task=["GSM8K"],
        ),
        {},
        [("2+2?", ["Step 1: 2+2=4", "Step 2: The answer is: 5"], [True, False])],
        "--steps input --rating label --step-separator 'ки' --steps-from 'Step 1:'",
    ),
    "MR-GSM8K": (
        rows_of(
            question=["q", "r"],
            model_output_steps=TWO,
            model_output_solution_correctness=["wrong", "correct"],
            model_output_solution_first_error_step=[2, "N/A"],
        ),
        {},
        [("q", ["a", "b"], [True, False]), ("r", ["d"], [True])],
        "--prompt question --steps model_output_steps --first-error"
        " model_output_solution_first_error_step --first-index 1 --no-error N/A",
    ),
    "ReasonEval, invalid steps": (
        rows_of(
            question=["q", "r"],
            model_output=["a\nb", "d"],
            model_output_step_format=[[["a", "more"], ["b"]], [["d"]]],
            model_output_solution_first_error_step=["1", "N/A"],
        ),
        {},
        [("q", ["a\nmore"], [False]), ("r", ["d"], [True])],
        "--prompt question --steps model_output_step_format --first-error"
        " model_output_solution_first_error_step --first-index 1 --no-error N/A",
    ),
    "ReasonEval, redundant steps": (
        rows_of(question=["q"], model_output_step_format=[[["a"], ["b"]]], rating=[[1, 0]], id=[0]),
        {},
        [("q", ["a", "b"], [True, False])],
        "--prompt question --steps model_output_step_format --rating rating",
    ),
    "ProcessBench": (
        rows_of(
            id=["x-0", "x-1"],
            generator=["m", "m"],
            problem=["q", "r"],
            steps=TWO,
            final_answer_correct=[False, True],
            label=[1, -1],
        ),
        {},
        [("q", ["a", "b"], [True, False]), ("r", ["d"], [True])],
        "--prompt problem --steps steps --first-error label --first-index 0 --no-error -1",
    ),
    "ProcessBench, all steps": (
        rows_of(problem=["q"], steps=TWO[:1], final_answer_correct=[False], label=[0]),
        {"after_error": "false"},
        [("q", ["a", "b", "c"], [False, False, False])],
        "--prompt problem --steps steps --first-error label --first-index 0 --no-error -1"
        " --after-error false",
    ),
    "BIG-Bench-Mistake": (
        rows_of(input=["q", "r"], steps=TWO, mistake_index=[None, 0], target=["x", "y"]),
        {},
        [("q", ["a", "b", "c"], [True, True, True]), ("r", ["d"], [False])],
        "--prompt input --steps steps --first-error mistake_index --first-index 0 --no-error null",
    ),
    "TRL": (
        rows_of(prompt=["q", "r"], completions=TWO, labels=[[True, False, True], [True]]),
        {},
        [("q", ["a", "b", "c"], [True, False, True]), ("r", ["d"], [True])],
        "--prompt prompt --completions completions --rating labels".replace(
            "--completions", "--steps"
        ),
    ),
    "records of steps": (
        [{"problem": "q", "steps": [{"step": "a", "rating": 1}, {"step": "b", "rating": -1}]}],
        {},
        [("q", ["a", "b"], [True, False])],
        "--prompt problem --steps steps.step --rating steps.rating",
    ),
    "soft labels": (
        rows_of(problem=["q"], steps=[["a", "b"]], step_scores=[[0.75, 0.25]]),
        {"threshold": 0.5},
        [("q", ["a", "b"], [True, False])],
        "--prompt problem --steps steps --rating step_scores --threshold 0.5",
    ),
    "words": (
        rows_of(question=["q"], steps=[["a", "b"]], ratings=[["Correct", "incorrect"]]),
        {"values": "correct=1,incorrect=0"},
        [("q", ["a", "b"], [True, False])],
        "--prompt question --steps steps --rating ratings --values correct=1,incorrect=0",
    ),
    "one text and a list": (
        rows_of(question=["q"], solution=["a\n\nb\n\n"], ratings=[["+", "-"]]),
        {"steps": "solution", "step_separator": "\n\n"},
        [("q", ["a", "b"], [True, False])],
        "--prompt question --steps solution --rating ratings --step-separator '\n\n'",
    ),
}


def write(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


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
