"""Shapes with a label for each step: PRM800K, MR-GSM8K, BIG-Bench-Mistake."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, each

FIRST, SECOND, THIRD = "Take what is known.", "Add it up.", "Say it."
WORKED = (FIRST, SECOND, THIRD)


def prm800k(i: int, question: str, answers: tuple) -> dict:
    def step(text: str, rating: int) -> dict:
        return {"text": text, "rating": rating, "flagged": False}

    def choice(candidates: list[dict], chosen: int | None) -> dict:
        return {
            "completions": candidates,
            "human_completion": None,
            "chosen_completion": chosen,
        }

    second = [step(SECOND, 1), step("Guess.", -1)] if i % 2 else [step(SECOND, -1)]
    return {
        "labeler": f"l{i % 2}",
        "question": {"problem": question, "ground_truth_answer": answers[0]},
        "label": {
            "steps": [choice([step(FIRST, 1)], 0), choice(second, 0 if i % 2 else None)],
            "finish_reason": "solution" if i % 2 else "found_error",
        },
    }


def mr_gsm8k(i: int, question: str, answers: tuple) -> dict:
    return {
        "uuid": f"u{i}",
        "question": question,
        "ground_truth_answer": answers[0],
        "model_output_steps": list(WORKED),
        "model_output_answer_correctness": "correct" if i % 2 else "wrong",
        "model_output_solution_correctness": "correct" if i % 2 else "wrong",
        "model_output_solution_first_error_step": "N/A" if i % 2 else 2,
        "model_output_solution_first_error_reason": "N/A" if i % 2 else "It guesses.",
    }


def big_bench(i: int, question: str, answers: tuple) -> dict:
    return {
        "input": question,
        "steps": list(WORKED),
        "answer": answers[0],
        "target": answers[0],
        "mistake_index": None if i % 2 else 1,
    }


def rated(i: int, question: str, answers: tuple) -> dict:
    return {"question": question, "steps": list(WORKED), "ratings": [1, 0, -1] if i else [1, 1, 1]}


STEPS = [
    Entry(
        name="PRM800K",
        about="candidates for each step and their ratings, recognised",
        records=each(prm800k),
        command="steps",
        first=[
            (ASKED[0], [FIRST, SECOND], [True, False]),
            (ASKED[1], [FIRST, SECOND], [True, True]),
            (ASKED[1], [FIRST, "Guess."], [True, False]),
        ],
        rows=9,
    ),
    Entry(
        name="MR-GSM8K",
        about="the first wrong step, from 1; what comes after it has no label",
        records=each(mr_gsm8k),
        line="--steps model_output_steps --first-index 1"
        " --first-error model_output_solution_first_error_step",
        command="steps",
        kind="json",
        first=[
            (ASKED[0], [FIRST, SECOND], [True, False]),
            (ASKED[1], [FIRST, SECOND, THIRD], [True, True, True]),
        ],
        rows=6,
    ),
    Entry(
        name="BIG-Bench-Mistake",
        about="the first wrong step, from 0; nothing where all are right",
        records=each(big_bench),
        line="--prompt input --steps steps --first-error mistake_index --first-index 0"
        " --no-error null",
        command="steps",
        first=[
            (ASKED[0], [FIRST, SECOND], [True, False]),
            (ASKED[1], [FIRST, SECOND, THIRD], [True, True, True]),
        ],
        rows=6,
    ),
    Entry(
        name="Steps and ratings",
        about="two lists side by side",
        records=each(rated),
        line="--steps steps --rating ratings --values 1=1,0=1,-1=0",
        command="steps",
        kind="parquet",
        first=[
            (ASKED[0], [FIRST, SECOND, THIRD], [True, True, True]),
            (ASKED[1], [FIRST, SECOND, THIRD], [True, True, False]),
        ],
        rows=6,
    ),
]
