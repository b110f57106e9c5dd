"""Verdicts of raw records, for the oracle of shapes: which answer a word means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shape_paths import Step, follow, listed, parsed, steps_of, word

TIES = (
    "tie",
    "ties",
    "tied",
    "draw",
    "equal",
    "same",
    "both",
    "neither",
    "both good",
    "both bad",
    "bothbad",
    "tie (bothbad)",
    "both_good",
    "both_bad",
)
BEFORE = ("model", "response", "answer", "output", "completion", "assistant", "text", "option")
ORDINALS = {("a", "b"): ("first", "second"), ("1", "2"): ("first", "second")}
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+")


@dataclass
class Judge:
    """One verdict of a record: a path, or with `hot` as many as there are answers and ties."""

    name: str
    paths: list[list[Step]]
    wins: list[set[Any]]
    ties: set[Any]
    sources: list[list[Step]]
    answers: int
    hot: bool = False


def own_parts(names: list[str]) -> list[str]:
    """What is left of names when the words that all begin and end with are cut off."""
    split = [WORDS.findall(name) for name in names]
    shortest = min(map(len, split))
    first = last = 0
    while first < shortest and len({words[first] for words in split}) == 1:
        first += 1
    while last < shortest - first and len({words[-1 - last] for words in split}) == 1:
        last += 1
    return ["".join(words[first : len(words) - last]).strip("_-. ") for words in split]


def judges_of(
    words: dict[str, Any], columns: list[str], records: list[dict], answers: list[list[Step]]
) -> list[Judge]:
    if not words.get("winner"):
        return []
    texts = listed(words["winner"], columns)
    names = listed(words.get("completion", "completion"), columns)
    k = len(answers)
    if len(names) != k:
        names = [str(path[-1]) for path in answers]
    parts = own_parts(names)
    ties = {word(tie) for tie in [*TIES, *listed(words.get("ties"))]}
    if k == 2:
        ties |= {word(f"{parts[0]}={parts[1]}"), word(f"{parts[0]}~{parts[1]}")}
    wins = given(words["wins"]) if words.get("wins") else usual(names, parts)
    sources = parsed(words["source"], columns, records) if words.get("source") else []
    usable = sources if len(sources) == k and not words.get("wins") else []
    paths = [steps_of(text, columns) for text in texts]
    lower = [part.lower() for part in parts]
    hot = len(texts) >= k and not words.get("wins")
    if hot and [part.lower() for part in own_parts(texts[:k])] == lower:
        return [Judge(texts[0], paths, [], set(), [], k, hot=True)]
    return [
        Judge(text, [path], wins, ties, usable, k) for text, path in zip(texts, paths, strict=True)
    ]


def given(wins: Any) -> list[set[Any]]:
    return [{word(text) for text in said.split("|")} for said in listed(wins)]


def usual(names: list[str], parts: list[str]) -> list[set[Any]]:
    """The words that each answer is meant by where none are named."""
    lower = tuple(part.lower() for part in parts)
    found = []
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        texts = [name, part]
        texts += [f"{noun}{mark}{part}" for noun in BEFORE for mark in ("_", " ", "")]
        if len(names) == 2:
            other = parts[1 - i]
            texts += [f"{part}>{other}", f"{part}>>{other}", f"{other}<{part}", f"{other}<<{part}"]
        if lower in ORDINALS:
            texts.append(ORDINALS[lower][i])
        found.append({word(text) for text in texts})
    return found


def verdict_of(judge: Judge, record: dict) -> list[float] | str:
    """The scores of the answers, or `null`, or `unknown`."""
    values = [follow(record, path) for path in judge.paths]
    if all(value is None or (isinstance(value, str) and not value.strip()) for value in values):
        return "null"
    if judge.hot:
        return one_hot(judge, values)
    said = word(values[0])
    wins = [set(words) for words in judge.wins]
    for words, path in zip(wins, judge.sources, strict=False):
        name = follow(record, path)
        words |= set() if name is None else {word(name)}
    winners = [i for i, words in enumerate(wins) if said in words]
    if len(winners) == 1:
        return [float(i == winners[0]) for i in range(len(wins))]
    if not winners and said in judge.ties:
        return [0.5] * len(wins)
    return "unknown"


def one_hot(judge: Judge, values: list[Any]) -> list[float] | str:
    """The one column that is true: an answer, or a tie if it stands after those of the answers."""
    true = [i for i, value in enumerate(values) if value is not None and word(value) == 1.0]
    if len(true) != 1:
        return "unknown"
    if true[0] >= judge.answers:
        return [0.5] * judge.answers
    return [float(i == true[0]) for i in range(judge.answers)]
