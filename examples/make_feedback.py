"""Feedback to try prefmill on: rated answers to made-up questions, and a pool of unrated answers on
other topics.

    python examples/make_feedback.py out/demo

writes `feedback.parquet` (to train on), `unseen.parquet` (feedback on topics that the first file
does not have), `pool.parquet` (8 candidates for each of other questions on those topics, without
scores) and `truth.parquet` (how good each candidate really is).

Everything comes from `tasks.csv` beside this script (six facts about each of 80 tasks), the phrases
below and one seed. A rater sees the true quality of an answer (1 to 5) through a bias and noise of
his own. A good answer gives the fact that was asked for; bad ones are about another task, give a
fact that was not asked for, measure time in kilograms, dodge, refuse, are rude, or say next to
nothing. Most kinds come long and short, so that length gives little away.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import polars as pl

Task = dict[str, str]  # a row of tasks.csv: topic, task, noun, amount, step, tool, why, avoid
UNSEEN = ("beekeeping", "aquariums", "camping", "guitar", "skiing")
QUESTIONS = {  # by the fact that they ask for; the last phrase of each is kept for the pool
    "step": [
        "How do I {task}?",
        "What is the best way to {task}?",
        "Can you explain how to {task}?",
        "I want to {task}. What do I do?",
    ],
    "amount": [
        "How much {noun} does it take to {task}?",
        "To {task}, how much {noun} should I plan for?",
        "What {noun} is needed to {task}?",
        "Roughly how much {noun} do I need if I {task}?",
    ],
    "tool": [
        "What do I need to have at hand to {task}?",
        "Which things should I get before I {task}?",
        "What equipment does it take to {task}?",
        "Which tools are used to {task}?",
    ],
    "why": [
        "I {task}. Why should I {step}?",
        "Why is it said that to {task} one should {step}?",
        "To {task}, I am told to {step}. Why?",
        "What is the reason to {step} when I {task}?",
    ],
    "avoid": [
        "What should I avoid when I {task}?",
        "Which mistake do people make when they {task}?",
        "What goes wrong most often if I {task}?",
        "Is there anything I must not do when I {task}?",
    ],
}
DIRECT = {
    "step": ["{Step}.", "The main thing is to {step}.", "Get {tool}, then {step}."],
    "amount": [
        "About {amount}.",
        "You should plan for {amount}.",
        "Usually {amount}, sometimes a little more.",
    ],
    "tool": ["All you need is {tool}.", "{Tool}.", "Get {tool} before you start."],
    "why": ["Because {why}.", "{Why}.", "The reason is simple: {why}."],
    "avoid": ["The usual mistake is {avoid}.", "{Avoid}.", "What spoils it most often is {avoid}."],
}
EXTRA = {
    "step": "In short: {step}.",
    "amount": "Plan for {amount}.",
    "tool": "It helps to have {tool}.",
    "why": "After all, {why}.",
    "avoid": "Beware of {avoid}.",
}
FILLER = {
    "padded": [
        "That is a question which many people ask, and I am glad that you do. ",
        "Let me say first that everyone finds this hard at the beginning. ",
    ],
    "rude but right": ["Everybody knows that, except you, it seems. ", "Are you serious? "],
}
FIXED = {
    "vague": [
        "It depends.",
        "That varies a lot.",
        "It depends on many things, and opinions on how to {task} differ widely.",
        "There are several ways to {task}, and each has its good and its bad sides.",
    ],
    "refusal": [
        "I cannot help with that.",
        "Sorry, no answer to that.",
        "I am sorry, but I am not able to tell you how to {task}. Please ask somebody else.",
        "As a careful assistant I would rather not say anything on this.",
    ],
    "rude": [
        "What a stupid question.",
        "Who cares?",
        "Only a fool would ask how to {task}. Look it up and stop wasting our time.",
    ],
    "empty": ["", "ok", "?", "Yes.", "..."],
}
QUALITY = {  # what a fair rater without noise would give
    "full": 5.0,
    "direct": 4.4,
    "padded": 3.7,
    "cut off": 2.9,
    "rude but right": 2.6,
    "not asked": 2.4,
    "vague": 1.9,
    "wrong unit": 1.6,
    "other task": 1.5,
    "refusal": 1.3,
    "other topic": 1.2,
    "echo": 1.1,
    "rude": 1.0,
    "empty": 1.0,
}
OFTEN = {
    "full": 3,
    "direct": 4,
    "padded": 3,
    "not asked": 3,
    "vague": 2,
    "other task": 2,
    "other topic": 3,
    "refusal": 2,
}  # else 1
RATERS = {"ada": 0.0, "ben": -0.3, "cho": 0.3, "dev": 0.1, "eli": -0.1}
FLAWS = {
    "null_score": 40,
    "non_finite_score": 15,
    "null_completion": 25,
    "null_prompt": 10,
    "single_completion": 20,
}  # in 900 questions


def fill(template: str, task: Task) -> str:
    """`{step}` is a fact of the task, `{Step}` the same with a capital letter."""
    return template.format(
        **task, **{name.capitalize(): text[:1].upper() + text[1:] for name, text in task.items()}
    )


def answer(
    draw: random.Random, kind: str, fact: str, question: str, task: Task, table: list[Task]
) -> str:
    """An answer of a kind of `QUALITY` to a question that asks for `fact` of `task`."""
    direct = fill(draw.choice(DIRECT[fact]), task)
    more = [
        fill(text, task)
        for name, text in EXTRA.items()
        if name != fact and (fact, name) != ("why", "step")
    ]
    if kind == "direct":
        return direct
    if kind == "full":
        return " ".join([direct, *draw.sample(more, draw.choice([1, 1, 2]))])
    if kind in FILLER:
        return draw.choice(FILLER[kind]) + direct
    if kind == "cut off":
        return direct[: int(len(direct) * draw.uniform(0.4, 0.7))]
    if kind == "not asked":
        return " ".join(draw.sample(more, draw.choice([1, 2])))
    if kind == "wrong unit":
        unit = task["amount"].split()[1]
        return fill(
            draw.choice(DIRECT["amount"]),
            task | {"amount": draw.choice([t["amount"] for t in table if unit not in t["amount"]])},
        )
    if kind in ("other task", "other topic"):
        others = [
            t
            for t in table
            if t is not task and (t["topic"] == task["topic"]) == (kind == "other task")
        ]
        if fact == "amount":  # minutes of another task could be right here: nobody could tell
            others = [t for t in others if t["noun"] != task["noun"]]
        other = draw.choice(others)
        return answer(draw, draw.choice(["direct", "full", "padded"]), fact, question, other, table)
    if kind == "echo":
        return draw.choice([question, f"You ask: {question} A good question."])
    return fill(draw.choice(FIXED[kind]), task)


def answers(
    draw: random.Random, count: int, fact: str, question: str, task: Task, table: list[Task]
) -> list[tuple[str, str]]:
    """So many different answers to a question with the kind of each, in any order; at least one is
    right.
    """
    kinds = [kind for kind in QUALITY if kind != "wrong unit" or fact == "amount"]
    drawn = [draw.choice(["full", "direct"])]
    found: dict[str, str] = {}
    while len(found) < count:
        kind = (
            drawn.pop() if drawn else draw.choices(kinds, [OFTEN.get(kind, 1) for kind in kinds])[0]
        )
        found.setdefault(answer(draw, kind, fact, question, task, table), kind)
    return draw.sample(list(found.items()), count)


def questions(
    draw: random.Random, table: list[Task], phrases: slice
) -> list[tuple[str, str, Task]]:
    """(fact, question, task) for every task, every fact and some phrases, shuffled."""
    found = [
        (fact, fill(text, task), task)
        for task in table
        for fact, texts in QUESTIONS.items()
        for text in texts[phrases]
    ]
    draw.shuffle(found)
    return found


def feedback(
    draw: random.Random, asked: list[tuple[str, str, Task]], table: list[Task]
) -> list[dict[str, Any]]:
    """4 to 6 answers to every question, each rated once."""
    rows: list[dict[str, Any]] = []
    for fact, question, task in asked:
        for text, kind in answers(draw, draw.choice([4, 5, 6]), fact, question, task, table):
            rater = draw.choice(list(RATERS))
            score = float(min(5, max(1, round(QUALITY[kind] + RATERS[rater] + draw.gauss(0, 0.5)))))
            rows.append(
                {
                    "prompt": question,
                    "completion": text,
                    "score": score,
                    "annotator": rater,
                    "id": f"a{len(rows):05d}",
                }
            )
    return rows


def spoil(
    draw: random.Random, rows: list[dict[str, Any]], flaws: dict[str, int]
) -> list[dict[str, Any]]:
    """`rows` with the flaws of raw data: so many of each kind, at most one in a question."""
    first = {row["prompt"]: i for i, row in reversed(list(enumerate(rows)))}
    spoilt = iter(draw.sample(list(first), sum(flaws.values())))
    alone = {next(spoilt) for _ in range(flaws["single_completion"])}
    for flaw, value in {
        "null_score": None,
        "non_finite_score": float("nan"),
        "null_completion": None,
        "null_prompt": None,
    }.items():
        for _ in range(flaws[flaw]):
            rows[first[next(spoilt)]][flaw.split("_")[-1]] = value
    return [
        row for i, row in enumerate(rows) if row["prompt"] not in alone or i == first[row["prompt"]]
    ]


def make(folder: Path, seed: int = 0, limit: int | None = None) -> dict[str, int]:
    """Write the four files, each with at most `limit` questions; the flaws that were planted in the
    feedback.
    """
    draw = random.Random(seed)
    tasks: list[Task] = pl.read_csv(Path(__file__).with_name("tasks.csv")).to_dicts()
    seen, unseen = [
        [task for task in tasks if (task["topic"] in UNSEEN) == new] for new in (False, True)
    ]
    asked = questions(draw, seen, slice(-1))[:limit]
    flaws = {name: -(-count * len(asked) // 900) for name, count in FLAWS.items()}
    tables = {
        "feedback": spoil(draw, feedback(draw, asked, seen), flaws),
        "unseen": feedback(draw, questions(draw, unseen, slice(-1))[:limit], unseen),
    }
    truth = [
        {"prompt": question, "completion": text, "kind": kind, "quality": QUALITY[kind]}
        for fact, question, task in questions(draw, unseen, slice(-1, None))[:limit]
        for text, kind in answers(draw, 8, fact, question, task, unseen)
    ]
    tables["pool"] = [
        {"prompt": row["prompt"], "completion": row["completion"], "id": f"c{i:04d}"}
        for i, row in enumerate(truth)
    ]
    tables["truth"] = truth
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        pl.DataFrame(rows).write_parquet(folder / f"{name}.parquet")
        print(
            f"{folder / name}.parquet: {len(rows)} rows,"
            f" {len({row['prompt'] for row in rows} - {None})} prompts"
        )
    print(
        "planted in feedback.parquet:",
        ", ".join(f"{count} {name}" for name, count in flaws.items()),
    )
    return flaws


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="at most so many questions in each file")
    given = parser.parse_args()
    make(given.folder, given.seed, given.limit)
