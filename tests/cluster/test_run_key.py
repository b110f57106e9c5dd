"""What a run in tasks is told apart by: everything that decides its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from buckets import in_buckets

import prefmill as pm
from prefmill.errors import RunDiffers

NONE: dict[str, Any] = {"chosen_min": None, "rejected_below": None}
DONE = "this run was done before: nothing was to do."
TABLE = pl.DataFrame({"prompt": ["p", "p"], "completion": ["é", "b"], "score": [1, 5]})


def again(first: dict[str, Any], second: dict[str, Any], source: Any, target: Path) -> None:
    """The same call twice does nothing the second time; with other options it is refused."""
    in_buckets(pm.Pairs(**NONE), source, target, **first)
    assert in_buckets(pm.Pairs(**NONE), source, target, **first).notes[-1] == DONE
    with pytest.raises(RunDiffers):
        in_buckets(pm.Pairs(**NONE), source, target, **second)


def test_the_encoding(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(TABLE.write_csv().encode("latin-1"))
    options = [{"encoding": "latin-1"}, {"encoding": "mac_roman"}]
    again(*options, source, tmp_path / "out.parquet")


def test_a_file_that_is_joined(tmp_path: Path) -> None:
    records = pl.DataFrame({"id": [1, 1], "completion": ["a", "b"], "score": [1, 5]})
    records.write_parquet(tmp_path / "answers.parquet")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": 1, "prompt": "old"}\n')
    roles = {"prompt": "prompt", "join": [f"{questions}:id"]}
    target = tmp_path / "out.parquet"
    in_buckets(pm.Pairs(**NONE), tmp_path / "answers.parquet", target, roles=roles)
    questions.write_text('{"id": 1, "prompt": "another"}\n')
    with pytest.raises(RunDiffers):
        in_buckets(pm.Pairs(**NONE), tmp_path / "answers.parquet", target, roles=roles)


def test_a_table_in_memory(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    in_buckets(pm.Pairs(**NONE), TABLE, target)
    assert in_buckets(pm.Pairs(**NONE), TABLE.clone(), target).notes[-1] == DONE
    other = TABLE.with_columns(completion=pl.lit("x") + pl.col("completion"))
    with pytest.raises(RunDiffers):
        in_buckets(pm.Pairs(**NONE), other, target)


def test_a_file_that_changed(tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    TABLE.write_parquet(source)
    in_buckets(pm.Pairs(**NONE), source, target)
    TABLE.with_columns(score=pl.Series([5, 1])).write_parquet(source)
    with pytest.raises(RunDiffers):
        in_buckets(pm.Pairs(**NONE), source, target)
