"""Tables in an object store: a run is one commit there too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import s3_serving
from s3_serving import S3, new_bucket

import prefmill as pm
from prefmill.readers import open_source

#: Delta holds Python's lock while it waits for a server, so this one has a process of its own.
SERVER = """
import sys
from s3_serving import s3_server
with s3_server() as port:
    print(port, flush=True)
    sys.stdin.read()
"""
CSV = "prompt,completion,score\np,a,5\np,b,1\nq,c,4\nq,d,2\n"


@pytest.fixture(scope="module")
def away() -> Iterator[int]:
    """The port of a server in another process."""
    home = Path(s3_serving.__file__).parent
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=home, text=True, **pipes) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


@pytest.fixture
def bucket(away: int, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket, to which the environment leads."""
    return new_bucket(away).lead_here(monkeypatch)


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.csv"
    path.write_text(CSV)
    return path


def pairs_in(address: str, folder: Path) -> list[tuple[object, ...]]:
    """The rows of a table, as prefmill reads it."""
    source = open_source([address], temp_dir=folder / "reading")
    rows = pl.read_parquet(source.files[0]).sort("prompt")
    return rows.select("prompt", "chosen", "chosen_score").rows()


@pytest.mark.parametrize("kind", ["delta", "lance"])
def test_a_table_in_a_bucket_is_made_merged_and_read(
    kind: str, bucket: S3, feedback: Path, tmp_path: Path
) -> None:
    address = f"{kind}:{bucket.url}/lake/pairs"
    assert pm.run(pm.Pairs(), feedback, address, pair_id=True).output == {"": address}
    assert "nothing was to do" in pm.run(pm.Pairs(), feedback, address, pair_id=True).notes[-1]
    late = tmp_path / "late.csv"
    late.write_text("prompt,completion,score\nq,c,5\nq,d,1\nr,e,5\nr,f,1\n")
    pm.run(pm.Pairs(), late, address, mode="merge")
    assert pairs_in(address, tmp_path) == [("p", "a", 5.0), ("q", "c", 5.0), ("r", "e", 5.0)]
    pm.run(pm.Pairs(), feedback, address, mode="replace")
    assert pairs_in(address, tmp_path) == [("p", "a", 5.0), ("q", "c", 4.0)]


def test_an_incremental_run_keeps_its_folder_here(
    bucket: S3, feedback: Path, tmp_path: Path
) -> None:
    address = f"delta:{bucket.url}/pairs"
    for rows in ("", "p,c,6\n", "r,e,5\nr,f,1\n"):
        feedback.write_text(feedback.read_text() + rows)
        pm.run(pm.Pairs(), feedback, address, incremental=True, work=tmp_path / "work")
    assert pairs_in(address, tmp_path) == [("p", "c", 6.0), ("q", "c", 4.0), ("r", "e", 5.0)]
