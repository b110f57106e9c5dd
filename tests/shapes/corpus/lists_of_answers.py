"""Shapes with several answers in lists: UltraFeedback, Nectar, rollouts, trees."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, MODELS, SAID, each

RANKS = ((1, 2, 3, 4), (2, 1, 4, 3), (1, 2, 4, 3), (2, 1, 3, 4), (1, 3, 2, 4))
OVERALL = ((9.0, 7.5, 4.0, 2.0), (6.0, 8.5, 1.0, 3.0), (8.0, 9.5, 2.0, 1.5), (7.0, 7.0, 2.0, 3.0))
RIGHT = ((True, True, False, False), (True, False, False, False), (True, True, True, True))
NO_LIMITS = {"chosen_min": None, "rejected_below": None}


def ultrafeedback(i: int, question: str, answers: tuple) -> dict:
    completions = [
        {
            "model": MODELS[k],
            "response": answers[k],
            "annotations": {
                "helpfulness": {"Rating": ("5", "3", "N/A", "1")[(i + k) % 4], "Rationale": "..."},
                "honesty": {"Rating": "4", "Rationale": "..."},
            },
            "overall_score": OVERALL[i % 4][k],
        }
        for k in range(4)
    ]
    return {
        "source": "garden",
        "instruction": question,
        "models": list(MODELS),
        "completions": completions,
        "correct_answers": ["None"],
    }


def nectar(i: int, question: str, answers: tuple) -> dict:
    answers = [
        {"answer": answers[k], "model": MODELS[k], "rank": float(RANKS[i % 5][k])}
        for k in range(4 - i % 2)
    ]
    return {
        "prompt": f"\n\nHuman: {question}\n\nAssistant: ",
        "answers": answers,
        "turns": 1,
        "num_responses": len(answers),
        "good_natured": True,
    }


def responses(i: int, question: str, answers: tuple) -> dict:
    return {"prompt": question, "responses": list(answers), "scores": list(OVERALL[i % 4])}


def distilabel(i: int, question: str, answers: tuple) -> dict:
    return {
        "instruction": question,
        "generations": list(answers[:3]),
        "generation_models": list(MODELS[:3]),
        "ratings": [5.0, None, 2.0] if i % 2 else [3.0, 4.5, 1.0],
        "rationales": ["..."] * 3,
    }


def armorm(i: int, question: str, answers: tuple) -> dict:
    return {
        "prompt_id": f"p{i}",
        "prompt": question,
        "all_generated_responses": list(answers),
        "all_rm_scores": [score / 50 for score in OVERALL[i % 4]],
        "best": answers[0],
    }


def rollouts(i: int, question: str, answers: tuple) -> dict:
    return {
        "idx": i,
        "question": question,
        "gt_cot": "...",
        "gt": answers[0],
        "code": list(answers),
        "pred": [answer.rstrip(".") for answer in answers],
        "report": [None] * 4,
        "score": list(RIGHT[i % 3]),
    }


def mixinstruct(i: int, question: str, answers: tuple) -> dict:
    return {
        "id": f"set/{i}",
        "instruction": question,
        "input": "" if i % 2 else "Be short.",
        "output": answers[0],
        "candidates": [
            {
                "model": MODELS[k],
                "decoding_method": "top_p",
                "text": answers[k],
                "scores": {"bartscore": -1.5 - k - i / 4, "bleu": 9.0 - k},
            }
            for k in range(3)
        ],
    }


def reply(text: str, rank: int | None, replies: list[dict]) -> dict:
    return {"text": text, "role": "assistant", "rank": rank, "deleted": False, "replies": replies}


def oasst_tree(i: int, question: str, answers: tuple) -> dict:
    later = [{"text": "Thanks!", "role": "prompter", "rank": None}]
    return {
        "message_tree_id": f"t{i}",
        "tree_state": "ready_for_export",
        "prompt": {
            "message_id": f"t{i}",
            "text": question,
            "role": "prompter",
            "lang": "en",
            "replies": [reply(answers[k], (k + i) % 3, later * (k == 0)) for k in range(3)],
        },
    }


def oasst_flat() -> list[dict]:
    rows = []
    for i in range(4):
        tree = {"message_tree_id": f"t{i}", "lang": "en"}
        asked = {"message_id": f"t{i}", "parent_id": None, "text": ASKED[i], "role": "prompter"}
        rows.append({**asked, **tree, "rank": None})
        for k in range(3):
            reply = {"message_id": f"t{i}-{k}", "parent_id": f"t{i}", "text": SAID[i][k]}
            rows.append({**reply, "role": "assistant", **tree, "rank": (k + i) % 3})
    return rows


def paged(i: int, question: str, answers: tuple) -> dict:
    return {
        "topic": f"topic {i}",
        "data": {
            "query": question,
            "answers": [{"text": a, "stars": 5 - k} for k, a in enumerate(answers[: 2 + i % 3])],
        },
    }


ENTRIES = [
    Entry(
        name="UltraFeedback",
        about="four completions as a list of records, scored 1 to 10",
        records=each(ultrafeedback),
        line="--completion completions.response --score completions.overall_score",
        first=[
            (ASKED[0], "Stuff them with paper.", 9.0),
            (ASKED[0], "Put them outside.", 7.5),
            (ASKED[0], "Wait.", 4.0),
            (ASKED[0], "Buy new ones.", 2.0),
        ],
        rows=24,
    ),
    Entry(
        name="UltraFeedback, recognised",
        about="the same without options",
        records=each(ultrafeedback),
        means="--completion completions.response --score completions.overall_score",
        first=[(ASKED[0], "Stuff them with paper.", 9.0)],
        rows=24,
        kind="parquet",
        command="best",
    ),
    Entry(
        name="UltraFeedback, one aspect",
        about="ratings as texts, deep in the records, `N/A` among them",
        records=each(ultrafeedback),
        line="--completion completions.response"
        " --score completions.annotations.helpfulness.Rating --values N/A=null",
        first=[
            (ASKED[0], "Stuff them with paper.", "5"),
            (ASKED[0], "Put them outside.", "3"),
            (ASKED[0], "Wait.", None),
        ],
        rows=24,
        kind="json",
    ),
    Entry(
        name="Nectar",
        about="up to seven answers, ranked inside their list",
        records=each(nectar, 8),
        line="--completion answers.answer --score=-answers.rank --source answers.model",
        first=[
            (f"\n\nHuman: {ASKED[0]}\n\nAssistant: ", "Stuff them with paper.", -1.0),
            (f"\n\nHuman: {ASKED[0]}\n\nAssistant: ", "Put them outside.", -2.0),
            (f"\n\nHuman: {ASKED[0]}\n\nAssistant: ", "Wait.", -3.0),
            (f"\n\nHuman: {ASKED[0]}\n\nAssistant: ", "Buy new ones.", -4.0),
            (f"\n\nHuman: {ASKED[1]}\n\nAssistant: ", "The kiwi.", -2.0),
        ],
        rows=28,
    ),
    Entry(
        name="Ranked lists of one prompt",
        shown=False,
        about="the same prompt in two records: their ranks never meet",
        records=[nectar(0, ASKED[0], SAID[0]), nectar(2, ASKED[0], SAID[0][::-1])] * 3,
        line="--completion answers.answer --score=-answers.rank",
        plan={"strategy": "adjacent"},
        first=[(f"\n\nHuman: {ASKED[0]}\n\nAssistant: ", "Stuff them with paper.", -1.0)],
        rows=24,
    ),
    Entry(
        name="Responses and scores",
        shown=False,
        about="two lists side by side",
        records=[*each(responses), {"prompt": "?", "responses": [], "scores": []}],
        line="--each responses,scores --completion responses --score scores",
        dropped={"no_answers": 1},
        first=[(ASKED[0], "Stuff them with paper.", 9.0), (ASKED[0], "Put them outside.", 7.5)],
        rows=24,
        kind="parquet",
    ),
    Entry(
        name="Responses and scores, recognised",
        about="two lists side by side, no options",
        records=each(responses),
        means="--each responses,scores --completion responses --score scores",
        first=[(ASKED[0], "Stuff them with paper.", 9.0)],
        rows=24,
        kind="jsonl.gz",
    ),
    Entry(
        name="distilabel",
        about="generations, their models and ratings, some of them missing",
        records=each(distilabel),
        line="--each generations,generation_models,ratings --completion generations"
        " --score ratings --source generation_models",
        first=[
            (ASKED[0], "Stuff them with paper.", 3.0),
            (ASKED[0], "Put them outside.", 4.5),
            (ASKED[0], "Wait.", 1.0),
            (ASKED[1], "The kiwi.", 5.0),
            (ASKED[1], "An ostrich cannot fly.", None),
        ],
        rows=18,
    ),
    Entry(
        name="Generations with reward scores",
        about="as SimPO and HALOs have them; rewards have no scale",
        records=each(armorm),
        line="--each all_generated_responses,all_rm_scores --completion all_generated_responses"
        " --score all_rm_scores",
        plan=NO_LIMITS,
        first=[(ASKED[0], "Stuff them with paper.", 0.18), (ASKED[0], "Put them outside.", 0.15)],
        rows=24,
        kind="parquet",
    ),
    Entry(
        name="Qwen-Math rollouts",
        about="solutions and whether each is right; `answer` would be the gold one",
        records=each(rollouts, 9),
        line="--prompt question --each code,score --completion code --score score",
        command="curve",
        first=[
            (ASKED[0], "Stuff them with paper.", True),
            (ASKED[0], "Put them outside.", True),
            (ASKED[0], "Wait.", False),
        ],
        rows=36,
    ),
    Entry(
        name="MixInstruct",
        about="candidates with several scores; the prompt in two columns",
        records=each(mixinstruct),
        line="--prompt instruction,input --completion candidates.text"
        " --score candidates.scores.bartscore --source candidates.model",
        plan=NO_LIMITS,
        first=[
            (f"{ASKED[0]}\n\nBe short.", "Stuff them with paper.", -1.5),
            (f"{ASKED[0]}\n\nBe short.", "Put them outside.", -2.5),
            (f"{ASKED[0]}\n\nBe short.", "Wait.", -3.5),
            (ASKED[1], "The kiwi.", -1.75),
        ],
        rows=18,
        kind="json",
    ),
    Entry(
        name="OASST trees",
        about="replies under a prompt, ranked from 0",
        records=each(oasst_tree),
        line="--prompt prompt.text --completion prompt.replies.text --score=-prompt.replies.rank",
        first=[
            (ASKED[0], "Stuff them with paper.", 0.0),
            (ASKED[0], "Put them outside.", -1.0),
            (ASKED[0], "Wait.", -2.0),
            (ASKED[1], "The kiwi.", -1.0),
        ],
        rows=18,
    ),
    Entry(
        name="OASST messages",
        about="one message a row: the prompt is found by the parent's id in the same file",
        records=oasst_flat(),
        files={"parents.jsonl": oasst_flat()},
        line="--join parent=parents.jsonl:parent_id=message_id --where role=assistant"
        " --prompt parent.text --completion text --score=-rank --group parent_id",
        plan=NO_LIMITS,
        dropped={"filtered": 4},
        first=[(ASKED[0], "Stuff them with paper.", 0.0), (ASKED[0], "Put them outside.", -1.0)],
        rows=12,
    ),
    Entry(
        name="Answers inside a record",
        about="the question and a list of answers, both below `data`",
        records=each(paged),
        line="--prompt data.query --completion data.answers.text --score data.answers.stars",
        first=[(ASKED[0], "Stuff them with paper.", 5), (ASKED[0], "Put them outside.", 4)],
        rows=18,
        kind="jsonl.zst",
    ),
    Entry(
        name="First and last of a list",
        shown=False,
        about="paths with places: the best and the worst of four",
        records=each(responses),
        line="--completion responses[0],responses[-1] --score scores[0],scores[3]",
        first=[(ASKED[0], "Stuff them with paper.", 9.0), (ASKED[0], "Buy new ones.", 2.0)],
        rows=12,
    ),
]
