"""Records of steps in the shapes that the field has: invented, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
