"""Labels of steps, written from docs/semantics.md ("Labels of steps") and from nothing else.

Records are dictionaries under the roles' own names; loops and lists, no engine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SPACE = " \t\n\r\x0b\x0c"
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?"


class Refused(Exception):
    """The whole input is refused."""


@dataclass
class Words:
    rated: bool = True
    values: Mapping[str, float | None] = field(default_factory=dict)
    threshold: float | None = None
    first_index: int | None = None
    no_error: Sequence[str] = ()
    after_error: str | None = None
    separator: str | None = None
    steps_from: str | None = None


@dataclass
class Path:
    prompt: str | None
    steps: list[str | None] | None
    marks: list[float | None] | None = None
    first_error: Any = None
    reason: str | None = None


def number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip(SPACE).lower()
        if text in ("true", "false"):
            return float(text == "true")
        if re.fullmatch(NUMBER + "|[+-]?(inf|infinity|nan)", text):
            return float(text)
        return None
    return None if value is None else float(value)


def same(value: Any, word: str) -> bool:
    if re.fullmatch(NUMBER, word.strip(SPACE).lower()):
        return number(value) == float(word)
    if value is None:
        return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.strip(SPACE).lower() == word.strip(SPACE).lower()


def meaning(rating: Any, values: Mapping[str, float | None]) -> float | None:
    found = number(rating)
    if isinstance(rating, str) and rating.strip(SPACE) in ("+", "-"):
        found = float(rating.strip(SPACE) == "+")
    for word, value in values.items():
        if same(rating, word):
            found = value
    return found if found is not None and math.isfinite(found) else None


def split(record: dict[str, Any], words: Words) -> dict[str, Any]:
    """A record whose steps are one text."""
    text, rating = record["steps"], record.get("rating")
    assert words.separator is not None
    if text is None:
        return record | {"prompt": record.get("prompt")}
    head, tail = "", text
    prompt = record.get("prompt")
    if words.steps_from:
        place = re.search(re.escape(words.steps_from), text, re.IGNORECASE)
        if place is None:
            return record | {"prompt": prompt, "steps": None, "rating": None}
        head, tail = text[: place.start()], text[place.start() :]
        if "prompt" not in record:
            prompt = head.replace(words.separator, "").strip(SPACE)
    pieces = [piece.strip(SPACE) for piece in tail.split(words.separator)]
    marks: Any = rating
    if isinstance(rating, str):
        if set(rating) <= set("+- \t\r\n"):
            marks = [each for each in rating if each in "+-"]
        else:
            marks = cut_out(text, rating, words.separator)[head.count(words.separator) :]
            marks = [*marks, None]
            marks = [mark for piece, mark in zip(pieces, marks, strict=True) if piece]
    return record | {
        "prompt": prompt,
        "steps": [piece for piece in pieces if piece],
        "rating": marks,
    }


def cut_out(text: str, marked: str, separator: str) -> list[str]:
    marks, place = [], 0
    *pieces, last = text.split(separator)
    for piece in pieces:
        place += len(piece)
        marks.append(marked[place : place + 1])
        place += 1
    if place + len(last) != len(marked):
        raise Refused("the texts are not alike")
    return marks


def unfolded(record: dict[str, Any], words: Words) -> Iterator[Path]:
    """The paths through a record with candidates."""
    prompt, candidates = record["prompt"], record["steps"]
    others = [record["rating"], record["chosen"], record.get("written")]
    if candidates is None:
        yield Path(prompt, None, reason="no_steps")
        return
    if any(each is not None and len(each) != len(candidates) for each in others):
        raise Refused("unequal")
    ratings, chosen, written = ([None] * len(candidates) if e is None else e for e in others)
    texts: list[str | None] = []
    marks: list[float | None] = []
    paths: list[Path] = []
    ended = False
    for place, options in enumerate(candidates):
        rates = ratings[place]
        if options is not None and rates is not None and len(options) != len(rates):
            raise Refused("unequal")
        options = options or []
        rates = [None] * len(options) if rates is None else rates
        choice, own = chosen[place], written[place]
        if choice is not None and not 0 <= choice < len(options):
            yield Path(prompt, None, reason="bad_index")
            return
        if not options and choice is None and own is None:
            ended = True
            continue
        if ended:
            yield Path(prompt, None, reason="bad_index")
            return
        following = leads_on(candidates[place + 1 :], chosen[place + 1 :], written[place + 1 :])
        for at, (text, rate) in enumerate(zip(options, rates, strict=True)):
            if at != choice or not following:
                mark = meaning(rate, words.values)
                paths.append(Path(prompt, [*texts, text], [*marks, mark]))
        if choice is not None:
            texts.append(options[choice])
            marks.append(meaning(rates[choice], words.values))
        elif own is not None:
            texts.append(own)
            marks.append(math.inf)
            if not following:
                paths.append(Path(prompt, list(texts), list(marks)))
        else:
            ended = True
    yield from paths or [Path(prompt, None, reason="no_steps")]


def leads_on(candidates: list[Any], chosen: list[Any], written: list[Any]) -> bool:
    if not candidates:
        return False
    return bool(candidates[0]) or chosen[0] is not None or written[0] is not None


def paths_of(record: dict[str, Any], words: Words) -> list[Path]:
    if words.separator is not None:
        record = split(record, words)
    if "chosen" in record:
        return list(unfolded(record, words))
    prompt, steps = record["prompt"], record["steps"]
    if not words.rated:
        return [Path(prompt, steps, first_error=record["first_error"])]
    ratings = record["rating"]
    if steps is not None and ratings is not None and len(steps) != len(ratings):
        raise Refused("unequal")
    marks = None if ratings is None else [meaning(each, words.values) for each in ratings]
    return [Path(prompt, steps, marks)]


def says_none(value: Any, words: Words) -> bool:
    known = ["-1", "N/A", *words.no_error]
    return any(value is None if w.lower() == "null" else same(value, w) for w in known)


def first_index(paths: list[Path], words: Words) -> int:
    if words.first_index is not None:
        return words.first_index
    real = [
        (number(path.first_error), len(path.steps))
        for path in paths
        if path.steps and not says_none(path.first_error, words)
    ]
    real = [(place, size) for place, size in real if place is not None]
    if not real:
        return 0
    at_zero = any(place == 0 for place, _ in real)
    at_size = any(place == size for place, size in real)
    without = any(says_none(path.first_error, words) for path in paths)
    if at_zero and without and not at_size:
        return 0
    if at_size and not at_zero:
        return 1
    raise Refused("from 0 or from 1")


def label(path: Path, words: Words, first: int) -> tuple[list[Any], list[Any]] | str:
    """The steps and labels of a path, or the reason why it has none."""
    if path.prompt is None:
        return "null_prompt"
    if path.reason:
        return path.reason
    if not path.steps:
        return "no_steps"
    steps = list(path.steps)
    labels: list[bool | None] | None
    after = words.after_error or ("keep" if words.rated else "drop")
    if words.rated:
        labels = None
        if path.marks is not None:
            least = words.threshold
            labels = [
                None if mark is None else mark > 0 if least is None else mark >= least
                for mark in path.marks
            ]
    elif says_none(path.first_error, words):
        labels = [True] * len(steps)
    else:
        place = number(path.first_error)
        if place is None or not math.isfinite(place) or place != int(place):
            return "bad_index"
        wrong = int(place) - first
        if not 0 <= wrong < len(steps):
            return "bad_index"
        labels = [True] * wrong + [False] * (len(steps) - wrong)
    if labels is not None and False in labels and after != "keep":
        end = labels.index(False) + 1
        if after == "drop":
            steps, labels = steps[:end], labels[:end]
        else:
            labels = labels[:end] + [False] * (len(labels) - end)
    if None in steps:
        return "null_step"
    if labels is None or None in labels:
        return "unknown_rating"
    return steps, labels


def rows(
    records: list[dict[str, Any]], words: Words
) -> tuple[list[tuple[str, list[str], list[bool]]], Counter[str]]:
    """The rows of output in order, and how many paths were dropped for each reason."""
    paths = [path for record in records for path in paths_of(record, words)]
    if words.rated and words.threshold is None:
        marks = {mark for path in paths for mark in path.marks or [] if mark is not None}
        marks -= {math.inf}
        if not (marks <= {0, 1} or marks <= {-1, 1}):
            raise Refused("no scale of labels")
    first = 0 if words.rated else first_index(paths, words)
    told: list[Any] = []
    dropped: Counter[str] = Counter()
    for path in paths:
        found = label(path, words, first)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            told.append((path.prompt, *found))
    return told, dropped
