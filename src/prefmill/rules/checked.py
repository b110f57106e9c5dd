"""What ways of choosing one of n answers are worth where a check says which answers are right.

pools (one prompt's checks and answers, worst score first) ──closed forms──▶ values of a prompt for
each n ──mean, bootstrap──▶ columns next to those of a best-of-n curve
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import lgamma

import numpy as np
import polars as pl

from prefmill.rules.curves import order_weights
from prefmill.rules.intervals import Floats, poisson_bootstrap
from prefmill.table.numbers import plain_zero, rounded

#: The ways, and the columns of their intervals.
WAYS = ("passed", "picked", "majority")


def checked_columns(
    pools: pl.DataFrame, most: int, resamples: int, level: float
) -> list[pl.Series]:
    """For n = 1 to `most` the mean over prompts with n rows of

    passed    the best check among n: pass@n, if checks are 0 and 1
    picked    the check of that of n which has the highest score (of equal ones the latest row)
    majority  the check of the answer that most of n come to; without answers it is left out

    and `_low`, `_high` of each. `pools`, of one value of _by, has _h and the lists _checks and
    _said, worst score first.
    """
    sizes = pools["_checks"].list.len().to_numpy()
    voting = "_said" in pools.columns
    ways = WAYS if voting else WAYS[:2]
    values = {way: np.zeros((len(sizes), most)) for way in ways}
    for row, checks in enumerate(pools["_checks"].to_list()):
        m = len(checks)
        ns = min(m, most)
        high = _best_weights(m, ns)
        values["picked"][row, :ns] = high @ np.array(checks)
        values["passed"][row, :ns] = high @ np.sort(checks)
        if voting:
            said = pools["_said"][row].to_list()
            values["majority"][row, :ns] = majority_values(said, checks, ns)
    has = sizes[:, None] >= np.arange(1, most + 1)
    hashes, columns = pools["_h"].to_numpy(), []
    for way, of_prompts in values.items():
        low, high_end = poisson_bootstrap(hashes, of_prompts, has, resamples, level)
        means = of_prompts.sum(axis=0) / has.sum(axis=0)
        for name, numbers in ((way, means), (f"{way}_low", low), (f"{way}_high", high_end)):
            columns.append(pl.Series(name, numbers).fill_nan(None))
    frame = pl.DataFrame(columns)
    plain = (plain_zero(rounded(pl.col(name))).alias(name) for name in frame.columns)
    return frame.select(plain).get_columns()


@lru_cache(maxsize=256)
def _best_weights(m: int, k: int) -> Floats:
    return order_weights(m, k)[0]


def majority_values(said: Sequence[str | None], checks: Sequence[float], most: int) -> Floats:
    """The expected check of the answer that most of n rows come to, for n = 1 to `most`.

    Rows come in rank order, worst first. Of answers with as many rows among the n, that wins which
    has the best of all rows, as in `picks.agreeing`. A row without an answer does not vote; where
    none of n votes, their mean check counts. An answer's check is the mean of its rows'.

    >>> majority_values(["a", "a", "b"], [1.0, 1.0, 0.0], 3).round(3).tolist()
    [0.667, 0.333, 1.0]
    """
    rows: dict[str, list[int]] = {}
    silent = [row for row, answer in enumerate(said) if answer is None]
    for row, answer in enumerate(said):
        if answer is not None:
            rows.setdefault(answer, []).append(row)

    ordered = sorted(rows, key=lambda answer: -rows[answer][-1])
    worth = [float(np.mean([checks[row] for row in rows[answer]])) for answer in ordered]
    worth.append(float(np.mean([checks[row] for row in silent])) if silent else 0.0)
    chances = vote_chances(tuple(len(rows[answer]) for answer in ordered), len(silent), most)
    return np.asarray(chances @ np.array(worth))


@lru_cache(maxsize=4096)
def vote_chances(counts: tuple[int, ...], silent: int, most: int) -> Floats:
    """The chance of each answer to have most votes among n rows drawn from all, shape (n, answers
    + 1); the last column is that no row votes.

    counts  how many rows come to each answer; of equal numbers of votes the earlier answer wins
    silent  rows without an answer

    It is a coefficient of products of polynomials: an answer wins with j votes if those before it
    have fewer, and those after it at most j. Cost: answers x largest count x most squared.

    >>> vote_chances((1, 1), 1, 2).round(3).tolist()
    [[0.333, 0.333, 0.333], [0.667, 0.333, 0.0]]
    """
    rows = sum(counts) + silent
    # In units in which no coefficient overflows: x stands for that share of all rows.
    scale = np.log(most / max(rows, most))

    def ways(count: int, cap: int) -> Floats:
        """How many ways there are to have 0, 1, ... votes, at most `cap`."""
        return _binomials(count, min(count, cap, most), scale)

    def times(one: Floats, two: Floats) -> Floats:
        return np.convolve(one, two)[: most + 1]

    won = np.zeros((most + 1, len(counts) + 1))
    quiet = ways(silent, silent)
    won[: len(quiet), -1] = quiet
    for votes in range(1, min(max(counts, default=0), most) + 1):
        after = [np.ones(1)]
        for count in reversed(counts[1:]):
            after.append(times(after[-1], ways(count, votes)))
        before = quiet
        for place, count in enumerate(counts):
            if count >= votes:
                others = times(before, after[len(counts) - 1 - place])[: most + 1 - votes]
                own = ways(count, votes)[votes]
                won[votes : votes + len(others), place] += own * others
            before = times(before, ways(count, votes - 1))
    return np.asarray(won[1:] / _binomials(rows, most, scale)[1:, None])


def _binomials(count: int, most: int, scale: float) -> Floats:
    """Ways to choose 0, 1, ... `most` of `count`, each in units of exp(-scale) a choice."""
    logs = [
        lgamma(count + 1) - lgamma(i + 1) - lgamma(count - i + 1) + i * scale
        for i in range(most + 1)
    ]
    return np.asarray(np.exp(np.array(logs)))
