"""Checks of a recipe's values: each says what is expected where a value cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field
from typing import Any

#: None if a value can be meant, else what is expected
Check = Callable[[object], str | None]


def key(check: Check, default: Any = MISSING) -> Any:
    """A key of a section: what its value must be, and its default if it has one."""
    made = {"default": default} if default is not MISSING else {}
    return field(metadata={"check": check}, **made)


def whole(least: int) -> Check:
    """A whole number, at least `least`."""
    return lambda value: (
        None if type(value) is int and value >= least else f"a whole number >= {least}"
    )


def number(low: float, high: float | None = None, *, open_low: bool = False) -> Check:
    """A number from `low` (or above it, with `open_low`) to `high`."""

    def check(value: object) -> str | None:
        fine = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and (value > low if open_low else value >= low)
        )
        if fine and (high is None or value <= high):  # type: ignore[operator]
            return None
        bound = f"{'>' if open_low else '>='} {low:g}"
        return f"a number {bound}" + ("" if high is None else f" and <= {high:g}")

    return check


def text(value: object) -> str | None:
    """Text that is not empty."""
    return None if isinstance(value, str) and value else "text that is not empty"


def flag(value: object) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def one_of(*choices: str) -> Check:
    """One of some words."""
    return lambda value: None if value in choices else f"one of {list(choices)}"


def some(check: Check) -> Check:
    """A list of what `check` takes, not empty."""

    def whole(value: object) -> str | None:
        if isinstance(value, list | tuple) and value and all(check(each) is None for each in value):
            return None
        return f"a list of values that are each {check(object())}"

    return whole


def maybe(check: Check) -> Check:
    """What `check` takes, or nothing."""
    return lambda value: None if value is None or check(value) is None else check(value)


def files(value: object) -> str | None:
    """A path, or several."""
    return (
        None if text(value) is None or some(text)(value) is None else "a path, or a list of paths"
    )
