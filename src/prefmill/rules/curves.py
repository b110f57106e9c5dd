"""Best-of-n curves of pools, in closed form; the macro is `pref_curves`.

pools (one prompt's scores, sorted) ──weights of order statistics──▶ E[max of n] of a prompt
──mean, bootstrap──▶ a row for each n
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from prefmill.rules.intervals import Floats, poisson_bootstrap
from prefmill.table.numbers import plain_zero, rounded

#: n goes to the largest number of scores that a prompt has, but without `k` not beyond this.
MOST = 128

COLUMNS = {
    "n": pl.Int64,
    "prompts": pl.Int64,
    "best": pl.Float64,
    "median": pl.Float64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "kl": pl.Float64,
}


def largest_n(pools: pl.DataFrame, k: int | None) -> int:
    """The largest n of the curve of `pools`."""
    return min(int(pools["_scores"].list.len().max()), k or MOST)  # type: ignore[arg-type]


def curve_points(pools: pl.DataFrame, k: int | None, resamples: int, level: float) -> pl.DataFrame:
    """The curve of pools that share one value of _by."""
    sizes = pools["_scores"].list.len().to_numpy()
    most = largest_n(pools, k)
    bests, middles = np.zeros((len(sizes), most)), np.zeros((len(sizes), most))
    for m in np.unique(sizes):
        mine, ns = np.flatnonzero(sizes == m), min(int(m), most)
        scores = (
            pools["_scores"].gather(mine).explode(empty_as_null=False).to_numpy().reshape(-1, m)
        )
        high, middle = order_weights(int(m), ns)
        bests[mine, :ns], middles[mine, :ns] = scores @ high.T, scores @ middle.T
    has = sizes[:, None] >= np.arange(1, most + 1)
    prompts = has.sum(axis=0)
    averages = pools["_scores"].list.mean().to_numpy()
    n = np.arange(1, most + 1)
    low, high_end = poisson_bootstrap(pools["_h"].to_numpy(), bests, has, resamples, level)
    columns = {
        "n": n,
        "prompts": prompts,
        "best": bests.sum(axis=0) / prompts,
        "median": middles.sum(axis=0) / prompts,
        "mean": (averages[:, None] * has).sum(axis=0) / prompts,
        "low": low,
        "high": high_end,
        "kl": np.log(n) - (n - 1) / n,
    }
    numbers = [name for name, dtype in COLUMNS.items() if dtype == pl.Float64]
    made = pl.DataFrame(columns, schema=COLUMNS).with_columns(
        plain_zero(rounded(pl.col(name).fill_nan(None))).alias(name) for name in numbers
    )
    return made.insert_column(0, pools["_by"].head(1).new_from_index(0, most))


def order_weights(m: int, k: int) -> tuple[Floats, Floats]:
    """How much the i-th smallest of `m` scores counts in the expected best, and in the expected
    median, of n drawn from them.

    n runs from 1 to k: two arrays (k, m) whose rows sum to 1.

    >>> order_weights(3, 2)[0].round(3).tolist()
    [[0.333, 0.333, 0.333], [0.0, 0.333, 0.667]]
    """
    logs = np.array([math.lgamma(x + 1) for x in range(m + 1)])
    i = np.arange(1, m + 1)

    def weights(n: int, r: int) -> Floats:
        """C(i - 1, r - 1) C(m - i, n - r) / C(m, n); in logarithms, and what those lost is the same
        factor for all i.
        """
        out: Floats = np.zeros(m)
        a, b = i[r - 1 : m - n + r] - 1, m - i[r - 1 : m - n + r]
        out[r - 1 : m - n + r] = np.exp(
            logs[a]
            - logs[r - 1]
            - logs[a - r + 1]
            + logs[b]
            - logs[n - r]
            - logs[b - n + r]
            - logs[m]
            + logs[n]
            + logs[m - n]
        )
        scaled: Floats = out / out.sum()
        return scaled

    best = np.stack([weights(n, n) for n in range(1, k + 1)])
    middle = np.stack(
        [(weights(n, (n + 1) // 2) + weights(n, n // 2 + 1)) / 2 for n in range(1, k + 1)]
    )
    return best, middle
