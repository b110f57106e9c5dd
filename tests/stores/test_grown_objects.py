"""A grown input whose output is an object, and a folder of a data set: new rows only."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from echo import Echo, prompts
from s3_serving import S3
from scored import length, pool

import prefmill as pm


@pytest.mark.parametrize("name", ["out/x.parquet", "out/set/"])
@pytest.mark.parametrize("remote", [True, False])
def test_new_rows_alone_are_scored(s3: S3, tmp_path: Path, name: str, *, remote: bool) -> None:
    rows: list[int] = []

    def scorer(batch: object) -> list[float]:
        scores = length(batch)
        rows.append(len(scores))
        return scores

    scorer.fingerprint, scorer.compares, scorer.reads = "length", False, ()
    before, more = pool(), pool(5, seed=5)
    after = pl.concat([before, more])
    output = f"{s3.url}/{name}" if remote else str(tmp_path / name)
    (tmp_path / "out").mkdir()
    pm.score(before, output, scorer=scorer)
    rows.clear()
    report = pm.score(after, output, scorer=scorer)
    assert (report.rows_before, report.rows_new) == (before.height, more.height)
    assert sum(rows) == more.height
    rows.clear()
    assert pm.score(after, output, scorer=scorer).rows_before == before.height
    assert not rows


def test_new_prompts_alone_are_sampled(s3: S3, tmp_path: Path) -> None:
    after, output = prompts(20), f"{s3.url}/out/pool.parquet"
    pm.sample(after[:15], output, sampler=Echo(), n=2)
    sampler = Echo()
    report = pm.sample(after, output, sampler=sampler, n=2)
    assert (report.prompts_before, report.prompts_new, len(sampler.seen)) == (15, 5, 10)
    whole = tmp_path / "whole.parquet"
    pm.sample(after, whole, sampler=Echo(), n=2)
    assert s3.get("out/pool.parquet") == whole.read_bytes()
