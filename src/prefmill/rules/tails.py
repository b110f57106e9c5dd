"""Tails of distributions: how surprising a number is, and of several numbers together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

_TERMS, _CLOSE, _TINY = 300, 1e-15, 1e-300
#: From here on Student's distribution is the normal one, to 1e-7.
_MANY = 1e7


def student_tail(t: float, freedom: float) -> float:
    """The chance that Student's t is at least `t` away from 0, on either side.

    Source: Abramowitz and Stegun 1964, 26.7.1, by the incomplete beta function.

    >>> round(student_tail(12.706204736, 1), 6)
    0.05
    """
    if math.isnan(t) or math.isnan(freedom):
        return math.nan
    if math.isinf(t):
        return 0.0
    if freedom > _MANY:
        return math.erfc(abs(t) / math.sqrt(2))
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=4096)
def student_point(level: float, freedom: float) -> float:
    """How far Student's t goes to either side of 0 with the chance `level`.

    >>> round(student_point(0.95, 30), 4), round(student_point(0.95, 1e9), 4)
    (2.0423, 1.96)
    """
    point = NormalDist().inv_cdf((1 + level) / 2)
    if freedom > _MANY:
        return point
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    for _ in range(_TERMS):
        # Newton: the tail is convex and the normal point lies below, so no step goes too far.
        bend = (freedom + 1) / 2 * math.log1p(point * point / freedom)
        density = math.exp(log - bend) / math.sqrt(freedom * math.pi)
        step = (student_tail(point, freedom) - (1 - level)) / (2 * density)
        point += step
        if abs(step) <= 1e-13 * point:
            break
    return point


def sign_tail(one: int, other: int) -> float:
    """McNemar's exact test: how likely `one` against `other`, or less even, where both are as
    likely.

    Source: McNemar 1947, Psychometrika 12:153.

    >>> sign_tail(5, 0), sign_tail(3, 3)
    (0.0625, 1.0)
    """
    n, most = one + other, max(one, other)
    if not n or 2 * most == n:
        return 1.0
    # The share of the tail by one logarithm, its terms by ratios: no sum of huge integers.
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(most + 1) - math.lgamma(n - most + 1) - n * math.log(2)
    )
    tail = 0.0
    for k in range(most, n + 1):
        tail += term
        term *= (n - k) / (k + 1)
        if term < tail * _CLOSE:
            break
    return min(1.0, 2 * tail)


def holm(tails: Sequence[float]) -> list[float]:
    """Chances adjusted for their number: whatever is true, one below 0.05 is a false alarm in at
    most 5 of 100 families. NaN is no test.

    Source: Holm 1979, Scand. J. Stat. 6:65.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(tails) if not math.isnan(p))
    adjusted, least = [math.nan] * len(tails), 0.0
    for rank, (p, place) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = least
    return adjusted


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logs + a * math.log(x) + b * math.log1p(-x))
    # The fraction closes fast on this side only; the other one is its mirror.
    if x > (a + 1) / (a + b + 2):
        return 1 - front * _fraction(1 - x, b, a) / b
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _away(1 + step * d)
            c = _away(1 + step / c)
            value *= c * d
        if abs(c * d - 1) < _CLOSE:
            break
    return value


def _away(value: float) -> float:
    """`value`, but not so near 0 that it cannot divide."""
    return value if abs(value) > _TINY else _TINY
