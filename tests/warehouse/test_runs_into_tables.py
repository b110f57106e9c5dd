"""Plans run into tables, from Python and from the command line."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import duckdb
import polars as pl
import pytest
from warehouses import address_in

import prefmill as pm
from prefmill.errors import BadArgument, RunDiffers, TargetExists
from prefmill.runs.into_table import NOTHING_TO_DO

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


def test_a_merge_makes_its_ids_itself(kind, feedback, tmp_path):
    address, late = address_in(kind, tmp_path), tmp_path / "late.csv"
    pm.run(pm.Pairs(), feedback, address, mode="merge")
    late.write_text("prompt,completion,score\nq,c,5\nq,d,1\nr,e,5\nr,f,1\n")
    for _ in range(2):
        report = pm.run(pm.Pairs(), late, address, mode="merge")
    assert "nothing was to do" in report.notes[-1]
    told = [row[:5] for row in pairs_in(address, tmp_path)]
    assert told == [
        ("p", "a", "b", 5.0, 1.0),
        ("q", "c", "d", 5.0, 1.0),
        ("r", "e", "f", 5.0, 1.0),
    ]


def test_a_table_without_ids_says_how_to_have_them(feedback, tmp_path):
    plain, named = (address_in("duckdb", tmp_path, name) for name in ("plain", "named"))
    pm.run(pm.Pairs(), feedback, plain)
    with pytest.raises(BadArgument, match="--mode replace --pair-id"):
        pm.run(pm.Pairs(), feedback, plain, mode="merge")
    pm.run(pm.Pairs(), feedback, named, pair_id=True)
    feedback.write_text(CSV + "r,e,5\nr,f,1\n")
    with pytest.raises(BadArgument, match="--pair-id adds that column"):
        pm.run(pm.Pairs(), feedback, named, mode="append")
    pm.run(pm.Pairs(), feedback, named, mode="append", pair_id=True)


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
    with pytest.raises(BadArgument, match="got 'upsert', expected 'create', 'append', 'merge' or"):
        pm.run(pm.Pairs(), feedback, address, mode="upsert")
    with pytest.raises(BadArgument, match="mode is for tables"):
        pm.run(pm.Pairs(), feedback, tmp_path / "x.parquet", mode="append")
    with pytest.raises(BadArgument, match="no kind of table is called 'detla'"):
        pm.run(pm.Pairs(), feedback, "detla:x")
    assert not list(tmp_path.glob("*.sqlite"))


def test_the_command_does_the_same(feedback, tmp_path):
    address = address_in("duckdb", tmp_path)
    command = [sys.executable, "-m", "prefmill", "pairs", str(feedback), "-o", address, "--json"]
    for told in ([], ["--mode", "append"]):
        done = subprocess.run([*command, *told], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["output"] == address
    assert "nothing was to do" in done.stderr


def test_a_run_that_its_table_holds_is_known_before_the_work(kind, feedback, tmp_path, monkeypatch):
    address = address_in(kind, tmp_path)
    first = pm.run(pm.Pairs(), feedback, address)

    def ranked(*_, **__):
        raise AssertionError("it was computed again")

    monkeypatch.setattr("prefmill.runs.run.opened", ranked)
    for mode in (None, "append", "replace"):
        again = pm.run(pm.Pairs(), feedback, address, mode=mode)
        assert again.notes == [*first.notes, NOTHING_TO_DO]
        assert (again.output, again.roles) == (first.output, first.roles)
        assert (again.pairs_out, again.dropped) == (first.pairs_out, first.dropped)
    others = [
        {"plan": pm.Pairs(min_margin=2)},
        {"inputs": [str(feedback), str(feedback)]},
        {"chat": True},
        {"roles": {"score": "-score"}},
        {"run_key": "monday"},
    ]
    for other in others:
        usual = {"plan": pm.Pairs(), "inputs": feedback, "output": address, "mode": "append"}
        with pytest.raises(AssertionError, match="computed again"):
            pm.run(**usual | other)
    os.utime(feedback, ns=(0, 0))
    with pytest.raises(AssertionError, match="computed again"):
        pm.run(pm.Pairs(), feedback, address)


def test_what_took_its_place_is_computed_again(kind, feedback, tmp_path):
    """After a merge or a replacement only the newest run is in the table."""
    address = address_in(kind, tmp_path)
    pm.run(pm.Pairs(), feedback, address)
    pm.run(pm.Pairs(min_margin=4), feedback, address, mode="replace")
    assert len(pairs_in(address, tmp_path)) == 1
    again = pm.run(pm.Pairs(), feedback, address, mode="replace")
    assert NOTHING_TO_DO not in again.notes
    assert len(pairs_in(address, tmp_path)) == 2


def test_a_table_as_input_has_a_version(kind, feedback, tmp_path):
    (tmp_path / "in").mkdir()
    address = address_in(kind, tmp_path / "in" if kind != "iceberg" else tmp_path, "feedback")
    plan = pm.BestOf()
    pm.run(plan, feedback, address)
    asked = {"plan": pm.Pairs(chosen_min=None, rejected_below=None), "inputs": address}
    output = tmp_path / "pairs.parquet"
    pm.run(**asked, output=output, allow_empty=True)
    again = pm.run(**asked, output=output, allow_empty=True)
    assert again.notes[-1] == "this run was done before: nothing was to do."
    feedback.write_text(CSV + "r,e,5\nr,f,1\n")
    pm.run(plan, feedback, address, mode="append")
    with pytest.raises(RunDiffers, match="another input"):
        pm.run(**asked, output=output, allow_empty=True)
    pm.run(**asked, output=output, allow_empty=True, overwrite=True)


def connected(address):
    """A connection to the database of an address, by its own library."""
    kind, _, rest = address.partition(":")
    file = rest.rpartition("#")[0]
    return duckdb.connect(file) if kind == "duckdb" else sqlite3.connect(file)


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"], indirect=True)
@pytest.mark.parametrize(
    "change",
    ["DELETE FROM pairs WHERE prompt = 'p'", "DROP TABLE pairs; CREATE TABLE pairs (a INT)"],
)
def test_what_others_took_from_a_database_comes_back(kind, change, feedback, tmp_path):
    address = address_in(kind, tmp_path)
    pm.run(pm.Pairs(), feedback, address)
    rows = pairs_in(address, tmp_path)
    with closing(connected(address)) as con:
        for each in change.split(";"):
            con.execute(each)
        con.commit()
    with pytest.raises(TargetExists):
        pm.run(pm.Pairs(), feedback, address)
    assert NOTHING_TO_DO not in pm.run(pm.Pairs(), feedback, address, mode="replace").notes
    assert pairs_in(address, tmp_path) == rows
    assert NOTHING_TO_DO in pm.run(pm.Pairs(), feedback, address, mode="replace").notes


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"], indirect=True)
def test_a_database_has_one_table_of_a_name_in_either_case(kind, feedback, tmp_path):
    address, other = address_in(kind, tmp_path), address_in(kind, tmp_path, "PAIRS")
    pm.run(pm.Pairs(), feedback, address)
    late = tmp_path / "late.csv"
    late.write_text("prompt,completion,score\nr,e,5\nr,f,1\n")
    with pytest.raises(TargetExists):
        pm.run(pm.Pairs(), late, other)
    for each in (other, address):
        pm.run(pm.Pairs(), late, each, mode="append")
    assert [row[0] for row in pairs_in(address, tmp_path)] == ["p", "q", "r"]


@pytest.mark.parametrize("mode", ["create", "append", "merge"])
def test_overwrite_beside_another_mode_is_refused(mode, tmp_path):
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    target = f"sqlite:{tmp_path}/a.db#pairs"
    pm.run(pm.Pairs(), rows, target)
    # It was ignored without a word: the rows were added.
    with pytest.raises(BadArgument, match="overwrite is the mode 'replace'"):
        pm.run(pm.Pairs(), rows, target, mode=mode, overwrite=True)
    assert pm.run(pm.Pairs(), rows, target, mode="replace", overwrite=True).pairs_out == 1
