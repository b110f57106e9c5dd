"""Intervals: of a share, and of a mean over prompts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from prefmill.table.chance import mix32_array

Floats = npt.NDArray[np.float64]

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_RESAMPLES = 1000
_PART = 100  # resamples at a time
_CHUNK = 4096  # prompts at a time
# A Poisson number with mean 1 is how many of these a random 32-bit number reaches: its distribution
# function times 2**32. The macro is `pref_poisson`.
_POISSON = np.array(
    [
        *(1580030169, 3160060338, 3950075422, 4213413784, 4279248374, 4292415292, 4294609778),
        *(4294923277, 4294962464, 4294966818, 4294967253, 4294967293),
    ],
    dtype=np.uint64,
)


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


def poisson_times(hashes: npt.NDArray[np.uint64], resamples: int) -> Floats:
    """How often each of `hashes` (rows) is in each resample (columns): Poisson, with mean 1."""
    numbers = np.arange(1, resamples + 1, dtype=np.uint64)
    bits = mix32_array((hashes[:, None] & np.uint64(0xFFFFFFFF)) ^ numbers)
    return np.searchsorted(_POISSON, bits, side="right").astype(np.float64)


def poisson_bootstrap(
    hashes: npt.NDArray[np.uint64],
    values: Floats,
    has: npt.NDArray[np.bool_],
    resamples: int,
    level: float,
) -> tuple[Floats, Floats]:
    """Percentile intervals of the means of columns, over resampled prompts; NaN without resamples.

    A prompt's hash and the number of the resample decide how often it is drawn, so the order of
    prompts does not. `values` has a row for each prompt, and `has` says which of them are there.
    """
    if not resamples:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    sums, counts = np.zeros((resamples, values.shape[1])), np.zeros((resamples, values.shape[1]))
    for start in range(0, len(hashes), _CHUNK):
        part = slice(start, start + _CHUNK)
        times = poisson_times(hashes[part], resamples)
        sums += times.T @ values[part]
        counts += times.T @ has[part].astype(np.float64)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    ends = np.full((means.shape[1], 2), np.nan)
    for place, column in enumerate(means.T):
        # A resample may hold no prompt with so many scores.
        known = column[~np.isnan(column)]
        if len(known):
            ends[place] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return ends[:, 0], ends[:, 1]
