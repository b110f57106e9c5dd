"""Every column of several scores can be weighed by every plan, on files and on frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, ColumnMissing

NAMES = ["score_rm-v2", "score_org/rm", "score_rm v3", "score_a.b", "score_a[0]", "score_Ünï=1"]
WEIGHTS = {name: 0.5 + place for place, name in enumerate(NAMES)}


def scored() -> pl.DataFrame:
    numbers = {name: [float(place), 1.0, -float(place)] for place, name in enumerate(NAMES)}
    texts = {"prompt": ["p"] * 3, "completion": ["a", "b", "c"], "score": [1.0, 2.0, 3.0]}
    lists = {"score_steps": [[1.0], [2.0, 3.0], []], "score_reason": ["x", None, "y"]}
    return pl.DataFrame({**texts, **numbers, **lists})


def wanted() -> list[float]:
    rows = scored().select(NAMES).rows()
    return [sum(w * v for w, v in zip(WEIGHTS.values(), row, strict=True)) for row in rows]


@pytest.mark.parametrize("how", ["polars", "duckdb"])
def test_weights_of_odd_names(how: Any, tmp_path: Path) -> None:
    path = tmp_path / "scored.parquet"
    scored().write_parquet(path)
    plan = pm.BestOf(weights=WEIGHTS, k=3)
    pm.run(plan, path, tmp_path / "out.parquet", engine=how)
    out = pl.read_parquet(tmp_path / "out.parquet")
    best = [row for _, row in sorted(zip(wanted(), "abc", strict=True), reverse=True)]
    assert out.sort("rank")["completion"].to_list() == best
    advantage = pm.Advantage(weights=WEIGHTS, method="centered")
    pm.run(advantage, path, tmp_path / "a.parquet", engine=how)
    made = pl.read_parquet(tmp_path / "a.parquet")["advantage"].to_list()
    mean = sum(wanted()) / 3
    assert made == pytest.approx([each - mean for each in wanted()])


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("score_steps", BadArgument, "a list holds a score for each step or label"),
        ("score_a.c", ColumnMissing, "no column 'score_a.c'"),
        ("nothing", ColumnMissing, "no column 'nothing'"),
    ],
)
def test_columns_that_cannot_be_weighed(
    name: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "scored.parquet"
    scored().write_parquet(path)
    plan = pm.BestOf(weights={"score": 1.0, name: 1.0})
    with pytest.raises(error, match=says) as told:
        pm.run(plan, path, None)
    assert "--group" not in str(told.value)
    with pytest.raises(error, match=says):
        plan.lazy(scored()).collect()
