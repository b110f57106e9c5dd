"""Rubrics: what a judge is asked, as a text with places, a TOML file, or criteria."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from prefmill.errors import BadArgument, near_file, nearest
from prefmill.scoring.judging.answers import SCALE
from prefmill.scoring.judging.criteria import Criterion, check_keys, criteria_of
from prefmill.scoring.judging.scales import Ask, Mode, Scale, default_text, scale_of
from prefmill.scoring.judging.wording import Mark

#: the places that a rubric has to have
PLACES: Mapping[str, tuple[str, ...]] = {
    "rating": ("prompt", "completion"),
    "pairwise": ("prompt", "a", "b"),
}
#: the places that are ours: all others are columns of the input
_OURS = ("prompt", "completion", "a", "b", "criterion", "criteria", "format")
#: names of columns that a judge writes besides its criteria
_TAKEN = frozenset({"score", "rating", "verdict", "reason", "criteria", "comparisons"})
_NAME = r"[A-Za-z_][\w-]*"
_PLACE = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")
_MARKS: Mapping[str, Mark] = {"[RESULT]": "result", "[[]]": "brackets"}


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with its places filled, all at once: braces in a value are text.

    `{{name}}` is the text `{name}`; a place that `values` does not have stays.

    >>> filled("{prompt}/{completion} {x} {{prompt}}", {"prompt": "{completion}", "completion": ""})
    '{completion}/ {x} {prompt}'
    """

    def value(place: re.Match[str]) -> str:
        if place[1]:
            return f"{{{place[1]}}}"
        return values.get(place[2], place[0])

    return _PLACE.sub(value, text)


def places_in(text: str) -> tuple[str, ...]:
    """The names of the places of a text, each once.

    >>> places_in("{prompt} {gold} {{gone}} {gold}")
    ('prompt', 'gold')
    """
    return tuple(dict.fromkeys(place[2] for place in _PLACE.finditer(text) if place[2]))


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """What a judge is asked. Everything has a default; `JudgeScorer`'s own arguments go before.

    Args:
        text: with the places {prompt} and {completion}, or {a} and {b} for `pairwise`. {criterion}
            is one criterion, {criteria} is their list, {format} says how to answer (without it that
            is added at the end). Every other place is a column of the input.
        system: a system message before it.
        scale: the numbers of a rating, or a name (`scales.SCALES`); with criteria, of those that
            name none.
        criteria: what is asked one by one: `Criterion`s or records, or the name of a column that
            has them for each row (`criteria.criteria_of`).
        ask: `each` criterion in a request of its own, or all `together`; None is what `text` has a
            place for, else `each`.
        mark: what an answer ends in: `[RESULT]` or `[[]]`; None: as it likes.
        guide: what stands at {rubric}; None: the column `rubric`.

    >>> clear = {"name": "clear", "question": "Is it clear?"}
    >>> rubric_of(Rubric(criteria=[clear], scale="1-5"), "rating").criteria[0].scale
    (1.0, 5.0)
    """

    text: str | None = None
    system: str | None = None
    scale: Any = None
    criteria: Any = ()
    ask: Ask | None = None
    mark: Any = None
    guide: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "system", "guide"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise BadArgument(f"rubric: {name} is not a text; got {value!r}.")
        if self.ask not in (None, "each", "together"):
            raise BadArgument(f"rubric: ask is not each or together; got {self.ask!r}.")
        if self.mark not in (None, *_MARKS, *_MARKS.values()):
            raise BadArgument(f"rubric: mark is not one of {list(_MARKS)}; got {self.mark!r}.")
        object.__setattr__(self, "mark", _MARKS.get(self.mark, self.mark))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The rubric of a TOML file: its keys are the arguments, with `[[criteria]]`.

        Raises `BadArgument` for what is no key, or no TOML.
        """
        import tomllib

        try:
            table = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise BadArgument(f"judge: no such rubric; got {str(path)!r}, {error}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadArgument(f"rubric: {str(path)!r} is not TOML; {error}.") from None
        keys = [each.name for each in fields(cls)]
        for key in table:
            if key not in keys:
                close = nearest(key, keys)
                hint = f"did you mean {close[0]}?" if close else None
                raise BadArgument(
                    f"rubric: {str(path)!r} has a key {key!r}; expected some of {keys}.", hint=hint
                )
        criteria = table.get("criteria", ())
        if isinstance(criteria, list):
            for number, record in enumerate(criteria, 1):
                if isinstance(record, Mapping):
                    check_keys(record, number)
        return cls(**table)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the places that are columns of the input."""
        own = (*_OURS, *(("rubric",) if self.guide is not None else ()))
        return tuple(name for name in places_in(self.text or "") if name not in own)

    def question(self, values: Mapping[str, str], form: str, *, add: bool) -> str:
        """What is asked: the text with its places filled, `form` at {format}.

        With `add` it stands at the end where the text has no such place.
        """
        text = self.text or ""
        if add and "format" not in places_in(text):
            text = f"{text}\n\n{{format}}"
        guide = {} if self.guide is None else {"rubric": self.guide}
        return filled(text, {**guide, **values, "format": form})


def _own_criteria(criteria: Any, scale: Any) -> tuple[Criterion, ...]:
    if not criteria:
        return ()
    if isinstance(criteria, Mapping) or not isinstance(criteria, Sequence):
        raise BadArgument(
            f"judge: criteria: got {criteria!r}, expected a list, or a column's name."
        )
    made = criteria_of(list(criteria), scale)
    for each in made:
        # A name is the name of a column, and columns that differ in case only cannot be read.
        if each.name.casefold() in _TAKEN:
            raise BadArgument(
                f"judge: a criterion cannot be called {each.name!r}: the judge writes a column of"
                " that name."
            )
    return made


