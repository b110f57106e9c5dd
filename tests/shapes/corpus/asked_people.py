"""Shapes with two answers and a verdict: crowd work, surveys, annotation tools."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, SAID, A, B, each, two, won

NO_LIMITS = {"chosen_min": None, "rejected_below": None}


def faireval(i, question, a, b, verdict) -> dict:
    return {"question": question, "vicuna": a, "gpt35": b, "verdict": verdict}


def mturk(i, question, a, b, verdict) -> dict:
    return {
        "HITId": f"H{i // 2}",
        "WorkerId": f"W{i % 3}",
        "AssignmentStatus": "Submitted",
        "Input.prompt": ASKED[i // 2],
        "Input.response_a": SAID[i // 2][0],
        "Input.response_b": SAID[i // 2][2],
        "Answer.choice": verdict,
        "Approve": None,
        "Reject": None,
    }


def survey(i, question, a, b, verdict) -> dict:
    return {
        "Timestamp": f"2024/05/0{i + 1} 9:1{i}:00",
        "Your question": question,
        "Answer A": a,
        "Answer B": b,
        "Which one is better?": verdict,
    }


def studio(i, question, a, b, verdict) -> dict:
    value = {"selected": verdict} if verdict else {"choices": ["skipped"]}
    result = {"from_name": "pw", "to_name": "txt-1,txt-2", "type": "pairwise", "value": value}
    return {
        "id": i,
        "data": {"prompt": question, "answer1": a, "answer2": b},
        "annotations": [{"id": 10 + i, "completed_by": 1 + i % 2, "result": [result]}],
    }


def studio_min(i, question, a, b, verdict) -> dict:
    return {"prompt": question, "answer1": a, "answer2": b, "id": i, "annotator": 1, "pw": verdict}


def hot_survey(i, question, a, b, verdict) -> dict:
    words = ("TRUE", "FALSE")
    return {
        "prompt": question,
        "text_left": a,
        "text_right": b,
        "prefer_left": words[verdict != "left"],
        "prefer_right": words[verdict != "right"],
        "no_preference": words[verdict != "none"],
    }


def argilla(i, question, a, b, verdict) -> dict:
    return {
        "id": f"r{i}",
        "status": "completed",
        "instruction": question,
        "response_1": a,
        "response_2": b,
        "preference.responses": [verdict],
        "preference.responses.users": [f"u{i}"],
        "preference.suggestion": "response_1",
    }


def best_named(i, question, answers) -> dict:
    return {
        "question": question,
        "ash": answers[0],
        "birch": answers[1],
        "cedar": answers[2],
        "best": ("ash", "Cedar ", "birch", "none of them", "ash", "")[i],
    }


ENTRIES = [
    Entry(
        name="FairEval",
        about="one column for each model, and words for the verdict",
        records=two(faireval, ("CHATGPT", "VICUNA13B", "TIE", "VICUNA13B", "CHATGPT")),
        line="--completion vicuna,gpt35 --winner verdict --wins VICUNA13B,CHATGPT",
        first=won(0.0),
        rows=10,
    ),
    Entry(
        name="Mechanical Turk",
        about="`Input.x`, `Answer.x`, and rows that end before Approve and Reject",
        records=two(mturk, ("A", "B", "B", "B", "A", "tie", "", "A")),
        line="--prompt Input.prompt --completion Input.response_a,Input.response_b"
        " --winner Answer.choice --annotator WorkerId",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=14,
        kind="csv",
        short=2,
    ),
    Entry(
        name="Mechanical Turk, votes together",
        about="all verdicts on the same prompt and answers",
        records=two(mturk, ("A", "A", "B", "B", "A", "tie", "B", "A")),
        line="--prompt Input.prompt --completion Input.response_a,Input.response_b"
        " --winner Answer.choice --annotator WorkerId --group Input.prompt",
        plan={**NO_LIMITS, "aggregate": "mean"},
        first=[(ASKED[0], A, 1.0), (ASKED[0], B, 0.0), (ASKED[0], A, 1.0)],
        rows=16,
        kind="csv",
        short=2,
    ),
    Entry(
        name="Survey",
        about="questions of a form as column names",
        records=two(survey, ("Answer A", "answer b", "Both", "B", "Answer A")),
        line='--prompt "Your question" --completion "Answer A,Answer B"'
        ' --winner "Which one is better?"',
        first=won(1.0),
        rows=10,
        kind="csv",
    ),
    Entry(
        name="Survey in Excel",
        about="the same as a workbook",
        records=two(survey, ("Answer A", "answer b", "Both", "B", "Answer A")),
        line='--prompt "Your question" --completion "Answer A,Answer B"'
        ' --winner "Which one is better?"',
        first=won(1.0),
        rows=10,
        kind="xlsx",
    ),
    Entry(
        name="A/B survey, one-hot",
        about="TRUE and FALSE in three columns",
        records=two(hot_survey, ("left", "right", "none", "right", "left")),
        line="--completion text_left,text_right --winner prefer_left,prefer_right,no_preference",
        first=won(1.0),
        rows=10,
        kind="tsv",
    ),
    Entry(
        name="Label Studio",
        about="an export: results below annotations",
        records=two(studio, ("left", "right", None, "left", "right")),
        line="--prompt data.prompt --completion data.answer1,data.answer2"
        " --winner annotations[0].result[0].value.selected --wins left,right",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=8,
        kind="json",
    ),
    Entry(
        name="Label Studio, flat",
        about="JSON-MIN",
        records=two(studio_min, ("left", "right", "right", "left", "right")),
        line="--completion answer1,answer2 --winner pw --wins left,right",
        first=won(1.0),
        rows=10,
        kind="json",
    ),
    Entry(
        name="Argilla, label question",
        about="column names with dots, answers in lists",
        records=two(argilla, ("response_1", "response_2", "response_1", None, "response_2")),
        line="--completion response_1,response_2 --winner '\"preference.responses\"[0]'",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=8,
    ),
    Entry(
        name="The best of three",
        about="the verdict is the name of a column",
        records=each(best_named),
        line="--completion ash,birch,cedar --winner best",
        dropped={"unknown_verdict": 1, "null_verdict": 1},
        first=[
            (ASKED[0], "Stuff them with paper.", 1.0),
            (ASKED[0], "Put them outside.", 0.0),
            (ASKED[0], "Wait.", 0.0),
        ],
        rows=12,
        kind="csv",
    ),
]
