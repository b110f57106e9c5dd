"""Products of parameters: `make test` runs a part that has every value, torture the rest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def grid(*axes: Sequence[Any]) -> list[Any]:
    """All combinations; those whose places sum to a multiple of the last axis's length run daily.

    So every combination of the other axes meets one value of the last axis each day, in turn.

    >>> [each.values for each in grid("ab", [1, 2]) if not each.marks]
    [('a', 1), ('b', 2)]
    """
    cells = []
    for places in itertools.product(*map(range, map(len, axes))):
        chosen = [named(axis[place]) for axis, place in zip(axes, places, strict=True)]
        daily = sum(places) % len(axes[-1]) == 0
        cells.append(
            pytest.param(
                *(value for value, _ in chosen),
                id="-".join(name for _, name in chosen),
                marks=() if daily else pytest.mark.torture,
            )
        )
    return cells


def named(value: Any) -> tuple[Any, str]:
    """A value, or what `pytest.param` made of one, and its name."""
    if hasattr(value, "values") and hasattr(value, "marks"):
        return value.values[0], str(value.id)
    return value, str(value)
