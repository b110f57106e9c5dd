"""What raw records mean as rows, in plain Python over dicts: written from "Rows of raw records" of
`docs/semantics.md` and from nothing else; slow, short, obviously right.

`long_rows` gives rows with the columns `prompt`, `completion`, `score`, those of other roles, and
`_record` where a record is its own group. `oracle.py` says what a plan makes of them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from shape_paths import (
    Step,
    begins_with,
    follow,
    is_message,
    is_number,
    listed,
    parsed,
    said_by,
    steps_of,
    word,
)
from shape_verdicts import Judge, judges_of, verdict_of

ROLES = ("id", "annotator", "aspect", "stage", "weight", "logprob", "source")
#: The names of the field for each role, its own first: those of `prefmill.table.roles`.
USUAL = {
    "prompt": ("prompt", "question", "instruction", "input", "query", "context", "user_prompt"),
    "completion": ("completion", "answer", "response", "output", "generation", "reply"),
    "score": ("score", "feedback", "rating", "reward", "overall_score", "stars"),
}
TURN = re.compile(r"\n\n(Human|Assistant):")


class Refused(Exception):
    """Records that cannot be meant; `record` is the place of the first one."""

    def __init__(self, why: str, record: int | None = None) -> None:
        super().__init__(why if record is None else f"record {record}: {why}")
        self.record = record


@dataclass
class Reading:
    """Rows in order, the roles that a plan reads them with, and what became of every record."""

    rows: list[dict]
    roles: dict[str, Any]
    records: int
    dropped: Counter = field(default_factory=Counter)
    votes: Counter = field(default_factory=Counter)


def long_rows(
    records: list[dict],
    words: dict[str, Any],
    *,
    files: list[str] | None = None,
    joined: dict[str, list[dict]] | None = None,
    like: list[dict] | None = None,
) -> Reading:
    """The rows of `records`; `files` says which file each is of, `joined` has other files by name.

    `like` are records of the same types, for what no record of few happens to hold.
    """
    records = [dict(record) for record in records]
    if words.get("file_as"):
        for record, name in zip(records, files or [], strict=True):
            record[words["file_as"]] = re.split(r"[/\\]", name)[-1].split(".")[0]
    matched = [True] * len(records)
    for join in listed(words.get("join")):
        matched = joined_to(records, join, joined or {}, matched)
    known = [*records, *(like or [])]
    columns = list(dict.fromkeys(name for record in known for name in record))
    shape = Shape.of(with_usual(words, columns), columns, known)
    rows: list[dict] = []
    dropped: Counter = Counter()
    votes: Counter = Counter()
    for number, record in enumerate(records):
        reason, mine, lost = shape.rows_of(record, number, matched[number])
        votes.update(lost)
        if reason:
            dropped[reason] += 1
        rows += mine
    return Reading(rows, shape.roles(), len(records), dropped, votes)


def with_usual(words: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """`words` with the columns of roles that are not named: their own name, or one of the field."""
    found = dict(words)
    for role, texts in USUAL.items():
        if role in words or (role == "score" and words.get("winner")):
            continue
        there = [text for text in texts if text in columns]
        if role in there or len(there) == 1:
            found[role] = there[0]
    return found


def joined_to(
    records: list[dict], join: str, files: dict[str, list[dict]], matched: list[bool]
) -> list[bool]:
    """Put the columns of another file into `records`; which of them have found their row."""
    said, _, keys = join.rpartition(":")
    name, _, place = said.rpartition("=")
    pairs = [
        (mine, its or mine) for mine, _, its in (key.partition("=") for key in keys.split(","))
    ]
    known: dict[tuple, dict] = {}
    for row in files[place]:
        key = tuple(row[its] for _, its in pairs)
        if key in known:
            raise Refused(f"{place}: the key {key} is there twice")
        known[key] = row
    columns = {column: None for row in files[place] for column in row}
    found = []
    for record, before in zip(records, matched, strict=True):
        key = tuple(record.get(mine) for mine, _ in pairs)
        row = known.get(key) if None not in key else None
        if name:
            record[name] = row
        else:
            for column in columns:
                record.setdefault(column, (row or {}).get(column))
        found.append(before and row is not None)
    return found


@dataclass
class Shape:
    """The words, read: a path for each role, and for completions as many as there are answers."""

    words: dict[str, Any]
    columns: list[str]
    prompt: list[list[Step]]
    answers: list[list[Step]]
    scores: list[Any]
    others: dict[str, list[list[Step]]]
    each: list[list[Step]]
    judges: list[Judge]
    negated: bool

    @classmethod
    def of(cls, words: dict[str, Any], columns: list[str], records: list[dict]) -> Shape:
        answers = parsed(words.get("completion", "completion"), columns, records)
        score, negated = words.get("score"), False
        if score is None and not words.get("winner"):
            score = [1, 0] if names(words, columns) == ["chosen", "rejected"] else "score"
        texts = [] if score is None else listed(score, columns)
        minus = [
            str(text).startswith("-") and text not in columns and not is_number(text)
            for text in texts
        ]
        if any(minus):
            if not all(minus):
                raise Refused("lower is better for some scores only")
            negated, texts = True, [text[1:] for text in texts]
        constants = bool(texts) and all(is_number(text) for text in texts)
        scores = [float(text) for text in texts] if constants else parsed(texts, columns, records)
        if len(scores) == 1 and len(answers) > 1:
            raise Refused("one score for several answers")
        if scores and len(scores) != len(answers):
            raise Refused("as many scores as answers")
        if names(words, columns) == ["chosen", "rejected"] and words.get("disagree") == "keep":
            scores = [1.0, 0.0]
        others = {role: parsed(words[role], columns, records) for role in ROLES if words.get(role)}
        if any(len(paths) not in (1, len(answers)) for paths in others.values()):
            raise Refused("one column for all answers, or one for each")
        prompt = words.get("prompt", "prompt")
        common = prompt == "common" and "common" not in columns
        parts = [] if common else parsed(prompt, columns, records)
        each = parsed(words["each"], columns, records) if words.get("each") else []
        if not each:
            paths = [*answers, *parts, *(s for s in scores if not isinstance(s, float))]
            each = implied([*paths, *(path for role in others.values() for path in role)], records)
        judges = judges_of(words, columns, records, answers)
        return cls(words, columns, parts, answers, scores, others, each, judges, negated)

    def roles(self) -> dict[str, Any]:
        """The roles that a plan reads the rows with."""
        named = {role: role for role in self.others if role not in ("source", "annotator")}
        if "annotator" in self.others or len(self.judges) > 1:
            named["annotator"] = "annotator"
        if self.words.get("group"):
            return named | {"group": [f"_group{i}" for i in range(len(self.groups()))]}
        ranks = self.negated and bool(self.each) and self.ranked()
        alone = len(self.answers) > 1 or bool(self.judges) or ranks
        return named | ({"group": ["_record"]} if alone else {})

    def ranked(self) -> bool:
        """Whether the scores are the ranks of a list."""
        path = self.scores[0]
        return path[-1].lower() in ("rank", "ranking")

    def groups(self) -> list[str]:
        return listed(self.words["group"], self.columns)

    def rows_of(
        self, record: dict, number: int, matched: bool
    ) -> tuple[str | None, list[dict], Counter]:
        """Why a record gives no rows, its rows, and the votes that were lost."""
        lost: Counter = Counter()
        if not all(self.holds(condition, record) for condition in listed(self.words.get("where"))):
            return "filtered", [], lost
        if not matched:
            return "unmatched", [], lost
        ballots: list[tuple[str | None, list[Any] | None]] = [(None, None)]
        if self.judges:
            ballots, reason, lost = self.votes(record)
            if reason:
                return reason, [], lost
        if self.words.get("disagree") == "drop" and not isinstance(self.scores[0], float):
            chosen, rejected = (self.value(path, record) for path in self.scores)
            if None not in (chosen, rejected) and float(rejected) >= float(chosen):
                return "disagreement", [], lost
        rows = []
        for annotator, verdict in ballots:
            for k in range(len(self.answers)):
                for row in self.elements(record, number, k):
                    if verdict is not None:
                        row["score"] = verdict[k]
                    if annotator is not None:
                        row["annotator"] = annotator
                    rows.append(row)
        return (None if rows else "no_answers"), rows, lost

    def votes(self, record: dict) -> tuple[list[tuple[str | None, list[Any]]], str | None, Counter]:
        """The verdicts of a record, or why there are none, and those that were lost."""
        verdicts = [verdict_of(judge, record) for judge in self.judges]
        found = [v for v in verdicts if isinstance(v, list)]
        if not found:
            reason = "null" if all(v == "null" for v in verdicts) else "unknown"
            return [], f"{reason}_verdict", Counter()
        several = len(self.judges) > 1
        ballots = [
            (judge.name if several else None, verdict)
            for judge, verdict in zip(self.judges, verdicts, strict=True)
            if isinstance(verdict, list)
        ]
        return ballots, None, Counter(f"{v}_vote" for v in verdicts if isinstance(v, str))

    def elements(self, record: dict, number: int, k: int) -> list[dict]:
        """The rows of the k-th answer: one, or as many as its lists are long."""
        mine = {"completion": self.answers[k], **self.of_answer(k)}
        inside = [
            path
            for path in self.each
            if any(begins_with(role, path) for role in [*mine.values(), *self.prompt])
        ]
        if not inside:
            return [self.row(record, number, k, mine, [], [])]
        values = [follow(record, path) for path in inside]
        lists = [value or [] for value in values]
        if len({len(value) for value in lists}) > 1:
            raise Refused(f"lists of lengths {[len(value) for value in lists]}", number)
        return [
            self.row(record, number, k, mine, inside, [value[i] for value in lists])
            for i in range(len(lists[0]))
        ]

    def of_answer(self, k: int) -> dict[str, list[Step]]:
        """The paths of the k-th answer's other roles."""
        paths = {role: said[k if len(said) > 1 else 0] for role, said in self.others.items()}
        if self.scores and not isinstance(self.scores[0], float):
            paths["score"] = self.scores[k]
        return paths

    def row(
        self,
        record: dict,
        number: int,
        k: int,
        mine: dict[str, list[Step]],
        each: list[list[Step]],
        element: list[Any],
    ) -> dict:
        def at(path: list[Step]) -> Any:
            for inside, value in zip(each, element, strict=True):
                if begins_with(path, inside):
                    return follow(value, path[len(inside) :])
            return follow(record, path)

        row: dict[str, Any] = {role: at(path) for role, path in mine.items()}
        row["completion"] = said_by(row["completion"])
        if self.words.get("prompt") == "common" and not self.prompt:
            row["prompt"], row["completion"] = self.parted(record, k)
        else:
            row["prompt"] = joined_texts([at(path) for path in self.prompt])
        if self.words.get("history"):
            turns = follow(record, steps_of(self.words["history"], self.columns))
            row["prompt"] = with_history(turns, row["prompt"])
        if self.words.get("system"):
            row["system"] = follow(record, steps_of(self.words["system"], self.columns))
        if "score" in row:
            row["score"] = self.meant(row["score"])
        elif self.scores:
            row["score"] = self.scores[k]
        row["_record"] = number
        if self.words.get("group"):
            for i, name in enumerate(self.groups()):
                is_role = name not in self.columns and name in row
                row[f"_group{i}"] = row[name] if is_role else at(steps_of(name, self.columns))
        return row

    def value(self, path: list[Step], record: dict) -> Any:
        return self.meant(follow(record, path))

    def meant(self, value: Any) -> Any:
        """A score, after `values` and the minus."""
        said = self.words.get("values") or {}
        if isinstance(said, str):
            pairs = [text.rpartition("=") for text in said.split(",")]
            said = {key: None if its == "null" else float(its) for key, _, its in pairs}
        known = {word(key): its for key, its in said.items()}
        if value is not None and word(value) in known:
            value = known[word(value)]
        if self.negated and value is not None and isinstance(word(value), float):
            return -word(value)
        return value

    def holds(self, condition: str, record: dict) -> bool:
        path, _, value = condition.partition("=")
        found = follow(record, steps_of(path, self.columns))
        return found is not None and word(found) == word(value)

    def parted(self, record: dict, k: int) -> tuple[Any, Any]:
        """The longest common beginning of two conversations, and what is left of the k-th one."""
        talks = [conversation(follow(record, path)) for path in self.answers]
        if any(talk is None for talk in talks):
            return None, talks[k]
        most = min(len(talk) for talk in talks) - 1
        common = 0
        while common < most and all(talk[common] == talks[0][common] for talk in talks):
            common += 1
        return talks[0][:common] or None, talks[k][common:]


