"""Curve and check, whose prompts are brought together in buckets: what one machine says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline
from prefmill.runs.looks.check import check

ROWS = 2000
PLACE = {"executor": Inline(), "cut": Cut(500, 3, 4000, 60)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)

    def drawn(values: list) -> list:
        return [values[place] for place in rng.integers(0, len(values), ROWS)]

    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    columns = {
        "prompt": [f"p{number}" for number in rng.integers(0, ROWS // 6, ROWS)],
        "completion": [f"answer {number}" for number in rng.integers(0, 99, ROWS)],
        "score": [float(s) if s > -1 else None for s in rng.normal(0, 1, ROWS)],
        "temperature": drawn(["low", "high", None]),
        "right": drawn([0.0, 1.0, None]),
        "said": drawn(["x", "y", "z", ""]),
    }
    pl.DataFrame(columns).write_parquet(path, row_group_size=300)
    return path


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"resamples": 0},
        {"by": "temperature"},
        {"check": "right"},
        {"by": "temperature", "check": "right", "conclusion": "said"},
    ],
    ids=["plain", "without intervals", "by", "check", "majority"],
)
def test_curves(pool: Path, asked: dict) -> None:
    one = pm.curve(pool, **asked)
    many = pm.curve(pool, engine="ray", **PLACE, **asked)
    assert many.points.equals(one.points)
    assert many.as_json() == one.as_json()


@pytest.mark.parametrize(
    "plan",
    [
        None,
        pm.Pairs(strategy="all", chosen_min=None, rejected_below=None),
        pm.Pairs(chosen_min=9, rejected_below=0),
        pm.Pairs(aggregate="mean", chosen_quantile=0.7, rejected_quantile=0.3),
    ],
    ids=["default", "all", "nothing", "quantiles"],
)
def test_checks(pool: Path, plan: pm.Pairs | None) -> None:
    assert check(pool, plan=plan, engine="ray", **PLACE) == check(pool, plan=plan)


def test_a_place_without_a_cluster(pool: Path) -> None:
    with pytest.raises(BadArgument, match="address is for clusters"):
        pm.curve(pool, address="10.0.0.1:6379")
    with pytest.raises(BadArgument, match="no engine 'spark'"):
        check(pool, engine="spark")
