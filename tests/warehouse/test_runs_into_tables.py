"""Plans run into tables, from Python and from the command line."""

import json
import subprocess
import sys

import polars as pl
import pytest
from warehouses import address_in

import prefmill as pm
from prefmill.errors import BadArgument, RunDiffers, TargetExists

CSV = "prompt,completion,score\np,a,5\np,b,1\nq,c,4\nq,d,2\n"


@pytest.fixture
def feedback(tmp_path):
    path = tmp_path / "feedback.csv"
    path.write_text(CSV)
    return path


def pairs_in(address, folder):
    """The rows of a table, as prefmill reads it."""
    from prefmill.readers import open_source

    source = open_source([address], temp_dir=folder / "reading")
    return pl.read_parquet(source.files[0]).sort("prompt", "chosen").rows()


def test_a_run_is_in_its_table_once(kind, feedback, tmp_path):
    address = address_in(kind, tmp_path)
    first = pm.run(pm.Pairs(), feedback, address)
    assert first.output == {"": address}
    for mode in (None, "append", "replace"):
        again = pm.run(pm.Pairs(), feedback, address, mode=mode)
        assert "nothing was to do" in again.notes[-1]
        assert again.pairs_out == first.pairs_out == 2
    assert pairs_in(address, tmp_path) == [("p", "a", "b", 5.0, 1.0), ("q", "c", "d", 4.0, 2.0)]


def test_equal_rows_of_other_files_are_another_run(kind, feedback, tmp_path):
    address = address_in(kind, tmp_path)
    pm.run(pm.Pairs(), feedback, address)
    tuesday = feedback.with_name("tuesday.csv")
    tuesday.write_text(CSV)
    for _ in range(2):
        pm.run(pm.Pairs(), tuesday, address, mode="append")
    assert len(pairs_in(address, tmp_path)) == 4


def test_the_rows_are_those_of_a_file(kind, feedback, tmp_path):
    address = address_in(kind, tmp_path)
    how = {"chat": True, "margin_scale": 0.5}
    pm.run(pm.Pairs(), feedback, address, **how)
    pm.run(pm.Pairs(), feedback, tmp_path / "pairs.parquet", **how)
    of_file = pl.read_parquet(tmp_path / "pairs.parquet").sort("prompt", "chosen")
    assert pairs_in(address, tmp_path) == of_file.rows()


def test_late_rows_are_appended_or_refused(kind, feedback, tmp_path):
    address = address_in(kind, tmp_path)
    pm.run(pm.Pairs(), feedback, address, run_key="monday")
    late = tmp_path / "late.csv"
    late.write_text("prompt,completion,score\nr,e,5\nr,f,1\n")
    with pytest.raises(TargetExists):
        pm.run(pm.Pairs(), late, address, run_key="tuesday")
    with pytest.raises(RunDiffers):
        pm.run(pm.Pairs(), late, address, run_key="monday", mode="append")
    pm.run(pm.Pairs(), late, address, run_key="tuesday", mode="append")
    assert [row[0] for row in pairs_in(address, tmp_path)] == ["p", "q", "r"]
    pm.run(pm.Pairs(), late, address, overwrite=True)
    assert [row[0] for row in pairs_in(address, tmp_path)] == ["r"]


def test_nothing_comes_of_a_run_without_pairs(kind, tmp_path):
    path = tmp_path / "feedback.csv"
    path.write_text("prompt,completion,score\np,a,5\n")
    address = address_in(kind, tmp_path)
    assert not pm.run(pm.Pairs(), path, address).output
    assert pm.run(pm.Pairs(), path, address, allow_empty=True).output
    assert pairs_in(address, tmp_path) == []


def test_what_tables_cannot_do_is_refused(feedback, tmp_path):
    address = address_in("sqlite", tmp_path)
    with pytest.raises(BadArgument, match="splits go to files"):
        pm.run(pm.Pairs(), feedback, address, split={"train": 0.5, "test": 0.5})
    with pytest.raises(BadArgument, match="expected one of"):
        pm.run(pm.Pairs(), feedback, address, mode="upsert")
    with pytest.raises(BadArgument, match="mode is for tables"):
        pm.run(pm.Pairs(), feedback, tmp_path / "x.parquet", mode="append")
    with pytest.raises(BadArgument, match="no kind of table is called 'detla'"):
        pm.run(pm.Pairs(), feedback, "detla:x")
    with pytest.raises(BadArgument, match="Postgres are not") as error:
        pm.run(pm.Pairs(), feedback, "postgresql://me:secret@h/d#t")
    assert "secret" not in str(error.value)
    assert not list(tmp_path.glob("*.sqlite"))


def test_the_command_does_the_same(feedback, tmp_path):
    address = address_in("duckdb", tmp_path)
    command = [sys.executable, "-m", "prefmill", "pairs", str(feedback), "-o", address, "--json"]
    for told in ([], ["--mode", "append"]):
        done = subprocess.run([*command, *told], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["output"] == address
    assert "nothing was to do" in done.stderr