def rubric_of(
    rubric: Rubric | str | Path | None,
    mode: Mode,
    *,
    scale: Any = None,
    system: str | Path | None = None,
    criteria: Any = None,
    ask: Ask | None = None,
    reference: bool = False,
) -> Rubric:
    """The whole rubric: with its text, its numbers and how it is asked; arguments go before.

    rubric     a `Rubric`, a text that has the places, or a file: TOML, or such a text
    reference  whether the default text shows a reference answer

    Raises `BadArgument` for what does not fit together.

    >>> rubric_of("{prompt} then {completion}: 1 to 10?", "rating").text
    '{prompt} then {completion}: 1 to 10?'
    """
    base = _read(rubric, mode)
    told = {"scale": scale, "criteria": criteria, "ask": ask}
    told["system"] = None if system is None else _text_of(system)
    base = replace(base, **{name: value for name, value in told.items() if value is not None})
    if mode == "pairwise" and (base.criteria or base.ask):
        raise BadArgument("judge: criteria are for mode 'rating'; got mode 'pairwise'.")
    if base.ask and not base.criteria:
        raise BadArgument("judge: ask is for criteria; got none.")
    if base.criteria:
        return _with_text(_with_criteria(base), mode, Scale(*SCALE), reference)
    named = scale_of(SCALE if base.scale is None else base.scale)
    if mode == "pairwise" and base.scale is not None and base.text is None and not named.texts:
        raise BadArgument(f"judge: a scale is for mode 'rating'; got {base.scale!r}.")
    base = _with_text(base, mode, named, reference)
    return replace(base, scale=named.numbers, mark=base.mark or named.mark)


def _with_criteria(rubric: Rubric) -> Rubric:
    """The rubric with whole criteria, or the column that has them, and the numbers for both."""
    scale = None if rubric.scale is None else scale_of(rubric.scale)
    if rubric.mark or (scale and scale.mark):
        raise BadArgument(
            f"judge: criteria have no mark, and no scale with one; got scale {rubric.scale!r}.",
            hint="a scale such as 1-5 is that of every criterion.",
        )
    numbers = scale.numbers if scale else None
    criteria = rubric.criteria
    if not isinstance(criteria, str):
        criteria = _own_criteria(criteria, numbers)
    return replace(rubric, scale=numbers, criteria=criteria)


def _with_text(rubric: Rubric, mode: Mode, scale: Scale, reference: bool) -> Rubric:
    """The rubric with a text, and with how its criteria are asked."""
    places = places_in(rubric.text or "")
    ask: Ask | None = None
    if rubric.criteria:
        ask = rubric.ask or ("together" if "criteria" in places else "each")
    guide = rubric.guide
    text = rubric.text
    if text is None or not set(PLACES[mode]) & set(places):
        default = default_text(mode, scale, ask=ask, reference=reference)
        if text is not None and "rubric" not in places_in(default):
            needed = ", ".join(f"{{{place}}}" for place in PLACES[mode])
            raise BadArgument(f"judge: the rubric has no places; a {mode} needs {needed}.")
        # A text without places is what Prometheus and its like call the rubric.
        text, guide = default, guide if text is None else text
    _check_places(text, mode, ask)
    return replace(rubric, text=text, guide=guide, ask=ask)


def _check_places(text: str, mode: Mode, ask: Ask | None) -> None:
    places = places_in(text)
    needed = [*PLACES[mode]]
    if ask is not None:
        needed.append("criterion" if ask == "each" else "criteria")
    missing = [f"{{{place}}}" for place in needed if place not in places]
    if missing:
        raise BadArgument(
            f"judge: the rubric has no {' and no '.join(missing)}; a {mode}"
            f"{'' if ask is None else f' with criteria, asked {ask},'} needs"
            f" {', '.join(f'{{{place}}}' for place in needed)}."
        )
    strange = {"criterion", "criteria"} - set(needed) if mode == "rating" else set()
    strange |= {"a", "b"} if mode == "rating" else {"completion", "criterion", "criteria"}
    for place in places:
        if place in strange:
            raise BadArgument(
                f"judge: the rubric has the place {{{place}}}, which a {mode}"
                f"{'' if ask is None else f' with criteria, asked {ask},'} does not have.",
                hint=f"{{{{{place}}}}} is the text {{{place}}}.",
            )


def _read(rubric: Rubric | str | Path | None, mode: Mode) -> Rubric:
    if rubric is None:
        return Rubric()
    if isinstance(rubric, Rubric):
        return rubric
    if str(rubric).lower().endswith(".toml"):
        return Rubric.read(rubric)
    if isinstance(rubric, str) and set(PLACES[mode]) & set(places_in(rubric)):
        return Rubric(text=rubric)
    try:
        return Rubric(text=Path(rubric).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        needed = ", ".join(f"{{{place}}}" for place in PLACES[mode])
        raise BadArgument(
            f"judge: no such rubric; got {str(rubric)[:80]!r}, expected a file, or a text with"
            f" {needed} in it."
        ) from None


def _text_of(text: str | Path) -> str:
    """A text, or that of a file: a `Path` is one, and so is the name of one that is there."""
    is_name = isinstance(text, Path) or (len(text) < 256 and "\n" not in text)
    if is_name and Path(text).is_file():
        return Path(text).read_text(encoding="utf-8")
    if isinstance(text, Path):
        raise BadArgument(f"judge: no such file; got {str(text)!r}.", hint=near_file(str(text)))
    return text
