"""The fits behind a proxy against what they are defined by."""

from __future__ import annotations

import numpy as np
import pytest

from prefmill.proxies.fit import PENALTY, chance, folds_of, held_out, weights_of
from prefmill.proxies.flips import flips_of
from prefmill.proxies.learning import power_law


@pytest.mark.parametrize(("rows", "width"), [(30, 5), (6, 40)])
def test_weights_are_where_the_slope_is_nothing(rows, width):
    differences = np.random.default_rng(0).normal(size=(rows, width))
    weights = weights_of(differences)
    slope = differences.T @ chance(-(differences @ weights)) - PENALTY * weights
    assert np.abs(slope).max() < 1e-8


def test_no_prompt_is_in_two_folds_and_folds_are_even():
    groups = [f"p{n}" for n in np.random.default_rng(1).integers(0, 60, 300)]
    folds = folds_of(groups, 5, 0)
    assert len({*zip(groups, folds.tolist(), strict=True)}) == len({*groups})
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 10
    turned = folds_of(groups[::-1], 5, 0)
    assert turned[::-1].tolist() == folds.tolist()


def test_a_margin_knows_nothing_of_its_fold():
    differences = np.random.default_rng(2).normal(size=(40, 4))
    folds = np.arange(40) % 4
    before = held_out(differences, folds)
    differences[folds == 1] *= -1
    after = held_out(differences, folds)
    assert np.allclose(after[folds == 1], -before[folds == 1])


def margins_of(draws, rows, flipped):
    """Margins of a Bradley-Terry model, of whose labels some are flipped whatever they are."""
    strength = np.abs(draws.normal(scale=3, size=rows))
    signs = np.where(draws.random(rows) < chance(strength), 1, -1)
    return strength * signs * np.where(draws.random(rows) < flipped, -1, 1)


def test_clean_labels_are_no_finding():
    """People err where answers are close: one set in a hundred may be said to have flips."""
    draws = np.random.default_rng(3)
    found = [flips_of(margins_of(draws, 600, 0.0)).found for _ in range(60)]
    assert sum(found) <= 3


def test_flips_are_told_from_close_calls():
    draws = np.random.default_rng(4)
    fits = [flips_of(margins_of(draws, 1500, 0.05)) for _ in range(20)]
    assert sum(fit.found for fit in fits) >= 18
    assert sum(fit.low <= 0.05 <= fit.high for fit in fits) >= 17
    assert abs(np.mean([fit.share for fit in fits]) - 0.05) < 0.01


def test_chances_are_those_that_they_say():
    """Of labels with a chance of 0.7 to be flipped, about 70 of 100 are."""
    draws = np.random.default_rng(6)
    strength = np.abs(draws.normal(scale=3, size=20_000))
    signs = np.where(draws.random(20_000) < chance(strength), 1, -1)
    flipped = draws.random(20_000) < 0.1
    margins = strength * signs * np.where(flipped, -1, 1)
    chances = flips_of(margins).chances(margins)
    for low, high in ((0.3, 0.6), (0.6, 0.9)):
        inside = (chances > low) & (chances <= high)
        assert inside.sum() > 100
        assert abs(flipped[inside].mean() - chances[inside].mean()) < 0.08


def test_a_curve_that_does_not_rise_promises_nothing():
    flat = np.full((1, 5), 0.7)
    sizes = np.array([50.0, 100, 200, 400, 800])
    assert power_law(sizes, flat, np.array([3200.0]))[0, 0] == pytest.approx(0.7, abs=0.011)
    falling = np.array([[0.75, 0.74, 0.73, 0.72, 0.71]])
    ahead = power_law(sizes, falling, np.array([800.0, 3200.0]))[0]
    assert ahead[1] - ahead[0] < 0.001
