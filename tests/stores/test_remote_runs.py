"""`score` and `sample` with an object as output: killed anywhere, they go on where they were."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from s3_serving import S3, SECRET, without_others

import prefmill as pm
from prefmill.disk.ledger import Ledger, key_of, key_of_finished
from prefmill.disk.targets import target_of
from prefmill.errors import BadArgument, RunBusy, RunDiffers, TargetExists
from prefmill.runs.cluster import spread
from prefmill.runs.cluster.executor import Inline

RUN = """
import os, sys, time
import prefmill as pm
source, output, log, slow = sys.argv[1:]
def score(batch):
    with open(log, "a") as file:
        file.write(f"{batch.num_rows}\\n")
    time.sleep(float(slow))
    return [float(len(text)) for text in batch["completion"].to_pylist()]
score.fingerprint = "length"
report = pm.score(source, output, scorer=score, score_column="s", chunk_rows=40)
print("done", report.chunks, report.chunks_resumed)
"""


def run(s3: S3, *words: str, wait: bool = True) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *words],
        env={**without_others(), **s3.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not wait:
        return process
    out, errors = process.communicate(timeout=120)
    return out, errors


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    pl.DataFrame(
        {
            "prompt": [f"question {n // 4}" for n in range(400)],
            "completion": ["a" * (n % 17) for n in range(400)],
        }
    ).write_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_killed_and_run_again(s3: S3, rows: Path, tmp_path: Path) -> None:
    log, local = tmp_path / "log", tmp_path / "local.parquet"
    s3.put("rows.parquet", rows.read_bytes())
    assert "done" in run(s3, str(rows), str(local), str(log), "0")[0]
    chunks = len(log.read_text().split())
    log.unlink()
    words = (f"{s3.url}/rows.parquet", f"{s3.url}/out/x.parquet", str(log))
    process = run(s3, *words, "0.4", wait=False)
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            if len([key for key in s3.keys("out/") if key.endswith(".arrow")]) >= 3:
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    there = [key for key in s3.keys("out/") if key.endswith(".arrow")]
    assert 3 <= len(there) < chunks
    assert "out/x.parquet" not in s3.keys("")
    out, errors = run(s3, *words, "0")
    assert f"done {chunks} {len(there)}" in out, errors
    assert pl.read_parquet(io.BytesIO(s3.get("out/x.parquet"))).equals(pl.read_parquet(local))
    # The same once more: there is nothing to do.
    calls = len(log.read_text().split())
    out, errors = run(s3, *words, "0")
    assert f"done {chunks} {chunks}" in out, errors
    assert len(log.read_text().split()) == calls
    own = [f"out/.x.parquet.prefmill/{name}.json" for name in ("ledger", "manifest")]
    assert s3.keys("out/") == [*own, "out/x.parquet"]
    for name in own:
        assert SECRET not in s3.get(name).decode()


def length(batch: pa.RecordBatch) -> list[float]:
    return [float(len(text)) for text in batch["completion"].to_pylist()]


@pytest.mark.parametrize("name", ["x.jsonl", "set/"])
def test_scores_are_those_of_a_local_run(s3: S3, rows: Path, tmp_path: Path, name: str) -> None:
    options: Any = {"scorer": length, "score_column": "s", "chunk_rows": 40}
    pm.score(rows, tmp_path / "out" / name.rstrip("/"), **options)
    first = pm.score(rows, f"{s3.url}/out/{name}", **options)
    assert first.output.rstrip("/") == f"{s3.url}/out/{name}".rstrip("/")
    for key in s3.keys(f"out/{name}"):
        assert s3.get(key) == (tmp_path / key).read_bytes()
    again = pm.score(rows, f"{s3.url}/out/{name}", **options)
    assert again.chunks_resumed == again.chunks == first.chunks
    with pytest.raises(RunDiffers):
        pm.score(rows, f"{s3.url}/out/{name}", **{**options, "score_column": "t"})
    pm.score(rows, f"{s3.url}/out/{name}", **{**options, "score_column": "t"}, overwrite=True)


def test_chunks_that_a_killed_run_left_beside_its_output_are_removed(s3: S3, rows: Path) -> None:
    """Killed between the word that it is done and the end of its chunks; nothing else goes."""
    options: Any = {"scorer": length, "score_column": "s", "chunk_rows": 40}
    pm.score(rows, f"{s3.url}/out/x.parquet", **options)
    before = {key: s3.get(key) for key in s3.keys("")}
    s3.put("out/.x.parquet.prefmill/000003.arrow", b"half")
    again = pm.score(rows, f"{s3.url}/out/x.parquet", **options)
    assert "nothing was to do" in again.notes[-1]
    assert {key: s3.get(key) for key in s3.keys("")} == before


def chunk(rows: int) -> dict[str, pa.Array]:
    return {"s": pa.array(np.arange(rows, dtype=np.float64))}


def test_a_ledger_of_objects(s3: S3) -> None:
    output = target_of(f"{s3.url}/x.parquet", "score")
    sizes = np.array([5, 7, 3])
    with Ledger(output, {"a": 1}, {"b": 2}) as ledger:
        with pytest.raises(RunBusy, match=f"'{s3.url}/x.parquet'"):
            Ledger(output, {"a": 1}, {})
        ledger.write(1, chunk(7), {"tokens": 9})
        assert ledger.missing(sizes) == [0, 2]
        assert ledger.missing(np.array([5, 8, 3])) == [0, 1, 2]
    with pytest.raises(RunDiffers, match="another a"):
        Ledger(output, {"a": 2}, {})
    with Ledger(output, {"a": 1}, {"b": 3}) as ledger:
        assert ledger.resumed
        assert ledger.shape == {"b": 2}
        ledger.write(0, chunk(5), {})
        ledger.write(2, chunk(3), {})
        assert [batch.num_rows for batch, _ in ledger.chunks(sizes)] == [5, 7, 3]
        assert ledger.missing(sizes) == []
        ledger.publishing()
        s3.put("x.parquet", b"output")
        ledger.finish({"rows": 15})
    assert key_of(output) == key_of_finished(output) == {"a": 1}
    with Ledger(output, {"a": 1}, {}) as ledger:
        assert ledger.done
        assert ledger.counts == {"rows": 15}
    s3.put("x.parquet", b"other!")
    assert key_of_finished(output) == {}
    with pytest.raises(TargetExists):
        Ledger(output, {"a": 1}, {})


def test_killed_between_the_output_and_the_word(s3: S3) -> None:
    output = target_of(f"{s3.url}/x.parquet", "score")
    with Ledger(output, {"a": 1}, {}) as ledger:
        ledger.write(0, chunk(5), {})
        ledger.publishing()
        s3.put("x.parquet", b"output")
    with Ledger(output, {"a": 1}, {}) as ledger:
        assert ledger.replaces
        assert not ledger.done


def test_a_lost_lease_commits_nothing(s3: S3) -> None:
    output = target_of(f"{s3.url}/x.parquet", "score")
    with Ledger(output, {"a": 1}, {}) as ledger:
        other = {"owner": "somebody", "at": time.time()}
        ledger.store.put_text("run.lease", json.dumps(other))
        ledger._lock._renew()
        with pytest.raises(RunBusy):
            ledger.write(0, chunk(5), {})
    assert [key for key in s3.keys("") if key.endswith(".arrow")] == []


@pytest.mark.parametrize("split", [None, {"train": 0.8, "test": 0.2}])
def test_a_plan_in_tasks(s3: S3, tmp_path: Path, split: Any) -> None:
    rows = pl.DataFrame(
        {
            "prompt": [f"question {n // 4}" for n in range(4000)],
            "completion": [f"answer {n}" for n in range(4000)],
            "score": [float(n * 7 % 10) for n in range(4000)],
        }
    )
    rows.write_parquet(tmp_path / "in.parquet")
    s3.put("in.parquet", (tmp_path / "in.parquet").read_bytes())
    plan = pm.Pairs(strategy="all")
    pm.run(plan, tmp_path / "in.parquet", tmp_path / "x.parquet", split=split)
    words = (plan, f"{s3.url}/in.parquet", f"{s3.url}/out/x.parquet")
    report = spread.run(*words, split=split, executor=Inline())
    assert report.pairs_out == 3600
    for name in report.output.values():
        name = name.removeprefix(f"{s3.url}/out/")
        made = pl.read_parquet(io.BytesIO(s3.get(f"out/{name}")))
        assert made.equals(pl.read_parquet(tmp_path / name))
    again = spread.run(*words, split=split, executor=Inline())
    assert "done before" in again.notes[-1]
    # Another object of that name, with as many rows, is another input.
    rows.with_columns(pl.col("score") + 1).write_parquet(tmp_path / "in.parquet")
    s3.put("in.parquet", (tmp_path / "in.parquet").read_bytes())
    with pytest.raises(RunDiffers, match="another input"):
        spread.run(*words, split=split, executor=Inline())


def test_workers_elsewhere_need_a_folder(s3: S3, rows: Path) -> None:
    """Where files are converted first; others are read where they lie."""
    table = rows.with_suffix(".jsonl")
    scored = pl.read_parquet(rows).with_columns(score=pl.int_range(pl.len()) % 5)
    scored.write_ndjson(table)
    with pytest.raises(BadArgument, match=r"converted first.*\n.*--work"):
        spread.run(pm.Pairs(), table, f"{s3.url}/x.parquet", address="ray://nowhere:1")
    assert not Path("s3:").exists()
