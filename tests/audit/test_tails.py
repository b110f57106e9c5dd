"""Tails of distributions, against closed forms and sums written out."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import pytest

from prefmill.rules.tails import holm, sign_tail, student_point, student_tail

POINTS = (0.0, 1e-6, 0.3, 1.0, 2.5, 9.0, 80.0, 1e5)


@pytest.mark.parametrize("t", POINTS)
def test_student_has_its_closed_forms(t):
    # The distribution function for 1 to 4 degrees of freedom, solved by hand.
    root = math.sqrt(2 + t * t)
    half = {
        1: math.atan(t) / math.pi,
        2: t / (2 * root),
        3: (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi,
        4: 0.375 * t / math.sqrt(1 + t * t / 4) * (1 - t * t / (1 + t * t / 4) / 12),
    }
    for freedom, share in half.items():
        assert student_tail(t, freedom) == pytest.approx(1 - 2 * share, rel=1e-6, abs=1e-13)
        assert student_tail(-t, freedom) == student_tail(t, freedom)


@pytest.mark.parametrize("freedom", [7, 30.5, 400, 9.9e6, 1e8])
def test_student_is_the_integral_of_its_density(freedom):
    def density(t):
        log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
        return math.exp(log - (freedom + 1) / 2 * math.log1p(t * t / freedom)) / math.sqrt(
            freedom * math.pi
        )

    # Simpson's rule from 0 to t.
    for t in (0.5, 1.96, 4.0):
        n = 4000
        values = [density(t * k / n) for k in range(n + 1)]
        total = values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
        assert student_tail(t, freedom) == pytest.approx(1 - 2 * total * t / n / 3, abs=2e-6)


@pytest.mark.parametrize("freedom", [1, 2.5, 9, 50, 1000, 1e9])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
def test_points_are_where_the_tail_is_what_is_left(freedom, level):
    assert student_tail(student_point(level, freedom), freedom) == pytest.approx(1 - level)


def test_many_degrees_are_the_normal_distribution():
    assert student_point(0.95, 1e6) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-5)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (4, 9), (30, 12), (7, 7), (200, 250)])
def test_the_sign_test_is_the_sum_of_binomials(one, other):
    n, most = one + other, max(one, other)
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(most, n + 1))
    assert sign_tail(one, other) == pytest.approx(min(1.0, float(2 * tail)), rel=1e-9)
    assert sign_tail(one, other) == sign_tail(other, one)


def test_the_sign_test_of_many_is_finite():
    assert sign_tail(600_000, 600_000) == 1.0
    assert 0 <= sign_tail(700_000, 600_000) < 1e-100
    assert sign_tail(500_500, 499_500) == pytest.approx(math.erfc(1000 / 1000 / 2**0.5), rel=0.01)


def test_holm_leaves_out_what_is_no_test_and_keeps_the_order():
    adjusted = holm([0.02, math.nan, 0.5, 0.001])
    assert [round(p, 9) for p in adjusted if not math.isnan(p)] == [0.04, 0.5, 0.003]
    assert math.isnan(adjusted[1])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
