"""Shapes with one answer a record: thumbs, words, conversations."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, SAID, assistant, gpt, human, long, user

NO_LIMITS = {"chosen_min": None, "rejected_below": None}
GOOD, BAD = SAID[0][0], SAID[0][2]
ADVICE = "--prompt question --completion answer --score feedback"
LONG = [(ASKED[0], GOOD, 5), (ASKED[0], BAD, 2)]
UP = [(ASKED[0], GOOD, 0.0), (ASKED[0], BAD, 1.0)]


def thumbs(up, down, *names: str):
    """A log whose rating is `up` or `down`, under these names."""
    prompt, completion, score = names

    def make(i, k, question, answer) -> dict:
        return {
            "timestamp": f"2024-05-0{i + 1}T09:0{k}:00",
            prompt: question,
            completion: answer,
            score: (up, down)[k if i % 2 else 1 - k],
        }

    return make


def alpaca(i, k, question, answer) -> dict:
    return {
        "instruction": question,
        "input": ("", "Be kind.")[i % 2],
        "output": answer,
        "rating": 5 - 3 * k,
    }


def alpaca_system(i, k, question, answer) -> dict:
    row = alpaca(i, k, question, answer)
    return {**row, "system": ("You are brief.", None)[i % 2], "history": [["Hello.", "Hello!"]]}


def judged(i, k, question, answer) -> dict:
    return {"question": question, "answer": answer, "judge_score": (8, 3)[k] if i != 1 else -1}


def words_of_quality(i, k, question, answer) -> dict:
    words = ("1. Optimal", "2. Suboptimal", "3. Wrong", "n/a")
    return {"prompt": question, "response": answer, "Quality": words[(2 * k + i // 4) % 4]}


def kto(i, k, question, answer) -> dict:
    return {"prompt": question, "completion": answer, "label": k == 0}


def kto_talk(i, k, question, answer) -> dict:
    return {"prompt": [user(question)], "completion": [assistant(answer)], "label": k == 0}


def kto_tag(i, k, question, answer) -> dict:
    return {"messages": [user(question), assistant(answer)], "kto_tag": k == 0}


def sharegpt(i, k, question, answer) -> dict:
    talk = [human("Hello."), gpt("Hello!"), human(question), gpt(answer)]
    if i == 4 and k:
        talk.append(human("Thanks!"))
    return {"id": f"s{i}{k}", "conversations": talk, "score": 5 - 3 * k}


def rewarded(i, k, question, answer) -> dict:
    return {"prompt": question, "completion": answer, "reward": 1.5 - k}


def chat_history(i, k, question, answer) -> dict:
    earlier = [user("Hello."), assistant("Hello!")] if i % 2 else []
    return {"history": earlier, "question": question, "answer": answer, "stars": 5 - 3 * k}


THUMBS = [
    Entry(
        name="Thumbs as words",
        about="up and down, recognised",
        records=long(thumbs("up", "down", "question", "answer", "feedback")),
        means=f"{ADVICE} --values up=1,down=0",
        command="unpair",
        first=UP,
        rows=10,
    ),
    Entry(
        name="Thumbs, case aside",
        shown=False,
        about="Thumbs_Up and thumbs_down",
        records=long(thumbs("Thumbs_Up", "thumbs_down", "question", "answer", "feedback")),
        means=f"{ADVICE} --values thumbs_up=1,thumbs_down=0",
        command="unpair",
        kind="csv",
        first=UP,
        rows=10,
    ),
    Entry(
        name="Thumbs as signs",
        about="two emoji, spelled out",
        records=long(thumbs("👍", "👎", "question", "answer", "feedback")),
        line="--values 👍=1,👎=0",
        means=f"{ADVICE} --values 👍=1,👎=0",
        kind="tsv",
        first=UP,
        rows=10,
    ),
    Entry(
        name="Likes",
        about="like and dislike",
        records=long(thumbs("like", "dislike", "input", "output", "rating")),
        line="--values like=1,dislike=0",
        means="--prompt input --completion output --score rating --values like=1,dislike=0",
        first=UP,
        rows=10,
    ),
    Entry(
        name="Yes and no",
        about="recognised by its values",
        records=long(thumbs("Yes", "No", "prompt", "response", "feedback")),
        means="--prompt prompt --completion response --score feedback --values yes=1,no=0",
        command="unpair",
        kind="csv",
        first=UP,
        rows=10,
    ),
    Entry(
        name="TRUE and FALSE",
        about="booleans of a spreadsheet",
        records=long(thumbs("TRUE", "FALSE", "question", "answer", "liked")),
        line="--score liked",
        means="--prompt question --completion answer --score liked",
        command="unpair",
        kind="csv",
        first=[(ASKED[0], GOOD, "FALSE"), (ASKED[0], BAD, "TRUE")],
        rows=10,
    ),
    Entry(
        name="1 and -1",
        about="two values are labels",
        records=long(thumbs(1, -1, "question", "answer", "rating")),
        means="--prompt question --completion answer --score rating",
        command="unpair",
        first=[(ASKED[0], GOOD, -1), (ASKED[0], BAD, 1)],
        rows=10,
    ),
    Entry(
        name="Graded words",
        about="words of a rubric, one of them for `cannot say`",
        records=long(words_of_quality),
        line='--score Quality --values "1. Optimal=2,2. Suboptimal=1,3. Wrong=0,n/a=null"',
        means="--prompt prompt --completion response --score Quality"
        ' --values "1. Optimal=2,2. Suboptimal=1,3. Wrong=0,n/a=null"',
        plan=NO_LIMITS,
        kind="csv",
        first=[(ASKED[0], GOOD, 2.0), (ASKED[0], BAD, 0.0)],
        rows=10,
    ),
    Entry(
        name="Sentinels",
        about="-1 where the judge failed, on a scale of 1 to 10",
        records=long(judged),
        line="--score judge_score --values=-1=null",
        means="--prompt question --completion answer --score judge_score --values=-1=null",
        first=[(ASKED[0], GOOD, 8), (ASKED[0], BAD, 3), (ASKED[1], "The kiwi.", None)],
        rows=10,
    ),
]

TALKS = [
    Entry(
        name="Alpaca with ratings",
        about="instruction and input are one prompt, recognised",
        records=long(alpaca),
        means="--prompt instruction,input --completion output --score rating",
        kind="json",
        command="best",
        first=[*LONG, (f"{ASKED[1]}\n\nBe kind.", "The kiwi.", 5)],
        rows=10,
    ),
    Entry(
        name="LLaMA-Factory, Alpaca with system and history",
        about="every column that its format has",
        records=long(alpaca_system),
        line="--prompt instruction,input --system system --history history --completion output"
        " --score rating",
        kind="json",
        first=[([user("Hello."), assistant("Hello!"), user(ASKED[0])], GOOD, 5)],
        rows=10,
    ),
    Entry(
        name="TRL unpaired preference",
        about="prompt, completion and label",
        records=long(kto),
        means="--prompt prompt --completion completion --score label",
        command="unpair",
        first=[(ASKED[0], GOOD, True), (ASKED[0], BAD, False)],
        rows=10,
    ),
    Entry(
        name="TRL unpaired preference to pairs",
        shown=False,
        about="labels are scores",
        records=long(kto_talk),
        means="--prompt prompt --completion completion --score label",
        kind="parquet",
        first=[
            ([user(ASKED[0])], [assistant(GOOD)], True),
            ([user(ASKED[0])], [assistant(BAD)], False),
        ],
        rows=10,
    ),
    Entry(
        name="LLaMA-Factory, KTO",
        about="a whole conversation and its tag",
        records=long(kto_tag),
        line="--prompt messages[:-1] --completion messages[-1] --score kto_tag",
        command="unpair",
        kind="json",
        first=[([user(ASKED[0])], GOOD, True), ([user(ASKED[0])], BAD, False)],
        rows=10,
    ),
    Entry(
        name="ShareGPT with scores",
        about="recognised; a conversation that ends with the user has no answer",
        records=long(sharegpt),
        means="--prompt conversations[:-1] --completion conversations[-1] --score score",
        first=[([human("Hello."), gpt("Hello!"), human(ASKED[0])], GOOD, 5)],
        rows=10,
    ),
    Entry(
        name="TRL prompt-completion with rewards",
        about="rewards have no scale",
        records=long(rewarded),
        line="--score reward",
        means="--prompt prompt --completion completion --score reward",
        plan=NO_LIMITS,
        kind="parquet",
        first=[(ASKED[0], GOOD, 1.5), (ASKED[0], BAD, 0.5)],
        rows=10,
    ),
    Entry(
        name="Chat with history",
        about="earlier turns as messages in a column",
        records=long(chat_history),
        line="--history history",
        means="--history history --prompt question --completion answer --score stars",
        first=[([user(ASKED[0])], GOOD, 5), ([user(ASKED[0])], BAD, 2)],
        rows=10,
    ),
]
