"""Picks from runs are the picks from groups."""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmill.engines.steps import RankPick
from prefmill.rules import picks
from prefmill.rules.together import Runs, in_order, picked, select

SCORES = st.sampled_from([-1.5, 0.0, 0.5, 0.5, 2.0])
POOLS = st.lists(st.lists(SCORES, min_size=1, max_size=6), max_size=6)


def runs_of(pools: list[list[float]]) -> tuple[Runs, pl.DataFrame]:
    keys = np.repeat(np.arange(len(pools)) * 3, [len(pool) for pool in pools])
    scores = np.array([score for pool in pools for score in pool], float)
    rows = np.arange(len(keys)) * 2
    frame = pl.DataFrame({"_grp": keys, "_pos": rows, "_score": scores})
    return Runs.of(keys, rows, scores), frame.with_columns(_reason=pl.lit(None, pl.String))


@given(POOLS, st.integers(1, 20), st.sampled_from(get_args(RankPick)))
def test_runs_give_the_picks_of_groups(pools: list[list[float]], k: int, pick: str) -> None:
    runs, frame = runs_of(pools)
    groups = picks.pools(frame.lazy(), k=k, pick=pick)
    expected = picks.picks(groups, k=k, pick=pick).sort("_first", "_rank").collect()
    names = ["_first", "_rank", "_pos", "_score"]
    assert picked(runs, k, pick).rows() == expected.select(names).rows()


@given(POOLS)
def test_scores_are_sorted_in_each_run(pools: list[list[float]]) -> None:
    runs, _ = runs_of(pools)
    assert in_order(runs).tolist() == [score for pool in pools for score in sorted(pool)]


@pytest.mark.parametrize("min_score", [None, 0.5, 9.0])
def test_the_account_is_that_of_groups(min_score: float | None) -> None:
    pools = [[0.0, 0.5], [0.0], [2.0, 0.5, 0.0]]
    _, frame = runs_of(pools)
    reasons = [None, None, None, "null_score", None, None]
    frame = frame.with_columns(
        _votes=pl.lit(1, pl.Int64), _reason=pl.Series(reasons), _id=pl.lit(None)
    )
    candidates = frame.filter(pl.col("_reason").is_null())
    groups = picks.pools(candidates.lazy(), k=1, min_score=min_score)
    chosen = picks.picks(groups, k=1)
    expected = picks.best_report(
        frame.lazy(), candidates.lazy(), groups, chosen, min_score=min_score
    )
    counted = frame.rename({"_score": "_value"})
    _, account = select(counted, k=1, pick="best", min_score=min_score)
    assert account == expected
