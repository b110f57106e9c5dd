"""A limit on memory is kept by fewer threads, and one that is too small says which to give."""

from __future__ import annotations

import re

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill import connection
from prefmill.errors import BadArgument, BadInput
from prefmill.runs.job import job


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    rows = 60_000
    frame = pl.DataFrame(
        {
            "prompt": [f"{i // 4} {'x' * 50}" for i in range(rows)],
            "completion": [f"{i}" for i in range(rows)],
        }
    )
    frame.with_columns(score=pl.int_range(rows) * 7919 % 5 + 1).write_parquet(path)
    return path


@pytest.mark.parametrize(("megabytes", "most"), [(500, 1), (512, 1), (700, 1), (800, 2), (2000, 7)])
def test_threads_have_room(megabytes, most, monkeypatch, tmp_path):
    monkeypatch.setattr(connection.os, "cpu_count", lambda: 64)
    share = connection.share_of(megabytes * 1_000_000)
    con = connection.connect(temp_dir=tmp_path, reads=(), memory_bytes=share)
    assert con.execute("SELECT current_setting('threads')").fetchall() == [(most,)]
    con = connection.connect(
        temp_dir=tmp_path, reads=(), memory_bytes=share, threads=3
    )  # who names a number has it
    assert con.execute("SELECT current_setting('threads')").fetchall() == [(3,)]


def test_a_limit_that_is_too_small_names_one_that_is_not(pool, tmp_path, monkeypatch):
    """The engine's share is made as small as a large input makes it; the limit of the hint then
    goes through.
    """
    real = connection.ranking_share_of
    monkeypatch.setattr(
        job, "ranking_share_of", lambda size: real(size) if size > 600_000_000 else 3_000_000
    )
    with pytest.raises(
        BadArgument, match="run: the memory limit is too small for this input; got 512 MB, of which"
    ) as raised:
        pm.run(pm.Pairs(), pool, tmp_path / "pairs.parquet", memory_bytes=512_000_000)
    assert list(tmp_path.iterdir()) == []
    hint = re.fullmatch(
        r"--memory-limit (\d+)MB \(memory_bytes=(\d+)\), or no limit\.", raised.value.hint or ""
    )
    assert hint is not None
    report = pm.run(pm.Pairs(), pool, tmp_path / "pairs.parquet", memory_bytes=int(hint[2]))
    assert report.pairs_out == pl.read_parquet(tmp_path / "pairs.parquet").height > 10_000


def _limit(con):
    ((limit,),) = con.execute("SELECT current_setting('memory_limit')").fetchall()
    return limit


@pytest.mark.parametrize(("rows", "expected"), [(10, "1.1 GiB"), (30_000_000, "2.7 GiB")])
def test_a_look_has_room_by_its_rows(rows, expected, tmp_path):
    con = connection.connect(temp_dir=tmp_path, reads=(), threads=2)
    there = float(_limit(con).split()[0])
    connection.room_by_rows(con, rows)
    assert _limit(con) == expected
    connection.room_by_rows(con, 10**12)
    assert float(_limit(con).split()[0]) == pytest.approx(there, rel=0.02)  # what the machine has


def test_a_full_temporary_folder_is_no_matter_of_the_limit():
    with (
        pytest.raises(BadInput, match="neither memory nor the temporary folder has room"),
        connection.memory_told("run", 1_000_000_000),
    ):
        raise duckdb.OutOfMemoryException(
            "Out of Memory Error: failed to offload data block (max_temp_directory_size)"
        )
