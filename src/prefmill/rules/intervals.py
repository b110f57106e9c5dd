"""95 % intervals, under the macros' names: of a share, and of a mean over prompts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_RESAMPLES = 1000
_PART = 100  # resamples at a time


def wilson(p: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share `p` seen in `n` trials; `pref_wilson` in SQL.

    Source: Wilson 1927, "Probable Inference", J. Am. Stat. Assoc. 22:209.

    >>> [round(end, 3) for end in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    middle = p + _Z**2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return (middle - half) / scale, (middle + half) / scale


def bootstrap(values: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, over 1000 resamples of the values.

    It is seeded, so that a report is the same each time.
    """
    if len(values) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(0)
    means = [
        values[draws.integers(0, len(values), (_PART, len(values)))].mean(axis=1)
        for _ in range(_RESAMPLES // _PART)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
