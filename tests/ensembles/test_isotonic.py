"""The chance to win by a margin, against the min-max formula over all margins of both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmill.rules import reliability
from prefmill.rules.isotonic import fit_wins, pooled
from prefmill.rules.standards import Groups

MARGINS = st.lists(
    st.integers(-6, 6).map(lambda n: n / 2) | st.floats(-3, 3, allow_subnormal=False),
    min_size=1,
    max_size=25,
)


def isotonic_of_both_sides(margins: Sequence[float]) -> dict[float, float]:
    """By definition: the least over later ends of the largest mean over earlier starts, where each
    pair is a win at its margin and a loss at the negative one.
    """
    seen: dict[float, list[float]] = {}
    for margin in margins:
        seen.setdefault(margin + 0.0, []).append(1.0)
        seen.setdefault(0.0 - margin, []).append(0.0)
    points = sorted(seen)
    fitted = {}
    for i, point in enumerate(points):
        lows = []
        for a in range(i + 1):
            means = []
            for b in range(i, len(points)):
                inside = [value for each in points[a : b + 1] for value in seen[each]]
                means.append(sum(inside) / len(inside))
            lows.append(min(means))
        fitted[point] = max(lows)
    return fitted


@given(MARGINS)
def test_the_curve_is_the_isotonic_fit_of_both_sides(margins: list[float]) -> None:
    curve = fit_wins(np.array(margins)).curve
    for margin, chance in isotonic_of_both_sides(margins).items():
        assert curve(margin) == pytest.approx(chance, abs=1e-9), margin


@given(MARGINS, st.randoms(use_true_random=False), st.floats(-9, 9))
def test_laws_of_the_curve(margins: list[float], chance: object, place: float) -> None:
    """It never falls, is symmetric, and does not know the order of pairs."""
    curve = fit_wins(np.array(margins)).curve
    grid = np.linspace(-9, 9, 101)
    assert (np.diff(curve(grid)) >= -1e-12).all()
    assert curve(place) + curve(-place) == pytest.approx(1)
    assert curve(0.0) == 0.5
    shuffled = list(margins)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again = fit_wins(np.array(shuffled)).curve
    assert again.margins.tolist() == curve.margins.tolist()
    assert again.chances.tolist() == pytest.approx(curve.chances.tolist(), abs=1e-12)


@given(MARGINS)
def test_steps_account_for_every_pair(margins: list[float]) -> None:
    fit = fit_wins(np.array(margins))
    assert fit.pairs.sum() == len(margins)
    assert (fit.least <= fit.most).all()
    assert (fit.most[:-1] < fit.least[1:]).all()
    assert (np.diff(fit.chances) > 0).all()


def test_pooled_weights() -> None:
    values, block = pooled(np.array([1.0, 0.0, 2.0]), np.array([3.0, 1.0, 1.0]))
    assert values.tolist() == [0.75, 0.75, 2.0]
    assert block.tolist() == [0, 0, 1]
    assert pooled(np.zeros(0), np.zeros(0))[0].tolist() == []


def test_chances_against_the_others_of_a_prompt() -> None:
    curve = fit_wins(np.array([0.5, 0.5, -0.5, 1.0, 2.0])).curve
    scores, keys = np.array([0.0, 0.5, 7.0, 2.0, 1.0]), [1, 1, 3, 1, 1]
    got = curve.wins(scores, Groups.of(keys))
    for row, score in enumerate(scores):
        others = [s for i, s in enumerate(scores) if i != row and keys[i] == keys[row]]
        wanted = np.mean([float(curve(score - s)) for s in others]) if others else 0.5
        assert got[row] == pytest.approx(wanted, abs=2e-9)
    # Chances of a prompt have the mean a half: what one wins another loses.
    assert got[[0, 1, 3, 4]].mean() == pytest.approx(0.5, abs=1e-9)


def test_a_large_prompt_is_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = fit_wins(np.array([0.5, -0.5, 1.0, 2.0, 0.1])).curve
    scores = np.random.default_rng(1).normal(size=40)
    whole = curve.wins(scores, Groups.one(40))
    monkeypatch.setattr("prefmill.rules.isotonic._BLOCK", 70)
    assert curve.wins(scores, Groups.one(40)).tolist() == whole.tolist()


def planted(pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins whose winner is drawn with the chance of half the margin as log-odds."""
    draws = np.random.default_rng(seed)
    margins = draws.normal(scale=3, size=pairs)
    wins = draws.random(pairs) < 1 / (1 + np.exp(-margins / 2))
    hashes = draws.integers(0, 2**64, size=pairs // 2, dtype=np.uint64).repeat(2)
    return np.where(wins, margins, -margins), hashes


def test_an_overconfident_scorer_is_found_and_mended() -> None:
    """Scores twice too large: their own chances are off, calibrated ones are not."""
    margins, hashes = planted(20_000, 0)
    curve = fit_wins(margins).curve
    grid = np.linspace(0.5, 6, 12)
    assert curve(grid) == pytest.approx(1 / (1 + np.exp(-grid / 2)), abs=0.05)
    before = reliability.as_log_odds(margins)
    after = reliability.held_out(margins, hashes)
    errors = [reliability.calibration_error(reliability.binned(c)) for c in (before, after)]
    assert errors[0] > 0.08
    assert errors[1] < 0.02
    losses = np.stack([(1 - before) ** 2, (1 - after) ** 2], axis=1)
    (worse, _, high), (better, low, _) = reliability.means_over_prompts(losses, hashes)
    assert (worse, better) == tuple(losses.mean(axis=0).tolist())
    assert better < worse
    assert low < better
    assert worse < high


def test_held_out_chances_do_not_know_their_own_prompt() -> None:
    """Turning the pairs of one prompt round changes no chance of that prompt."""
    margins, hashes = planted(400, 3)
    turned = np.where(hashes == hashes[0], -margins, margins)
    own = hashes == hashes[0]
    one, two = (reliability.held_out(each, hashes) for each in (margins, turned))
    assert one[own].tolist() == (1 - two[own]).tolist()
    assert np.isnan(reliability.held_out(margins[:3], np.full(3, 7, np.uint64))).all()


def test_bins_hold_every_pair_and_even_chances_win_half() -> None:
    rows = reliability.binned(np.array([0.5, 0.5, 0.2, 1.0, 0.81]))
    assert sum(row["pairs"] for row in rows) == 5
    assert rows[0]["won"] == 0.5
    assert rows[-1] == {**rows[-1], "predicted": 1.0, "won": 1.0}
