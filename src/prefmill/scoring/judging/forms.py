"""How an answer is to be written: the sentence at {format}, and a schema for servers with that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefmill.scoring.judging.criteria import Criterion
from prefmill.scoring.judging.scales import spelled

#: JSON schema of an answer
Schema = Mapping[str, Any]
#: scales with at most so many whole numbers are a list of them: every server has `enum`
_LISTED = 20


def of_rating(numbers: tuple[float, float], *, as_json: bool) -> str:
    """How a rating is to be written.

    >>> of_rating((1.0, 10.0), as_json=False)
    'Reply with the rating alone: one whole number from 1 to 10.'
    """
    if as_json:
        return f'Reply with a JSON object: {{"rating": <{_number(numbers)}>}}'
    return f"Reply with the rating alone: one {_number(numbers)}."


def of_verdict(*, as_json: bool) -> str:
    """How a comparison's verdict is to be written."""
    which = "A if answer A is better, B if answer B is better, C if they are equally good"
    if as_json:
        return f'Reply with a JSON object: {{"verdict": <{which}>}}'
    return f"Reply with one letter alone: {which}."


def of_criterion(criterion: Criterion, *, as_json: bool) -> str:
    """How the answer to one criterion is to be written."""
    numbers = criterion.numbers
    if numbers is None:
        question = (
            "Does the answer meet the criterion? It may name a fault: yes then means that the"
            " answer has the fault."
        )
        if as_json:
            return f'{question}\nReply with a JSON object: {{"met": <true or false>}}'
        return f"{question}\nReply with one word: yes or no."
    question = f"How far does the answer meet the criterion? {_ends(numbers)}"
    if as_json:
        return f'{question}\nReply with a JSON object: {{"score": <{_number(numbers)}>}}'
    return f"{question}\nReply with the number alone: one {_number(numbers)}."


def of_criteria(criteria: Sequence[Criterion]) -> str:
    """How the answer to several criteria is to be written: as a JSON object."""
    parts = []
    for each in criteria:
        kind = "true or false" if each.numbers is None else _number(each.numbers)
        parts.append(f"{json.dumps(each.name, ensure_ascii=False)}: <{kind}>")
    return (
        "A criterion may name a fault: true then means that the answer has the fault.\n"
        "Reply with one JSON object that has every criterion under its name, and with nothing"
        f" else: {{{', '.join(parts)}}}"
    )


def listed(criteria: Sequence[Criterion]) -> str:
    """Criteria as a list, with their names and numbers.

    >>> print(listed([Criterion(name="clear", question="Is it clear?", scale="1-5")]))
    - "clear" (1 is not at all, 5 is fully): Is it clear?
    """
    lines = []
    for each in criteria:
        kind = "true or false"
        if each.numbers is not None:
            kind = _ends(each.numbers).rstrip(".")
        name = json.dumps(each.name, ensure_ascii=False)
        lines.append(f"- {name} ({kind}): {each.question}")
    return "\n".join(lines)


def schema_of(**values: Any) -> Schema:
    """A JSON schema that has exactly these values: each a list of what is allowed, or a type.

    In the form that OpenAI, vLLM and SGLang take as `strict`: all are required, none else allowed.

    >>> schema_of(verdict=["A", "B", "C"])["properties"]
    {'verdict': {'enum': ['A', 'B', 'C'], 'type': 'string'}}
    """
    return {
        "type": "object",
        "properties": values_of(values),
        "required": list(values),
        "additionalProperties": False,
    }


def values_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of values."""
    made: dict[str, Any] = {}
    for name, allowed in values.items():
        if isinstance(allowed, str):
            made[name] = {"type": allowed}
        else:
            kind = "string" if isinstance(allowed[0], str) else "integer"
            made[name] = {"enum": list(allowed), "type": kind}
    return made


def allowed_in(numbers: tuple[float, float] | None) -> Any:
    """What a schema allows of a scale: whole numbers one by one, any number, or yes and no."""
    if numbers is None:
        return "boolean"
    low, high = numbers
    if is_whole(numbers) and high - low < _LISTED:
        return list(range(int(low), int(high) + 1))
    return "integer" if is_whole(numbers) else "number"


def is_whole(numbers: tuple[float, float]) -> bool:
    """Whether a scale is asked for in whole numbers: it has more than two of them."""
    low, high = numbers
    return low.is_integer() and high.is_integer() and high > 1


def _number(numbers: tuple[float, float]) -> str:
    low, high = (spelled(number) for number in numbers)
    kind = "whole number" if is_whole(numbers) else "number"
    return f"{kind} from {low} to {high}"


def _ends(numbers: tuple[float, float]) -> str:
    low, high = (spelled(number) for number in numbers)
    return f"{low} is not at all, {high} is fully."
