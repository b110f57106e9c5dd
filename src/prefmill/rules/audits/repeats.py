"""How stable a judge is when it is asked again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prefmill.rules.audits.agreement import ends_of
from prefmill.rules.audits.effects import NOTHING, Effect, of_numbers, scale_of
from prefmill.rules.audits.twice import Repeats, Shown, flips
from prefmill.rules.audits.verdicts import Finding
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Ints, summed

_WHAT = "share of comparisons whose winner changes when asked again"
_WHY = "no answer was judged twice (--repeat FILE)"
_CIRCLE = 3  # neighbours on one side whom an answer meets in `flips`


def stable(repeats: Repeats, verdicts: Shown) -> Finding:
    """Flips between the first two judgements, and the agreement of all of them.

    `verdicts` are comparisons that were judged twice in the same order; where there are none,
    scores of answers are compared.
    """
    shown = verdicts if len(verdicts.prompt) else _pairs(repeats)
    numbers = _spread(repeats)
    if not len(shown.prompt):
        return Finding("repeat flips", _WHAT, why=_WHY, numbers=numbers)
    found = flips("repeat flips", shown)
    return replace(found, numbers={**found.numbers, **numbers})


def _pairs(repeats: Repeats) -> Shown:
    """Two answers of a prompt by one judge, each judged twice: who was better then, and who now.

    An answer meets at most six others of its prompt, its neighbours in the order of the input.
    """
    nothing = Shown(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    order = np.argsort(repeats.unit, kind="stable")
    unit = repeats.unit[order]
    heads = np.flatnonzero(np.append(True, unit[1:] != unit[:-1])) if len(unit) else unit
    heads = heads[(heads + 1 < len(unit))]
    heads = heads[unit[heads + 1] == unit[heads]]
    if not len(heads):
        return nothing
    first, second = repeats.score[order[heads]], repeats.score[order[heads + 1]]
    prompt = repeats.prompt[order[heads]]
    seats = np.argsort(prompt, kind="stable")
    sizes = np.bincount(prompt)
    size = sizes[prompt[seats]]
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])[prompt[seats]]
    place = np.arange(len(seats)) - begins
    ones, twos = [], []
    for apart in range(1, _CIRCLE + 1):
        sits = np.flatnonzero((2 * apart < size) | ((2 * apart == size) & (place < apart)))
        ones.append(seats[sits])
        twos.append(seats[begins[sits] + (place[sits] + apart) % size[sits]])
    one, two = np.concatenate(ones), np.concatenate(twos)
    then, now = np.sign(first[one] - first[two]) / 2, np.sign(second[one] - second[two]) / 2
    return Shown(prompt[one], then, now)


def _spread(repeats: Repeats) -> dict[str, float]:
    """Krippendorff's alpha (interval), the intraclass correlation, and the spread of an answer."""
    if not len(repeats.unit):
        return {}
    units = int(repeats.unit.max()) + 1
    counts = np.bincount(repeats.unit, minlength=units).astype(np.float64)
    # Squares of scores far from 0 would drown what they differ in.
    unit = scale_of(repeats.score)
    score = repeats.score / unit
    score -= score.mean()
    means = summed(repeats.unit, score, units) / counts
    inside = summed(repeats.unit, (score - means[repeats.unit]) ** 2, units)
    prompt = np.zeros(units, dtype=np.int64)
    prompt[repeats.unit] = repeats.prompt
    # Not by `inside`: the mean of three equal numbers may differ from them in the last bit.
    same = (
        repeats.score == repeats.score[np.unique(repeats.unit, return_index=True)[1]][repeats.unit]
    )
    same = summed(repeats.unit, same.astype(np.float64), units) == counts
    within = float(inside.sum()) / float((counts - 1).sum())
    return {
        "answers judged again": float(units),
        "same score each time": float(same.mean()),
        "standard deviation of an answer": math.sqrt(within) * unit,
        "intraclass correlation": _correlation(counts, means, within),
        **ends_of("alpha", _alpha(prompt, counts, means, inside)),
    }


def _correlation(counts: Floats, means: Floats, within: float) -> float:
    """ICC(1) of one judgement: the share of its variance that is between answers.

    Source: Donner 1986, Int. Stat. Rev. 54:67, for unequal numbers of judgements.
    """
    n, units = float(counts.sum()), len(counts)
    if units < 2:
        return math.nan
    grand = float(counts @ means) / n
    between = float(counts @ (means - grand) ** 2) / (units - 1)
    typical = (n - float(counts @ counts) / n) / (units - 1)
    below = between + (typical - 1) * within
    return (between - within) / below if below else math.nan


def _alpha(prompt: Ints, counts: Floats, means: Floats, inside: Floats) -> Effect:
    """1 less the disagreement of an answer's judgements over that of any two.

    Source: Krippendorff 2004, Content Analysis, chapter 11.
    """
    size = int(prompt.max()) + 1
    # Of each prompt: judgements, their sum and sum of squares, and what answers differ in.
    n = summed(prompt, counts, size)
    total = summed(prompt, counts * means, size)
    squares = summed(prompt, inside + counts * means**2, size)
    apart = summed(prompt, counts * inside / (counts - 1), size)

    def alphas(*sums: Floats) -> Floats:
        n, total, squares, apart = sums
        observed = apart / n
        expected = (squares - total**2 / n) / (n - 1)
        values: Floats = 1 - np.divide(
            observed, expected, out=np.full(len(n), np.nan), where=expected > 1e-12 * squares
        )
        return values

    sums = [n, total, squares, apart]
    kept = n > 0
    whole = [np.array([each.sum()]) for each in sums]
    if kept.sum() < 2:
        return NOTHING
    value = float(alphas(*whole)[0])
    with np.errstate(all="ignore"):
        without = alphas(*(w - each[kept] for w, each in zip(whole, sums, strict=True)))
    return of_numbers(without, value, int(n.sum()))