def names(words: dict[str, Any], columns: list[str]) -> list[str]:
    return listed(words.get("completion", "completion"), columns)


def implied(paths: list[list[Step]], records: list[dict]) -> list[list[Step]]:
    """The lists of records that paths lead through."""
    found: list[list[Step]] = []
    for path in paths:
        for i in range(1, len(path)):
            values = [follow(record, path[:i]) for record in records]
            elements = [e for value in values if isinstance(value, list) for e in value]
            through = isinstance(path[i], str) and any(isinstance(e, dict) for e in elements)
            if through and not any(is_message(e) for e in elements):
                found += [] if path[:i] in found else [path[:i]]
                break
    return found


def joined_texts(parts: list[Any]) -> Any:
    """A prompt of several columns; of one column, whatever it holds."""
    if len(parts) == 1:
        return said_by(parts[0], anybody=True)
    texts = [part for part in parts if part not in (None, "")]
    if not texts:
        return None if all(part is None for part in parts) else ""
    return "\n\n".join(texts)


def with_history(history: Any, prompt: Any) -> Any:
    """Earlier turns, then the prompt."""
    if prompt is None:
        return None
    turns: list[dict] = []
    for turn in history or []:
        if isinstance(turn, dict):
            turns += conversation([turn]) or []
            continue
        for role, text in zip(("user", "assistant"), turn, strict=True):
            turns += [] if text is None else [{"role": role, "content": text}]
    last = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return turns + last


def conversation(said: Any) -> list[dict] | None:
    """A conversation as messages: a list of them, or a text of turns."""
    if said is None:
        return None
    if isinstance(said, str):
        parts = TURN.split(said)
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[who], "content": text.strip()}
            for who, text in zip(parts[1::2], parts[2::2], strict=True)
        ]
    known = {"human": "user", "prompter": "user", "gpt": "assistant"}
    found = []
    for turn in said:
        who, what = ("role", "content") if "role" in turn else ("from", "value")
        rest = {key: value for key, value in turn.items() if key not in (who, what)}
        found.append({"role": known.get(turn[who], turn[who]), "content": turn[what], **rest})
    return found
