"""What a judge's answer says of many criteria: a JSON object with a score under each name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefmill.scoring.judging.answers import parse_answer, parse_rating
from prefmill.scoring.judging.wording import ANSWERS, RATINGS, answer_in


def parse_scores(
    text: str, scales: Mapping[str, tuple[float, float] | None], *, cut_off: bool = False
) -> dict[str, float | str] | str:
    """For every name its number, or why it has none; one reason where the answer has no object.

    The answer ends in one JSON object. Under each name is a number of its scale, or yes or no
    (1.0, 0.0) where that is None; or an object with one such value under `score` and the like.
    Names that were not asked for are left out.

    >>> parse_scores('{"right": 4, "short": true}', {"right": (1, 5), "short": None})
    {'right': 4.0, 'short': 1.0}
    >>> parse_scores('{"right": 9, "right": 4}', {"right": (1, 5), "short": None})
    {'right': 'contradictory', 'short': 'unparseable'}
    >>> parse_scores('{"right": 4, "sho', {"right": (1, 5)}, cut_off=True)
    'cut_off'
    """
    entries = _last_object(text)
    if entries is None:
        return "cut_off" if cut_off else "unparseable"
    # A name that is spelled with another case is still that name, and so are two of them.
    said: dict[str, list[Any]] = {}
    for key, value in entries:
        said.setdefault(key.strip().casefold(), []).append(value)
    return {
        name: _one_score(said.get(name.strip().casefold(), []), scale)
        for name, scale in scales.items()
    }


def _one_score(values: Sequence[Any], scale: tuple[float, float] | None) -> float | str:
    if len(values) > 1 and any(value != values[0] for value in values):
        return "contradictory"
    if not values:
        return "unparseable"
    value = values[0]
    if isinstance(value, _Object):
        keys = (RATINGS if scale else ANSWERS).keys
        inner = [each for key, each in value if key.lower() in keys]
        return _one_score([each for each in inner if not isinstance(each, _Object)], scale)
    if isinstance(value, bool):
        return float(value) if scale is None else "unparseable"
    if not isinstance(value, int | float | str):
        return "unparseable"
    if scale is None:
        parsed = parse_answer(str(value)) if isinstance(value, str) else "unparseable"
    else:
        parsed = parse_rating(str(value), scale=scale)
    # Text under a name is a verdict alone, not a sentence with one in it.
    if isinstance(parsed, str) or (isinstance(value, str) and len(value.strip()) > 12):
        return "unparseable"
    return parsed[0]


class _Object(list[tuple[str, Any]]):
    """A JSON object as its entries: what stands there twice is there twice."""


def _last_object(text: str) -> _Object | None:
    """The JSON object in which an answer ends, after its thoughts."""
    answer = answer_in(text)
    if answer is None:
        return None
    plain, _, lines = answer
    if not lines[-1][0].rstrip().endswith("}"):
        return None
    for line in lines:
        entries = _object_in(plain[line.start() : lines[-1].end()])
        if entries is not None:
            return entries
    return None


def _object_in(source: str) -> _Object | None:
    if not source.lstrip().startswith("{"):
        return None
    try:
        entries = json.loads(source, object_pairs_hook=_Object, strict=False)
    except (ValueError, RecursionError):
        return None
    return entries if isinstance(entries, _Object) else None
