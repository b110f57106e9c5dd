"""How far chances can be believed, on pairs: who was given which chance to win, and who won."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefmill.rules.intervals import Floats, poisson_bootstrap, wilson
from prefmill.rules.isotonic import fit_wins

#: parts of the prompts; each part is predicted by what the others say
FOLDS = 5
#: bins of chances from 0.5 to 1
BINS = 10
_RESAMPLES = 1000
_LEVEL = 0.95

Hashes = npt.NDArray[np.uint64]


def held_out(margins: Floats, hashes: Hashes) -> Floats:
    """The chance of each pair's chosen answer, by a fit to other prompts, shape (pairs,).

    A prompt's hash decides its part, so the order of pairs does not. NaN where the others have no
    pair.
    """
    part = hashes % np.uint64(FOLDS)
    chances = np.full(len(margins), np.nan)
    for fold in range(FOLDS):
        own = part == fold
        if own.any() and not own.all():
            chances[own] = fit_wins(margins[~own]).curve(margins[own])
    return chances


def as_log_odds(margins: Floats) -> Floats:
    """The chance of the chosen answer if scores are log-odds, as reward models are trained to be.

    >>> as_log_odds(np.array([0.0, 700.0, -1e4])).round(3).tolist()
    [0.5, 1.0, 0.0]
    """
    small = np.exp(-np.abs(margins))
    return np.asarray(np.where(margins >= 0, 1 / (1 + small), small / (1 + small)))


def binned(chances: Floats) -> list[dict[str, float]]:
    """Pairs by the chance of the answer that is given the better one: `predicted` (mean chance),
    `won` (share that did win; even chances are half a win), its 95 % interval, and `pairs`.

    Bins have one width from 0.5 to 1; the last one holds 1. Empty ones are left out.
    """
    better = np.maximum(chances, 1 - chances)
    won = np.where(chances == 0.5, 0.5, chances > 0.5)
    place = np.minimum(((better - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    rows = []
    for each in np.unique(place).tolist():
        inside = place == each
        pairs, share = int(inside.sum()), float(won[inside].mean())
        low, high = wilson(share, pairs)
        predicted = float(better[inside].mean())
        ends = {"low": low, "high": high}
        rows.append({"predicted": predicted, "won": share, **ends, "pairs": pairs})
    return rows


def calibration_error(bins: list[dict[str, float]]) -> float:
    """The expected calibration error: how far shares are from chances, over pairs.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities", AAAI.
    """
    pairs = sum(row["pairs"] for row in bins)
    return sum(row["pairs"] * abs(row["won"] - row["predicted"]) for row in bins) / pairs


def means_over_prompts(values: Floats, hashes: Hashes) -> list[tuple[float, float, float]]:
    """The mean over pairs of each column, and its 95 % interval over resampled prompts.

    `values` has shape (pairs, columns).
    """
    distinct, place = np.unique(hashes, return_inverse=True)
    sums = np.stack([np.bincount(place, column) for column in values.T], axis=1)
    counts = np.repeat(np.bincount(place).astype(np.float64)[:, None], values.shape[1], axis=1)
    # Sums of pairs over counts of pairs: a prompt with more pairs weighs more, as in the mean.
    low, high = poisson_bootstrap(distinct, sums, counts, _RESAMPLES, _LEVEL)  # type: ignore[arg-type]
    return list(zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True))
