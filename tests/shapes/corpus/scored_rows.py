"""Shapes with one answer a record: attributes, logs, judgments, evaluations."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, MODELS, SAID, assistant, each, long, user

GOOD, BAD = SAID[0][0], SAID[0][2]
MESSAGES = "snapshot.chat.chat.messages"
LONG = [(ASKED[0], GOOD, 5), (ASKED[0], BAD, 2)]
WRONG = [(ASKED[0], GOOD, 1.0), (ASKED[0], BAD, 0.0)]
ASH, BIRCH, CEDAR = SAID[0][:3]


def helpsteer(i, k, question, answer) -> dict:
    return {
        "prompt": question,
        "response": answer,
        "helpfulness": 4 - 3 * k,
        "correctness": 4 - 2 * k,
        "coherence": 4,
        "complexity": i % 3,
        "verbosity": (i + k) % 3,
    }


def open_webui(i, k, question, answer) -> dict:
    asked = {"id": f"u{i}", "parentId": None, **user(question), "timestamp": 1700000000 + i}
    said = {"id": f"a{i}{k}", "parentId": f"u{i}", **assistant(answer), "model": MODELS[k]}
    return {
        "id": f"f{i}{k}",
        "user_id": f"user{k}",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": (1, -1)[k],
            "model_id": MODELS[k],
            "sibling_model_ids": None,
            "reason": "attention_to_detail",
            "comment": "",
            "tags": ["garden"],
            "details": {"rating": 9 - 7 * k},
        },
        "meta": {"arena": False, "chat_id": f"c{i}", "message_index": 1},
        "snapshot": {"chat": {"id": f"c{i}", "chat": {"messages": [asked, said]}}},
        "created_at": 1700000000 + i,
    }


def langsmith(i, k, question, answer) -> dict:
    stats = {"user_score": {"n": 1, "avg": float(1 - k)}}
    if i == 2:
        stats = {"latency": {"n": 1, "avg": 0.3}}
    return {
        "id": f"run{i}{k}",
        "name": "GardenChain",
        "run_type": "chain",
        "inputs": {"question": question},
        "outputs": {"output": answer},
        "error": None,
        "feedback_stats": stats,
    }


def lm_eval(i, k, question, answer) -> dict:
    return {
        "doc_id": i,
        "doc": {"question": question, "answer": SAID[i][0]},
        "target": SAID[i][0],
        "arguments": {"gen_args_0": {"arg_0": f"Q: {question}\nA:", "arg_1": {"until": ["Q:"]}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": ("strict-match", "flexible-extract")[k],
        "exact_match": float(answer == SAID[i][0]),
    }


def lm_eval_old(i, k, question, answer) -> dict:
    row = lm_eval(i, k, question, answer)
    return {**row, "arguments": [[f"Q: {question}\nA:", {"until": ["Q:"]}]]}


def humaneval(i, k, question, answer) -> dict:
    return {
        "task_id": f"Garden/{i}",
        "completion": answer,
        "result": ("passed", "failed: timed out")[k],
        "passed": k == 0,
    }


def problem(i, question, answers) -> dict:
    return {"task_id": f"Garden/{i}", "prompt": question, "entry_point": "f", "test": "..."}


def judgment(i, k, question, answer) -> dict:
    return {
        "question_id": 81 + i,
        "model": MODELS[k],
        "judge": ["oak-judge", "single-v1"],
        "user_prompt": "[Question] ...",
        "judgment": "Rating: [[...]]",
        "score": (9, 3)[k] if i != 3 else -1,
        "turn": 1 + (i == 4),
        "tstamp": 1700000000.5 + i,
    }


def asked_of(i, question, answers) -> dict:
    return {"question_id": 81 + i, "category": "garden", "turns": [question, "In one word?"]}


def answered(i, k, question, answer) -> dict:
    return {
        "question_id": 81 + i,
        "answer_id": f"x{i}{k}",
        "model_id": MODELS[k],
        "choices": [{"index": 0, "turns": [answer, "Hm."]}],
        "tstamp": 1600000000.0,
    }


def prometheus(i, k, question, answer) -> dict:
    return {
        "orig_instruction": question,
        "orig_response": answer,
        "orig_criteria": "Is it short?",
        "orig_score": str(5 - 3 * k),
        "orig_feedback": "...",
    }


def per_model(i, question, answers) -> dict:
    row: dict = {"question": question}
    for k, name in enumerate(("ash", "birch", "cedar")):
        row |= {name: answers[k], f"{name}_score": 9 - 3 * k - i % 2}
    return row


def in_struct(i, question, answers) -> dict:
    names = ("ash", "birch", "cedar")
    return {
        "question": question,
        "responses": dict(zip(names, answers, strict=False)),
        "ratings": {name: 5 - 2 * k for k, name in enumerate(names)},
    }


def per_file(i, k, question, answer) -> dict:
    return {"question": question, "answer": answer, "score": 5 - 3 * k}


def studio_rating(i, k, question, answer) -> dict:
    result = {"from_name": "stars", "type": "rating", "value": {"rating": 5 - 3 * k}}
    return {
        "id": 2 * i + k,
        "data": {"question": question, "answer": answer},
        "annotations": [{"completed_by": 1, "result": [result]}],
    }


def argilla_rating(i, k, question, answer) -> dict:
    return {
        "id": f"r{i}{k}",
        "instruction": question,
        "response": answer,
        "quality.responses": [5 - 3 * k, 4 - 3 * k] if i else [5 - 3 * k],
        "quality.responses.users": ["ann", "ben"] if i else ["ann"],
        "quality.suggestion": None,
    }


LOGS = [
    Entry(
        name="Open WebUI",
        about="the rated message is the last of its snapshot",
        records=long(open_webui),
        line=f"--prompt {MESSAGES}[0].content --completion {MESSAGES}[-1].content"
        " --score data.rating",
        command="unpair",
        kind="json",
        first=[(ASKED[0], GOOD, 1), (ASKED[0], BAD, -1)],
        rows=10,
    ),
    Entry(
        name="Open WebUI, details",
        about="the rating from 1 to 10, and who gave it",
        records=long(open_webui),
        line=f"--prompt {MESSAGES}[0].content --completion {MESSAGES}[1]"
        " --score data.details.rating --annotator user_id",
        kind="json",
        first=[(ASKED[0], GOOD, 9), (ASKED[0], BAD, 2)],
        rows=10,
    ),
    Entry(
        name="LangSmith runs",
        about="feedback below a key that not every run has",
        records=long(langsmith),
        line="--prompt inputs.question --completion outputs.output"
        " --score feedback_stats.user_score.avg",
        command="unpair",
        first=WRONG,
        rows=10,
    ),
    Entry(
        name="Label Studio ratings",
        about="stars below results",
        records=long(studio_rating),
        line="--prompt data.question --completion data.answer"
        " --score annotations[0].result[0].value.rating",
        kind="json",
        first=LONG,
        rows=10,
    ),
    Entry(
        name="Argilla, rating question",
        about="as many ratings of an answer as annotators, in lists",
        records=long(argilla_rating),
        line="--each quality.responses,quality.responses.users --completion response"
        " --score quality.responses --annotator quality.responses.users",
        means="--each quality.responses,quality.responses.users --prompt instruction"
        " --completion response --score quality.responses --annotator quality.responses.users",
        plan={"aggregate": "mean"},
        first=[*LONG, (ASKED[1], "The kiwi.", 5), (ASKED[1], "The kiwi.", 4)],
        rows=18,
    ),
]

EVALUATIONS = [
    Entry(
        name="HelpSteer",
        about="attributes as columns: one of them is the score",
        records=long(helpsteer),
        line="--score helpfulness",
        means="--prompt prompt --completion response --score helpfulness",
        first=[(ASKED[0], GOOD, 4), (ASKED[0], BAD, 1)],
        rows=10,
    ),
    Entry(
        name="lm-eval samples",
        about="the prompt as the model saw it, the answer in a list of lists",
        records=long(lm_eval),
        line="--prompt arguments.gen_args_0.arg_0 --completion resps[0][0] --score exact_match",
        first=[(f"Q: {ASKED[0]}\nA:", GOOD, 1.0), (f"Q: {ASKED[0]}\nA:", BAD, 0.0)],
        rows=10,
    ),
    Entry(
        name="lm-eval samples, older",
        about="arguments as a list that holds a text and an object; one of two filters",
        records=long(lm_eval_old),
        line="--prompt arguments[0][0] --completion filtered_resps[0] --score exact_match"
        " --where filter=strict-match",
        command="best",
        dropped={"filtered": 5},
        first=[(f"Q: {ASKED[0]}\nA:", GOOD, 1.0)],
        rows=5,
    ),
    Entry(
        name="HumanEval results",
        about="the task's prompt is in another file",
        records=long(humaneval),
        files={"HumanEval.jsonl": each(problem, 4)},
        line="--join HumanEval.jsonl:task_id --prompt prompt --completion completion"
        " --score passed",
        dropped={"unmatched": 2},
        first=[(ASKED[0], GOOD, True), (ASKED[0], BAD, False)],
        rows=8,
    ),
    Entry(
        name="MT-Bench judgments",
        about="numbers only: questions and answers are joined; -1 is a judge that failed",
        records=long(judgment),
        files={"question.jsonl": each(asked_of, 5), "answer.jsonl": long(answered)},
        line="--join question.jsonl:question_id --join answer.jsonl:question_id,model=model_id"
        " --where turn=1 --prompt turns[0] --completion choices[0].turns[0]"
        " --score score --values=-1=null --source model",
        dropped={"filtered": 2},
        first=[(ASKED[0], GOOD, 9), (ASKED[0], BAD, 3)],
        rows=8,
    ),
    Entry(
        name="Prometheus",
        about="scores as texts of numbers",
        records=long(prometheus),
        line="--prompt orig_instruction --completion orig_response --score orig_score",
        kind="json",
        first=[(ASKED[0], GOOD, "5"), (ASKED[0], BAD, "2")],
        rows=10,
    ),
    Entry(
        name="A column for each model",
        about="answers and scores side by side",
        records=each(per_model),
        line="--completion ash,birch,cedar --score ash_score,birch_score,cedar_score",
        means="--prompt question --completion ash,birch,cedar"
        " --score ash_score,birch_score,cedar_score",
        kind="csv",
        first=[(ASKED[0], ASH, 9), (ASKED[0], BIRCH, 6), (ASKED[0], CEDAR, 3)],
        rows=18,
    ),
    Entry(
        name="A field for each model",
        about="all fields of a record are alternatives",
        records=each(in_struct),
        line="--prompt question --completion responses.* --score ratings.*",
        first=[(ASKED[0], ASH, 5), (ASKED[0], BIRCH, 3), (ASKED[0], CEDAR, 1)],
        rows=18,
    ),
    Entry(
        name="A file for each model",
        about="the file's name says whose answers they are",
        records=sorted(long(per_file), key=lambda row: -row["score"]),
        places=["ash-7b.jsonl"] * 5 + ["birch-13b.jsonl"] * 5,
        line="--file-as model --source model",
        means="--file-as model --source model --prompt question --completion answer --score score",
        first=[(ASKED[0], GOOD, 5), (ASKED[1], "The kiwi.", 5)],
        rows=10,
    ),
    Entry(
        name="Records in an object",
        about="what the file says about itself comes first",
        records=long(per_file),
        means="--prompt question --completion answer --score score",
        kind="json",
        around="data",
        first=LONG,
        rows=10,
    ),
    Entry(
        name="Records under their ids",
        about="a map of records",
        records=long(per_file),
        means="--prompt question --completion answer --score score",
        kind="json",
        around="*",
        first=LONG,
        rows=10,
    ),
]
