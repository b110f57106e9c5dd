"""Criteria: what a rubric asks one by one, and the weighted sum of the answers.

The sum is that of HealthBench (Arora et al. 2025, arXiv 2505.08775): points of the criteria that
are met, by the sum of the positive points. Where no weight is negative it is also that of Rubrics
as Rewards (Gunjal et al. 2025, arXiv 2507.17746) and of open-instruct.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prefmill.errors import BadArgument, nearest

#: yes or no, which is also the scale of a criterion that names none
YES_NO = "yes/no"
#: keys of a criterion in a file or a column, and the field that each one is
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "question": (
        "question",
        "description",
        "criterion",
        "text",
        "rubric_item",
        "requirement",
        "Ingredient",
    ),
    "name": ("name", "title", "criterion", "id"),
    "weight": ("weight", "points"),
    "scale": ("scale",),
    "wanted": ("wanted", "pass_criteria"),
}
#: where a record keeps its list of criteria
_LISTS = ("rubrics", "rubric", "criteria")
_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:-|–|to)\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One thing that a judge is asked about an answer.

    Args:
        question: what the answer should be or do, or the fault that it should not have.
        name: of its score column (`score_NAME`).
        weight: what it counts for; below 0 for a fault. `points` in a file.
        scale: `"yes/no"` (1 and 0), or the lowest and the highest number, `(1, 5)` or `"1-5"`.
            None: that of the rubric, else yes/no.
        wanted: yes/no: the answer that earns the weight.

    >>> Criterion(name="sources", question="Does it name its sources?", weight=2).share(1.0)
    1.0
    >>> Criterion(name="clear", question="Is it clear?", scale="1-5").share(4.0)
    0.75
    """

    question: str
    name: str = ""
    weight: float = 1.0
    scale: Any = None
    wanted: Literal["yes", "no"] = "yes"

    def __post_init__(self) -> None:
        for name in ("question", "name"):
            if not isinstance(getattr(self, name), str):
                raise self._bad(f"{name} is not a text; got {getattr(self, name)!r}")
        if not self.question.strip():
            raise self._bad("question is empty; expected what is asked")
        object.__setattr__(self, "weight", self._number(self.weight))
        object.__setattr__(self, "scale", self._scale())
        wanted = str(self.wanted).strip().lower()
        if wanted not in ("yes", "no"):
            raise self._bad(f"wanted is not yes or no; got {self.wanted!r}")
        if wanted == "no" and self.numbers is not None:
            raise self._bad("wanted is for yes/no; give a scale of numbers a weight below 0")
        object.__setattr__(self, "wanted", wanted)

    def _number(self, weight: Any) -> float:
        try:
            number = math.nan if isinstance(weight, bool) else float(weight)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self._bad(f"weight is not a number; got {weight!r}")
        return number

    def _scale(self) -> Any:
        if self.scale is None:
            return None
        if isinstance(self.scale, str) and self.scale.strip().lower() in (YES_NO, "yes-no"):
            return YES_NO
        try:
            return scale_in(self.scale)
        except ValueError as error:
            raise self._bad(f"{error}, or {YES_NO!r}") from None

    def _bad(self, what: str) -> BadArgument:
        name = str(self.name or self.question)[:60]
        return BadArgument(f"judge: criterion {name!r}: {what}.")

    @property
    def numbers(self) -> tuple[float, float] | None:
        """The lowest and the highest number; None where the answer is yes or no."""
        return None if self.scale in (None, YES_NO) else self.scale

    def on(self, scale: tuple[float, float] | None) -> Criterion:
        """The same on `scale`, unless it has its own, or is one of yes and no."""
        if self.scale is not None:
            return self
        return replace(self, scale=YES_NO if scale is None or self.wanted == "no" else scale)

    def share(self, value: float) -> float:
        """How much of the weight an answer earns, 0 to 1."""
        if self.wanted == "no":
            return 1.0 - value
        low, high = self.numbers or (0.0, 1.0)
        return (value - low) / (high - low)


def scale_in(scale: Any) -> tuple[float, float]:
    """The lowest and the highest number of a scale, from two numbers or a text.

    Raises `ValueError` that says what was expected.

    >>> scale_in("1-5"), scale_in((0, 1))
    ((1.0, 5.0), (0.0, 1.0))
    """
    match = _RANGE.fullmatch(scale) if isinstance(scale, str) else None
    numbers = [float(match[1]), float(match[2])] if match else scale
    numbers = numbers if isinstance(numbers, list | tuple) else ()
    are = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != 2 or len(are) != 2 or not 0 <= are[0] < are[1] < math.inf:
        raise ValueError(
            "scale must be two numbers, the lower one first and not below 0, or LOW-HIGH;"
            f" got {scale!r}"
        )
    return float(are[0]), float(are[1])


