"""Checks of one answer against one truth, but for those that run code.

    text, gold ──verdict──▶ score, the answer that was found, and why it is not 1

Only `exact` and `number` have a bound on their time; the others run in workers (`workers.py`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from prefmill.scoring.verify.answers import extracted, number_of, spelled

#: checks that may take for ever on some texts
UNBOUNDED = ("math", "regex", "json-schema")


class Verdict(NamedTuple):
    """What is known of one row.

    score   1 is right, 0 is wrong; None: nobody can say, and `reason` begins with the word for it
    answer  what was taken for the answer, in one spelling
    reason  why the score is not 1: a word, then ": " and what was seen
    """

    score: float | None
    answer: str | None = None
    reason: str | None = None

    @property
    def word(self) -> str:
        """The first word of the reason, by which rows are counted.

        >>> Verdict(0.0, "3", "wrong_answer: expected 4").word
        'wrong_answer'
        """
        return (self.reason or "").partition(":")[0]


class BadGold(Exception):
    """The truth of a row cannot be read; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a verdict, as plain values that travel to a worker."""

    check: str
    extract: str = "auto"
    match: str = "search"
    ignore_case: bool = False
    tolerance: float = 1e-6
    seconds: float = 10.0


def verdict(settings: Settings, text: str, gold: Any) -> Verdict:
    """The verdict on a completion, where `gold` is its truth or a list of truths.

    >>> verdict(Settings(check="number"), "6 + 6 = 12", "12.0")
    Verdict(score=1.0, answer='12', reason=None)
    >>> verdict(Settings(check="exact"), "The answer is Paris.", "Rome")
    Verdict(score=0.0, answer='Paris', reason='wrong_answer: expected Rome')
    """
    try:
        return _CHECKS[settings.check](settings, text, gold)
    except BadGold as error:
        return Verdict(None, None, f"bad_column: {error}")


def _golds(gold: Any) -> list[str]:
    golds = gold if isinstance(gold, list) else [gold]
    told = [each if isinstance(each, str) else _as_text(each) for each in golds if each is not None]
    told = [each for each in told if each.strip()]
    if not told:
        raise BadGold("it holds no answer")
    return told


def _as_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, dict | list):
        return json.dumps(value, default=str)
    return str(value)


def _shown(golds: list[str]) -> str:
    text = " or ".join(golds)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _normal(settings: Settings, text: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.casefold() if settings.ignore_case else text


def _truth(gold: str) -> str:
    """What a gold text says: its box, or what follows its `####`, else all of it."""
    return extracted(gold, "boxed") or extracted(gold, "hash") or gold.strip()


def _exact(settings: Settings, text: str, gold: Any) -> Verdict:
    golds = [_normal(settings, _truth(each)) for each in _golds(gold)]
    found = extracted(text, settings.extract)
    if found is None:
        return Verdict(0.0, None, "no_answer")
    answer = _normal(settings, found)
    if answer in golds:
        return Verdict(1.0, answer)
    # (B) and B are one choice.
    if answer.startswith("(") and answer.endswith(")") and answer[1:-1].strip() in golds:
        return Verdict(1.0, answer[1:-1].strip())
    return Verdict(0.0, answer, f"wrong_answer: expected {_shown(golds)}")


def _number(settings: Settings, text: str, gold: Any) -> Verdict:
    golds = [_truth(each) for each in _golds(gold)]
    numbers = [number for each in golds if (number := number_of(each)) is not None]
    if not numbers:
        raise BadGold(f"no number; got {_shown(golds)!r}")
    found = extracted(text, settings.extract, "last-number")
    if found is None:
        return Verdict(0.0, None, "no_answer")
    number = number_of(found)
    if number is None:
        return Verdict(0.0, found[:200], "not_a_number")
    answer = spelled(number)
    if any(_near(number, truth, settings.tolerance) for truth in numbers):
        return Verdict(1.0, answer)
    return Verdict(0.0, answer, f"wrong_answer: expected {_shown([*map(spelled, numbers)])}")


def _near(number: Fraction, truth: Fraction, tolerance: float) -> bool:
    return abs(number - truth) <= Fraction(tolerance) * abs(truth)


def _math(settings: Settings, text: str, gold: Any) -> Verdict:
    from math_verify import parse, verify

    options: dict[str, Any] = {"parsing_timeout": None, "raise_on_error": False}
    golds = [_truth(each) for each in _golds(gold)]
    golds = [each if "$" in each else f"${each}$" for each in golds]
    truths = [truth for each in golds if (truth := parse(each, **options))]
    if not truths:
        raise BadGold(f"no mathematics; got {_shown(golds)!r}")
    found: str | None = text
    if settings.extract != "auto":
        found = extracted(text, settings.extract)
        found = found and (found if "\\boxed" in found else f"\\boxed{{{found}}}")
    parsed = parse(found, **options) if found else []
    if not parsed:
        return Verdict(0.0, None, "no_answer")
    answer = _spelled_math(parsed)
    for truth in truths:
        if verify(truth, parsed, timeout_seconds=None):
            return Verdict(1.0, answer)
    shown = _shown([_spelled_math(truth) for truth in truths])
    return Verdict(0.0, answer, f"wrong_answer: expected {shown}")


def _spelled_math(parsed: list[Any]) -> str:
    """One spelling of what was parsed: a number as `number` spells it."""
    first = str(parsed[0])
    number = number_of(first) if re.fullmatch(r"[-+\d./eE]+", first) else None
    return first[:200] if number is None else spelled(number)


def _regex(settings: Settings, text: str, gold: Any) -> Verdict:
    patterns = _golds(gold)
    flags = re.IGNORECASE if settings.ignore_case else 0
    try:
        compiled = [re.compile(pattern, flags) for pattern in patterns]
    except re.error as error:
        raise BadGold(f"no regular expression; {error}") from None
    how = "whole" if settings.extract == "auto" else settings.extract
    found = text if how == "whole" else extracted(text, how)
    if found is None:
        return Verdict(0.0, None, "no_answer")
    for pattern in compiled:
        hit = pattern.search(found) if settings.match == "search" else pattern.fullmatch(found)
        if hit:
            return Verdict(1.0, hit[1] if pattern.groups and hit[1] is not None else hit[0])
    return Verdict(0.0, None, "no_match")


# JSON

_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def fenced(text: str) -> list[str]:
    r"""What stands in the fences of a text, in order.

    >>> fenced("a\n```python\nx = 1\n```\nb")
    ['x = 1\n']
    """
    return _FENCE.findall(text)


def json_in_text(text: str) -> Any:
    """The JSON value that a completion is: the whole, its last fence, else its first object.

    Raises `ValueError` where there is none.
    """
    for part in (text, *reversed(fenced(text))):
        try:
            return json.loads(part)
        except ValueError:
            continue
    begins = [place for mark in "{[" if (place := text.find(mark)) >= 0]
    if not begins:
        raise ValueError("no JSON")
    return json.JSONDecoder().raw_decode(text[min(begins) :])[0]


def _json_schema(settings: Settings, text: str, gold: Any) -> Verdict:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = schema_in(gold)
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BadGold(f"no JSON schema; {error.message[:200]}") from None
    try:
        value = json_in_text(text)
    except ValueError:
        return Verdict(0.0, None, "no_json")
    except RecursionError:
        return Verdict(0.0, None, "no_json: nested too deep")
    answer = json.dumps(value, sort_keys=True, ensure_ascii=False)
    checker = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)
    problem = next(iter(sorted(checker.iter_errors(value), key=lambda each: each.json_path)), None)
    if problem is None:
        return Verdict(1.0, answer)
    return Verdict(0.0, answer, f"invalid: {problem.json_path}: {problem.message[:200]}")


def schema_in(gold: Any) -> Any:
    """A JSON schema: an object, or the text of one. Raises `BadGold`."""
    if isinstance(gold, str):
        try:
            gold = json.loads(gold)
        except ValueError as error:
            raise BadGold(f"no JSON schema; {error}") from None
    if not isinstance(gold, Mapping | bool):
        raise BadGold(f"no JSON schema; got {type(gold).__name__}")
    return gold


_CHECKS = {
    "exact": _exact,
    "number": _number,
    "math": _math,
    "regex": _regex,
    "json-schema": _json_schema,
}
