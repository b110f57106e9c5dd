"""Paths and words of raw records, for the oracle of shapes: plain Python over dicts."""

from __future__ import annotations

import re
from typing import Any

Step = str | int | slice
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
BLANK = " \t\n\v\f\r"
ASSISTANTS = ("assistant", "gpt", "model", "bot", "chatbot")
PART = re.compile(r'\.?"(?P<quoted>[^"]*)"|\.?(?P<name>[^.\["]+)|\[(?P<at>-?\d*(?::-?\d*)?)\]')


def listed(texts: Any, columns: list[str] | None = None) -> list[Any]:
    """Several texts, given as a list or as one text with commas."""
    if texts is None:
        return []
    if not isinstance(texts, str):
        return list(texts)
    if columns and texts in columns:
        return [texts]
    return [part.strip() for part in re.findall(r'(?:"[^"]*"|[^,"])+', texts)]


def parsed(texts: Any, columns: list[str], records: list[dict]) -> list[list[Step]]:
    """The paths of `texts`; `.*` at the end of one is a path for each field."""
    paths: list[list[Step]] = []
    for text in listed(texts, columns):
        if not text.endswith(".*") or text in columns:
            paths.append(steps_of(text, columns))
            continue
        start = steps_of(text[:-2], columns)
        values = [follow(record, start) for record in records]
        fields = dict.fromkeys(name for value in values for name in value or {})
        paths += [[*start, name] for name in fields]
    return paths


def steps_of(text: str, columns: list[str]) -> list[Step]:
    """The steps of a path; a text that is the name of a column is that column."""
    if text in columns:
        return [text]
    steps: list[Step] = []
    for match in PART.finditer(text):
        if (at := match["at"]) is None:
            steps.append(match["quoted"] if match["name"] is None else match["name"])
        elif ":" in at:
            first, last = (int(end) if end else None for end in at.split(":"))
            steps.append(slice(first, last))
        else:
            steps.append(int(at))
    if steps[0] not in columns:
        raise KeyError(f"no column {steps[0]!r}")
    return steps


def follow(value: Any, steps: list[Step]) -> Any:
    """What a path leads to: null where something on the way is."""
    for step in steps:
        if value is None:
            return None
        if isinstance(step, slice):
            value = value[step]
        elif isinstance(step, int):
            value = value[step] if -len(value) <= step < len(value) else None
        elif isinstance(value, list):
            value = [follow(element, [step]) for element in value]
        else:
            value = value.get(step)
    return value


def begins_with(path: list[Step], start: list[Step]) -> bool:
    return path[: len(start)] == start


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def said_by(value: Any, *, anybody: bool = False) -> Any:
    """Of one message what an assistant said; any other value as it is."""
    if not is_message(value):
        return value
    who, what = ("role", "content") if "role" in value else ("from", "value")
    return value[what] if anybody or value[who] in ASSISTANTS else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) or bool(NUMBER.fullmatch(str(value)))


def word(value: Any) -> Any:
    """A value as verdicts, `values` and `where` compare it: a number, or text without case."""
    if isinstance(value, bool | int | float):
        return float(value)
    text = str(value).strip(BLANK).lower()
    if text in ("true", "false"):
        return float(text == "true")
    return float(text) if NUMBER.fullmatch(text) else text
