"""Effects over comparisons, and their errors over prompts.

A prompt is what is independent of the rest, so errors are from leaving out one prompt at a time
(the jackknife over clusters: MacKinnon, Nielsen and Webb 2023, J. Econometrics 232:272). It is in
closed form, so that nothing is drawn, and it errs to the safe side where prompts are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prefmill.rules.intervals import Floats
from prefmill.rules.tails import student_point, student_tail
from prefmill.rules.votes import Ints, summed

Bools = npt.NDArray[np.bool_]
#: With fewer prompts that tell something, an error of its own is not known well enough.
FEWEST_PROMPTS = 10
#: How often an effect of the detectable size is found.
POWER = 0.8
_CHUNK = 50_000  # comparisons at a time
#: A column of which others explain all but this share has no effect of its own.
_LEFT = 1e-6


@dataclass(frozen=True)
class Effect:
    """A number, its standard error over prompts, and what it rests on.

    `freedom` counts the prompts that bear on it, less one: prompts that say more count for more,
    so it is below `prompts` where they are of unequal size.
    """

    value: float
    error: float
    freedom: float
    prompts: int
    comparisons: int

    @property
    def is_known(self) -> bool:
        """Enough prompts bear on it for its error to mean something."""
        return self.freedom + 1 >= FEWEST_PROMPTS and math.isfinite(self.error)

    @property
    def tail(self) -> float:
        """The chance of a value so far from 0 where there is no effect; NaN with few prompts."""
        if not self.is_known:
            return math.nan
        if not self.error:
            return float(not self.value)
        return student_tail(self.value / self.error, self.freedom)

    def ends(self, level: float) -> tuple[float, float]:
        """The interval at `level`; NaN with few prompts."""
        if not self.is_known:
            return math.nan, math.nan
        half = student_point(level, self.freedom) * self.error
        return self.value - half, self.value + half

    def detectable(self, alpha: float, variance: float | None = None) -> float:
        """The smallest effect that a test at `alpha` finds in 80 of 100 such files.

        `variance` of one outcome, where most outcomes are 0 in a fair judge: a judge with an effect
        has others, and then its error is larger too.
        """
        if not self.is_known:
            return math.nan
        # On either side of 0 for the test, on one side for the power.
        points = student_point(1 - alpha, self.freedom) + student_point(2 * POWER - 1, self.freedom)
        size = points * self.error
        if variance is None:
            return size
        trials = variance / self.error**2 if variance and self.error else float(self.prompts)
        for _ in range(60):
            # So many outcomes were replaced by one half: what they vary then.
            share = min(2 * size, 1.0)
            spread = (1 - share) * variance + share / 4 - share**2 / 4
            size = points * math.sqrt(spread / trials)
        return max(size, points * self.error)


#: What nothing bears on.
NOTHING = Effect(math.nan, math.nan, -1.0, 0, 0)


def ratio(above: Floats, below: Floats, prompt: Ints) -> Effect:
    """The sum of `above` over that of `below`, a row for each comparison.

    >>> prompts = np.arange(4)
    >>> ratio(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4), prompts).value
    0.75
    """
    count = int(prompt.max(initial=-1)) + 1
    tops, bottoms = summed(prompt, above, count), summed(prompt, below, count)
    return of_sums(tops, bottoms, int(np.count_nonzero(below)))


def of_sums(above: Floats, below: Floats, comparisons: int) -> Effect:
    """The same of sums by prompt."""
    counts = below > 0
    above, below = above[counts], below[counts]
    prompts, whole = len(below), float(below.sum())
    if not prompts:
        return NOTHING
    value = float(above.sum()) / whole
    rest = whole - below
    if prompts < 2 or (rest <= whole * _LEFT).any():
        return Effect(value, math.nan, 0.0, prompts, comparisons)
    without = (float(above.sum()) - above) / rest
    freedom = whole**2 / float(below @ below) - 1
    return Effect(value, _jackknife(without), freedom, prompts, comparisons)


def of_numbers(without: Floats, value: float, comparisons: int) -> Effect:
    """Any statistic, from its values without each prompt."""
    prompts = len(without)
    error = _jackknife(without) if prompts > 1 else math.nan
    return Effect(value, error, prompts - 1.0, prompts, comparisons)


def _jackknife(without: Floats) -> float:
    spread = without - without.mean()
    return math.sqrt(float(spread @ spread) * (len(without) - 1) / len(without))


def scale_of(values: Floats) -> float:
    """A power of 2 near the largest value: squares of what is divided by it do not overflow."""
    largest = float(np.abs(values).max(initial=0.0))
    return 2.0 ** math.floor(math.log2(largest)) if largest else 1.0


class Design(Protocol):
    """Columns over comparisons, made a part at a time: millions of rows fit nowhere at once."""

    @property
    def names(self) -> Sequence[str]:
        """The columns."""
        ...

    def part(self, start: int, stop: int) -> Floats:
        """Comparisons `start` to `stop`: a row each, a column for each name."""
        ...


class Model:
    """Outcomes of comparisons, linear in the columns of a design, each comparison with a weight.

    An outcome that is NaN is left out. Cost: two passes over the design for each effect.
    """

    def __init__(self, design: Design, outcome: Floats, weight: Floats, prompt: Ints) -> None:
        known = ~np.isnan(outcome)
        self.design, self.prompt = design, prompt
        self.outcome = np.where(known, outcome, 0.0)
        self.weight = np.where(known, weight, 0.0)
        #: How many have an outcome.
        self.prompts = len(np.unique(prompt[known]))
        size = len(design.names)
        self._cross, self._with = np.zeros((size, size)), np.zeros(size)
        for part, columns in self._parts():
            weighed = columns * self.weight[part, None]
            self._cross += weighed.T @ columns
            self._with += weighed.T @ self.outcome[part]

    def _parts(self) -> Sequence[tuple[slice, Floats]]:
        return _Parts(self.design, len(self.outcome))

    def effect(self, target: str, controls: Sequence[str]) -> Effect | None:
        """What the column `target` adds at equal `controls`; None where these explain all of it.

        By Frisch, Waugh and Lovell: what the controls explain is taken out of both first.
        """
        places = {name: place for place, name in enumerate(self.design.names)}
        aim, others = places[target], [places[name] for name in controls]
        inner = np.linalg.pinv(self._cross[np.ix_(others, others)], rcond=1e-10, hermitian=True)
        explain, expect = inner @ self._cross[others, aim], inner @ self._with[others]
        whole = float(self._cross[aim, aim])
        left = whole - float(self._cross[aim, others] @ explain)
        if not whole:
            return NOTHING
        if left <= whole * _LEFT:
            return None
        count = int(self.prompt.max(initial=-1)) + 1
        above, below, met = np.zeros(count), np.zeros(count), np.zeros(count)
        for part, columns in self._parts():
            rest = columns[:, aim] - columns[:, others] @ explain
            gap = self.outcome[part] - columns[:, others] @ expect
            weighed = self.weight[part] * rest
            above += summed(self.prompt[part], weighed * gap, count)
            below += summed(self.prompt[part], weighed * rest, count)
            has = (columns[:, aim] * self.weight[part] != 0).astype(np.float64)
            met += summed(self.prompt[part], has, count)
        effect = of_sums(above, below, int(met.sum()))
        # Each control took what it explains from the errors, as it would one prompt.
        free = self.prompts - np.linalg.matrix_rank(inner, hermitian=True)
        spread = effect.error * math.sqrt(self.prompts / free) if free > 0 else math.nan
        # Other prompts bear on what the controls explain, and are not counted for people.
        return replace(
            effect,
            error=spread,
            freedom=min(effect.freedom, free - 1.0),
            prompts=int(np.count_nonzero(met)),
        )


class _Parts(Sequence[tuple[slice, Floats]]):
    """A design in parts."""

    def __init__(self, design: Design, rows: int) -> None:
        self.design, self.rows = design, rows

    def __len__(self) -> int:
        return -(-self.rows // _CHUNK)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        if place >= len(self):
            raise IndexError
        start = place * _CHUNK
        stop = min(start + _CHUNK, self.rows)
        return slice(start, stop), self.design.part(start, stop)
