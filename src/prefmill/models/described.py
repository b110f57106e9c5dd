"""What models, servers and judges have in common: a frozen description, made real on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, TypeVar

from prefmill.errors import BadArgument

_T = TypeVar("_T")
#: what to do about NaN and infinity from a model
OVERFLOW = (
    "in half precision this is an overflow: --dtype float32 or bfloat16;"
    " else the weights are broken."
)


@dataclass(frozen=True, kw_only=True)
class Described:
    """A description that loads nothing until it is used.

    So it can be printed, compared, and sent to another process, which loads for itself.
    """

    #: options of its parts, which `from_options` makes
    options_of_parts: ClassVar[tuple[str, ...]] = ()

    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            name = type(self).__name__
            raise BadArgument("\n".join(f"{name}: {problem}" for problem in problems))

    def _problems(self) -> list[str]:
        return []

    @classmethod
    def options(cls) -> frozenset[str]:
        """The names that `from_options` takes, besides the model's."""
        own = {f.name for f in fields(cls) if f.init} - {"model"}
        return frozenset({*own, *cls.options_of_parts})

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """What the flat options of a command line describe; of several devices the first."""
        own = {**options, "model": model}
        if "device" in own:
            own["device"] = own["device"][0]
        return cls(**own)

    def _kept(self, name: str, make: Callable[[], _T]) -> _T:
        """What `make` gives, made once."""
        if name not in self._state:
            self._state[name] = make()
        return self._state[name]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads for itself: models and connections do not travel.
        return {f.name: {} if f.name == "_state" else getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The class is frozen: its own assignment would refuse.
        for name, value in state.items():
            object.__setattr__(self, name, value)


def changed(part: _T, **values: Any) -> _T:
    """`part` with other values; `part` itself where nothing differs."""
    # What is loaded is kept with the object: the same one is not to load again.
    if all(getattr(part, name) == value for name, value in values.items()):
        return part
    return replace(part, **values)  # type: ignore[type-var]


def unlike(part: Any, **choices: Sequence[Any]) -> list[str]:
    """A problem for every field of `part` that is not among its choices."""
    return [
        f"{name} is not one of {allowed}; got {getattr(part, name)!r}"
        for name, allowed in choices.items()
        if getattr(part, name) not in allowed
    ]


def uncounted(part: Any, *names: str, least: int = 1, suffix: str = "") -> list[str]:
    """A problem for every field among `names` that is not a whole number from `least` on."""
    return [
        f"{name} must be a whole number >= {least}{suffix}; got {getattr(part, name)!r}"
        for name in names
        if type(getattr(part, name)) is not int or getattr(part, name) < least
    ]


def loaded(place: str) -> Any:
    """What stands at a place `module:name`.

    >>> loaded("math:tau") > 6
    True
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def first_line(error: BaseException) -> str:
    """What an error of others says, in one line."""
    return " ".join(str(error).split())[:300]


def described(error: BaseException) -> str:
    """As `first_line`, its kind before.

    >>> described(ValueError("no such\\nthing"))
    'ValueError: no such thing'
    """
    return f"{type(error).__name__}: {first_line(error)}"
