"""What a run may keep in its temporary folder: spill and staged files have a cap."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest
from command import prefmill

import prefmill as pm
from prefmill import connection
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument
from prefmill.room import room_of
from prefmill.runs.job import gathering

ROWS = 60_000


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    numbers = pl.int_range(ROWS, eager=True)
    pl.DataFrame(
        {
            "prompt": "p" + (numbers // 4).cast(pl.String),
            "completion": pl.select(
                pl.concat_str([numbers.hash(seed).cast(pl.String) for seed in range(8)])
            ).to_series(),
            "score": numbers * 7919 % 5 + 1,
        }
    ).write_parquet(path)
    return path


def test_duckdb_is_told_after_it_connected(tmp_path):
    """Given to `connect` it is ignored, so it is read back."""
    with temporary(tmp_path, 5_000_000) as home, connection.connect(temp_dir=home, reads=()) as con:
        setting = "SELECT current_setting('max_temp_directory_size')"
        assert con.execute(setting).fetchall() == [("4.7 MiB",)]
        con.execute("SET memory_limit = '20MB'")
        texts = "SELECT repeat(hash(range)::VARCHAR, 40) AS text FROM range(200000)"
        with pytest.raises(duckdb.OutOfMemoryException, match="max_temp_directory_size"):
            con.execute(f"CREATE TABLE t AS {texts}")
    assert room_of(home) is None


@pytest.mark.parametrize("size", [1_000_000, 100_000_000])
def test_texts_that_are_spilled_count(size, feedback, tmp_path, monkeypatch):
    """Parts are made small, so that the texts of the output go by way of the spill file."""
    monkeypatch.setattr(gathering, "_PART_BYTES", 1 << 20)
    scratch, target = tmp_path / "scratch", tmp_path / "pairs.parquet"
    scratch.mkdir()

    def run():
        return pm.run(pm.Pairs(), feedback, target, temp_dir=scratch, temp_bytes=size)

    if size < 10_000_000:
        with pytest.raises(BadArgument) as raised:
            run()
        assert str(scratch) in raised.value.message
        assert "at most 1 MB" in raised.value.message
        assert "--temp-limit 2MB" in (raised.value.hint or "")
        assert not target.exists()
    else:
        assert run().pairs_out > 10_000
    assert list(scratch.iterdir()) == []


def test_staged_files_count(feedback, tmp_path):
    source, scratch = tmp_path / "rows.jsonl", tmp_path / "scratch"
    scratch.mkdir()
    pl.read_parquet(feedback).write_ndjson(source)
    command = ["pairs", source, "-o", tmp_path / "out.parquet", "--temp-dir", scratch]
    done = prefmill(*command, "--temp-limit", "1MB")
    assert done.returncode == 2, done.stderr
    assert "temporary folder" in done.stderr
    assert list(scratch.iterdir()) == []
    done = prefmill(*command, "--temp-limit", "100MB")
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("size", ["much", "1e999GB"])
def test_a_size_that_is_none_is_refused(size, feedback, tmp_path):
    done = prefmill("pairs", feedback, "-o", tmp_path / "x.csv", "--temp-limit", size)
    assert done.returncode == 2
    assert f"--temp-limit: not a size; got '{size}'" in done.stderr
