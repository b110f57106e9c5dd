"""A small pool of candidates with stages."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from command import prefmill

POOL = pl.DataFrame(
    [
        ("p", "a", 1.0, 1, "m1"),
        ("p", "b", 3.0, 1, "m2"),
        ("q", "x", 2.0, 1, "m1"),
        ("p", "c", 2.0, 2, "m3"),
        ("q", "y", 2.5, 2, "m4"),
        ("p", "d", None, 2, "m5"),
    ],
    schema=["question", "answer", "reward", "round", "model"],
    orient="row",
)


@pytest.fixture
def pool(tmp_path) -> Path:
    POOL.write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def best(pool: Path, *args: object, out: str = "out.parquet") -> pl.DataFrame:
    done = prefmill("best", pool, "-o", pool.parent / out, "--overwrite", *args)
    assert done.returncode == 0, done.stderr
    return (
        pl.read_ndjson(pool.parent / out)
        if out.endswith("jsonl")
        else pl.read_parquet(pool.parent / out)
    )
