"""Fields that carry their own check and help.

A check says what is expected where a value cannot be meant. Plans, recipes and commands are made of
such fields: the error, the option and the page of the manual all come from here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import MISSING, field
from typing import Any

#: None if a value can be meant, else what is expected
Check = Callable[[object], str | None]


def key(check: Check, default: Any = MISSING, *, help: str = "", **about: Any) -> Any:
    """A field: what its value must be, its default if it has one, and what people are told.

    Args:
        help: the help of its option.
        about: `shown` is how the help shows the default, `option` the names of the option,
            `metavar` what stands for its value, `later` that a plan is hashed without it at its
            default, `table` that it is a table in TOML.
    """
    hashed = False if about.get("table") else None
    metadata = {"check": check, "help": help, **about}
    return field(default=default, hash=hashed, metadata=metadata)


def _unless(fine: bool, expected: str) -> str | None:
    return None if fine else expected


def whole(least: int) -> Check:
    """A whole number, at least `least`."""

    def check(value: object) -> str | None:
        fine = type(value) is int and value >= least
        return _unless(fine, f"a whole number >= {least}")

    return check


def seed(value: object) -> str | None:
    """What draws can begin with."""
    fine = type(value) is int and 0 <= value < 2**63
    return _unless(fine, "a whole number in 0..2**63-1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _above(open_low: bool) -> tuple[Callable[[Any, Any], bool], str]:
    """How a number is compared with a bound from below, and the sign of that."""
    return (operator.gt, ">") if open_low else (operator.ge, ">=")


def number(low: float, high: float | None = None, *, open_low: bool = False) -> Check:
    """A number from `low` (or above it, with `open_low`) to `high`."""
    above, sign = _above(open_low)
    expected = f"a number {sign} {low:g}"
    if high is not None:
        expected += f" and <= {high:g}"

    def check(value: Any) -> str | None:
        fine = _is_number(value) and above(value, low) and (high is None or value <= high)
        return _unless(fine, expected)

    return check


def finite(low: float | None = None, *, open_low: bool = False) -> Check:
    """A number that is finite, from `low` (or above it, with `open_low`)."""
    above, sign = _above(open_low)
    expected = "a finite number"
    if low is not None:
        expected += f" {sign} {low:g}"

    def check(value: Any) -> str | None:
        fine = _is_number(value) and math.isfinite(value) and (low is None or above(value, low))
        return _unless(fine, expected)

    return check


def within(low: float, high: float) -> Check:
    """A number from `low` to `high`."""

    def check(value: Any) -> str | None:
        fine = _is_number(value) and low <= value <= high
        return _unless(fine, f"a number in {low:g}..{high:g}")

    return check


def text(value: object) -> str | None:
    """Text that is not empty."""
    return _unless(isinstance(value, str) and value != "", "text that is not empty")


def flag(value: object) -> str | None:
    """True or false."""
    return _unless(isinstance(value, bool), "true or false")


class OneOf:
    """One of some words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __call__(self, value: object) -> str | None:
        return _unless(value in self.choices, f"one of {list(self.choices)}")


def one_of(*choices: str) -> OneOf:
    """One of some words."""
    return OneOf(*choices)


def some(check: Check) -> Check:
    """A list of what `check` takes, not empty."""

    def whole(value: object) -> str | None:
        if isinstance(value, list | tuple) and value and all(check(each) is None for each in value):
            return None
        return f"a list of values that are each {check(object())}"

    return whole


def maybe(check: Check) -> Check:
    """What `check` takes, or nothing."""
    return lambda value: None if value is None else check(value)


def or_none(check: Check) -> Check:
    """What `check` takes, or None, which people can write."""

    def check_or_none(value: object) -> str | None:
        expected = maybe(check)(value)
        return expected and f"{expected} or None"

    return check_or_none


def files(value: object) -> str | None:
    """A path, or several."""
    fine = text(value) is None or some(text)(value) is None
    return _unless(fine, "a path, or a list of paths")
