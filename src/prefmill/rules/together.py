"""Best-of-K where the candidates of a prompt stand together: runs of one column, and no hash table.

    judgements, in order of position ──candidates──▶ runs ──picked──▶ picks
                                                      └──in_order──▶ scores of each run, sorted

Over runs these give what `picks.pools`, `picks.picks` and `picks.best_report` give over groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.table.report import PairReport

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
#: Up to so many are found one after another: a pass of each costs a thirtieth of sorting.
_PASSES = 16


@dataclass(frozen=True)
class Runs:
    """Candidates in order of position, those of a prompt one after another.

    positions, scores  shape (candidates,)
    starts, sizes      where each run begins, and how many it has, shape (runs,)
    """

    positions: Longs
    scores: Floats
    starts: Longs
    sizes: Longs

    @classmethod
    def of(cls, keys: Longs, positions: Longs, scores: Floats) -> Runs:
        """Equal `keys` are one run."""
        starts = starts_of(keys)
        return cls(positions, scores, starts, np.diff(starts, append=len(keys)))


def starts_of(keys: npt.NDArray[Any]) -> Longs:
    """Where runs of equal keys begin, shape (runs,)."""
    if not len(keys):
        return np.zeros(0, np.int64)
    return np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)


def picked(runs: Runs, k: int, pick: str) -> pl.DataFrame:
    """The picks of each run: _first (position of the run's first row), _rank (1: the best), _pos,
    _score; by run and rank.

    >>> keys, rows = np.array([7, 7, 7, 9]), np.arange(4)
    >>> picked(Runs.of(keys, rows, np.array([1.0, 3.0, 3.0, 2.0])), 2, "best")["_pos"].to_list()
    [2, 1, 3]
    """
    if pick != "median" and k <= _PASSES:
        rows, rank = _one_by_one(runs, k, worst=pick == "worst")
    else:
        rows, rank = _sorted(runs, k, pick)
    there = rows >= 0
    first = np.broadcast_to(runs.positions[runs.starts][:, None], rows.shape)
    at = rows[there]
    columns = {
        "_first": first[there],
        "_rank": rank[there],
        "_pos": runs.positions[at],
        "_score": runs.scores[at],
    }
    return pl.DataFrame(columns)


def _one_by_one(runs: Runs, k: int, *, worst: bool) -> tuple[Longs, Longs]:
    """Rows of the picks by rank, shape (runs, k), -1 where a run has no more; and their ranks."""
    k = min(k, int(runs.sizes.max(initial=0)))
    rows = np.full((len(runs.starts), k), -1)
    left = -runs.scores if worst else runs.scores.copy()
    for number in range(k):
        top = np.maximum.reduceat(left, runs.starts)
        hit = np.flatnonzero(left == np.repeat(top, runs.sizes))
        if number:  # what is taken is -inf
            hit = hit[left[hit] > -np.inf]
        of = np.searchsorted(runs.starts, hit, "right") - 1
        # Of equal scores the later row is the better one.
        ends = of[1:] != of[:-1]
        one = np.append(True, ends) if worst else np.append(ends, True)
        hit, of = hit[one[: len(hit)]], of[one[: len(hit)]]
        rows[of, number] = hit
        left[hit] = -np.inf
    if not worst:
        return rows, np.broadcast_to(np.arange(1, k + 1), rows.shape)
    rows = rows[:, ::-1]
    return rows, runs.sizes[:, None] - np.arange(k)[::-1]


def _sorted(runs: Runs, k: int, pick: str) -> tuple[Longs, Longs]:
    """As `_one_by_one`, for any pick."""
    run = np.repeat(np.arange(len(runs.starts)), runs.sizes)
    # Stable: of equal scores the later row is the better one.
    order = np.lexsort((runs.scores, run))
    spare = np.maximum(runs.sizes - k, 0)
    start = {"best": spare, "worst": np.zeros_like(spare), "median": spare // 2}[pick]
    count = np.minimum(runs.sizes, k)
    most = int(count.max(initial=0))
    up = start[:, None] + count[:, None] - 1 - np.arange(most)  # from the best of them down
    there = np.arange(most) < count[:, None]
    rows = order[np.where(there, runs.starts[:, None] + up, 0)] if len(order) else up
    return np.where(there, rows, -1), runs.sizes[:, None] - up


def in_order(runs: Runs) -> Floats:
    """The scores, ascending in each run; shape (candidates,)."""
    scores = runs.scores.copy()
    for size in np.unique(runs.sizes):
        rows = runs.starts[runs.sizes == size][:, None] + np.arange(size)
        scores[rows] = np.sort(runs.scores[rows], axis=1)
    return scores


def standing(counted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows of `counted` that are candidates, and how many are not, by reason."""
    if counted["_reason"].null_count() == counted.height:
        return counted, {}
    reasons = dict(counted["_reason"].drop_nulls().value_counts().iter_rows())
    return counted.filter(pl.col("_reason").is_null()), reasons


def pools(counted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The scores of each run, sorted (_scores), and where the run begins (_first); and how many
    rows are no candidates, by reason. `counted` is as `select` takes it.

    >>> rows = {"_grp": [0, 0, 1], "_pos": [5, 6, 7], "_value": [2.0, 1.0, 3.0]}
    >>> counted = pl.DataFrame(rows).with_columns(_reason=pl.lit(None, pl.String))
    >>> pools(counted)[0].rows()
    [(5, [1.0, 2.0]), (7, [3.0])]
    """
    rows, reasons = standing(counted)
    runs = Runs.of(*(rows[name].to_numpy() for name in ("_grp", "_pos", "_value")))
    number = np.repeat(np.arange(len(runs.starts)), runs.sizes)
    scores = pl.DataFrame({"run": number, "_scores": in_order(runs)})
    # Runs are in order, so nothing is hashed.
    lists = scores.with_columns(pl.col("run").set_sorted()).group_by("run", maintain_order=True)
    first = pl.Series("_first", runs.positions[runs.starts], pl.Int64)
    return pl.DataFrame([first, lists.agg("_scores")["_scores"]]), reasons


def select(
    counted: pl.DataFrame, *, k: int, pick: str, min_score: float | None
) -> tuple[pl.DataFrame, PairReport]:
    """The picks of `counted`, and the account of its rows.

    It has _grp (whole numbers, equal ones together), _pos, _value and _reason, by position.
    """
    candidates, reasons = standing(counted)
    keys, positions, scores = (candidates[name].to_numpy() for name in ("_grp", "_pos", "_value"))
    groups = len(starts_of(keys))
    if min_score is not None and (low := scores < min_score).any():
        reasons["below_min_score"] = int(low.sum())
        keys, positions, scores = keys[~low], positions[~low], scores[~low]
    runs = Runs.of(keys, positions, scores)
    picks = picked(runs, k, pick)
    account = PairReport(
        rows_in=counted.height,
        rows_used=picks.height,
        rows_not_selected=len(keys) - picks.height,
        dropped=dict(sorted(reasons.items())),
        groups_in=groups,
        groups_used=len(runs.starts),
        pairs_out=picks.height,
    )
    return picks, account