def weighted(criteria: Sequence[Criterion], values: Sequence[float]) -> float:
    """The score: the weights that are earned, by the sum of the positive ones.

    At most 1; below 0 where faults weigh more than what is earned. Where no weight is positive,
    the sum of all sizes divides, and 0 is the best.

    >>> right = Criterion(question="Is it right?", weight=3)
    >>> rude = Criterion(question="Is it rude?", weight=-1)
    >>> weighted([right, rude], [1.0, 1.0]), weighted([rude], [1.0])
    (0.6666666666666666, -1.0)
    """
    earned = [each.weight * each.share(value) for each, value in zip(criteria, values, strict=True)]
    whole = math.fsum(each.weight for each in criteria if each.weight > 0)
    return math.fsum(earned) / (whole or math.fsum(-each.weight for each in criteria))


def criteria_of(value: Any, scale: tuple[float, float] | None = None) -> tuple[Criterion, ...]:
    """The criteria that a value of a file or of a column holds.

    value  a list of records or of texts; a record with such a list under `rubrics`, `rubric` or
           `criteria`; JSON text of either. Of a record, the question is under `question`,
           `description`, `criterion`, `text` or `rubric_item`; the name under `name` or `title`;
           the weight under `weight` or `points`; `scale` as in `Criterion`. Other keys are left.
    scale  of criteria that have none; None: yes/no

    A criterion without a name is called by its number. Raises `BadArgument`.

    >>> criteria_of('{"rubrics": [{"criterion": "Names a source", "points": 5, "tags": []}]}')
    (Criterion(question='Names a source', name='1', weight=5.0, scale='yes/no', wanted='yes'),)
    """
    records = _records(value)
    if not records:
        raise BadArgument(f"judge: criteria: none are there; got {_shown(value)}.")
    made = [_criterion(record, number) for number, record in enumerate(records, 1)]
    if not any(each.weight for each in made):
        raise BadArgument("judge: criteria: all weights are 0; expected one that is not.")
    return _with_names([each.on(scale) for each in made])


def _records(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadArgument(
                f"judge: criteria: not JSON; got {_shown(value)}, expected a list of criteria."
            ) from None
    if isinstance(value, Mapping):
        lists = [value[name] for name in _LISTS if value.get(name) is not None]
        if len(lists) != 1:
            raise BadArgument(
                f"judge: criteria: got {_shown(value)}, expected a list of criteria, alone or under"
                f" one of {', '.join(_LISTS)}."
            )
        return _records(lists[0])
    if not isinstance(value, list | tuple):
        raise BadArgument(f"judge: criteria: got {_shown(value)}, expected a list of criteria.")
    # A ground truth of open-instruct is a list with one JSON text.
    if len(value) == 1 and isinstance(value[0], str) and value[0].lstrip()[:1] in ("{", "["):
        return _records(value[0])
    return value


def _criterion(record: Any, number: int) -> Criterion:
    if isinstance(record, Criterion):
        return record
    if isinstance(record, str):
        return Criterion(question=record)
    if not isinstance(record, Mapping):
        raise BadArgument(
            f"judge: criterion {number}: got {_shown(record)}, expected a record or a text."
        )
    # Arrow gives every record the keys of all others, null where it has none.
    known = {key: value for key, value in record.items() if value is not None}
    values: dict[str, Any] = {}
    used: set[str] = set()
    for field, keys in _FIELDS.items():
        key = next((key for key in keys if key in known and key not in used), None)
        if key is not None:
            used.add(key)
            values[field] = known[key]
    if "question" not in values:
        raise BadArgument(
            f"judge: criterion {number}: no question; got the keys {sorted(known)},"
            f" expected one of {', '.join(_FIELDS['question'])}."
        )
    if "name" in values:
        values["name"] = str(values["name"])
    return Criterion(**values)


def _with_names(criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """The criteria with names that differ: their numbers where they have none."""
    names: set[str] = set()
    made = []
    for number, each in enumerate(criteria, 1):
        name = each.name.strip() or str(number)
        if name.casefold() in names:
            name = f"{name} ({number})"
        names.add(name.casefold())
        made.append(replace(each, name=name))
    return tuple(made)


def check_keys(record: Mapping[str, Any], number: int) -> None:
    """Raise for a key of a criterion in a rubric's file that is none: it may be misspelled."""
    keys = {key for keys in _FIELDS.values() for key in keys}
    for key in record:
        if key not in keys:
            close = nearest(key, sorted(keys))
            hint = f"did you mean {close[0]}?" if close else None
            raise BadArgument(
                f"rubric: criterion {number} has a key {key!r}; expected some of {sorted(keys)}.",
                hint=hint,
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
