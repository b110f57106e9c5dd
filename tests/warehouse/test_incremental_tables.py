"""Incremental runs into tables: what changed, in one commit, equal to a full run."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pytest
from warehouses import address_in

import prefmill as pm
from prefmill.errors import BadArgument, RunDiffers, TargetExists
from prefmill.readers import open_source
from prefmill.runs.incremental import mirror
from prefmill.runs.incremental import work as incremental
from prefmill.warehouse.address import Address
from prefmill.warehouse.tables import opened

PLAN = pm.Pairs(strategy="best_rest", chosen_min=None, rejected_below=None)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs have several parts, and no change is too large to be one."""
    monkeypatch.setattr(incremental, "PART_ROWS", 5)
    monkeypatch.setattr(incremental, "MOST", 2.0)


class Feedback:
    """Files of answers, changed at random by a seed."""

    def __init__(self, home: Path, seed: str) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.rows: dict[tuple[str, str], int] = {}
        home.mkdir()
        self.change(40)

    def change(self, count: int) -> None:
        chance = self.chance
        for _ in range(count):
            key = f"p{chance.randrange(12)}", chance.choice("abcdé")
            if chance.random() < 0.2:
                self.rows.pop(key, None)
            else:
                self.rows[key] = chance.randrange(1, 6)
        lines = [f"{prompt},{answer},{score}" for (prompt, answer), score in self.rows.items()]
        for number in range(3):
            text = "\n".join(["prompt,completion,score", *lines[number::3]])
            (self.home / f"{number}.csv").write_text(f"{text}\n")


def rows_of(address: str, folder: Path) -> pl.DataFrame:
    """The rows of a table, in an order of their own."""
    source = open_source([address], temp_dir=folder / "reading")
    return pl.read_parquet(source.files[0]).sort("pair_id")


def full(feedback: Feedback, folder: Path) -> pl.DataFrame:
    """What a run over everything gives."""
    out = folder / "full.parquet"
    pm.run(PLAN, feedback.home, out, pair_id=True, overwrite=True)
    return pl.read_parquet(out).sort("pair_id")


def run_into(kind: str, feedback: Feedback, folder: Path, **how: object) -> pm.RunReport:
    address = address_in(kind, folder)
    if kind in ("iceberg", "postgres"):
        how.setdefault("work", folder / "work")
    return pm.run(PLAN, feedback.home, address, incremental=True, **how)


def modes_of(kind: str, folder: Path) -> list[str]:
    """How the runs of a table came in, the first one first."""
    with opened(Address.of(address_in(kind, folder))) as table:
        return [run.facts["mode"] for run in table.runs()][::-1]


def test_a_table_has_the_rows_of_a_full_run(kind: str, tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", kind)
    for count in (0, 6):
        feedback.change(count)
        report = run_into(kind, feedback, tmp_path)
        assert report.output == {"": address_in(kind, tmp_path)}
        expected = full(feedback, tmp_path)
        there = rows_of(address_in(kind, tmp_path), tmp_path).select(expected.columns)
        assert there.equals(expected)
    again = run_into(kind, feedback, tmp_path)
    assert "nothing was to do" in again.notes[-1]
    assert again.pairs_out == report.pairs_out
    assert modes_of(kind, tmp_path) == ["create", "merge"]


@pytest.mark.parametrize("kind", ["delta", "sqlite"], indirect=True)
def test_a_run_that_died_before_its_commit_comes_in_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feedback = Feedback(tmp_path / "in", kind)
    run_into(kind, feedback, tmp_path)

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    for _ in range(2):
        feedback.change(4)
        with monkeypatch.context() as dying:
            dying.setattr(mirror, "publish_changes", die)
            with pytest.raises(KeyboardInterrupt):
                run_into(kind, feedback, tmp_path)
    run_into(kind, feedback, tmp_path)
    expected = full(feedback, tmp_path)
    assert rows_of(address_in(kind, tmp_path), tmp_path).select(expected.columns).equals(expected)
    assert modes_of(kind, tmp_path)[-1] == "replace"


def test_a_lost_folder_costs_time_only(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "lost")
    run_into("delta", feedback, tmp_path)
    shutil.rmtree(tmp_path / ".pairs.incremental")
    feedback.change(5)
    run_into("delta", feedback, tmp_path)
    assert rows_of(address_in("delta", tmp_path), tmp_path).equals(full(feedback, tmp_path))


@pytest.mark.parametrize("kind", ["lance", "duckdb"], indirect=True)
def test_a_table_of_others_is_left_alone(kind: str, tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", kind)
    address = address_in(kind, tmp_path)
    pm.run(PLAN, feedback.home, address, pair_id=True)
    with pytest.raises(TargetExists, match="not from incremental runs of this plan"):
        run_into(kind, feedback, tmp_path)
    run_into(kind, feedback, tmp_path, overwrite=True)
    (tmp_path / "other.csv").write_text("prompt,completion,score\nr,e,5\nr,f,1\n")
    pm.run(PLAN, tmp_path / "other.csv", address, mode="append", pair_id=True)
    feedback.change(3)
    with pytest.raises(TargetExists, match="not from incremental runs of this plan"):
        run_into(kind, feedback, tmp_path)
    run_into(kind, feedback, tmp_path, mode="replace")
    expected = full(feedback, tmp_path)
    assert rows_of(address, tmp_path).select(expected.columns).equals(expected)


def test_one_name_of_two_states_is_refused(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "name")
    run_into("delta", feedback, tmp_path, run_key="monday")
    assert "nothing was to do" in run_into("delta", feedback, tmp_path, run_key="monday").notes[-1]
    feedback.change(8)
    with pytest.raises(RunDiffers, match="'monday' is in this table already"):
        run_into("delta", feedback, tmp_path, run_key="monday")
    run_into("delta", feedback, tmp_path, run_key="tuesday")
    assert rows_of(address_in("delta", tmp_path), tmp_path).equals(full(feedback, tmp_path))


def test_another_plan_is_refused_or_overwrites(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "plan")
    run_into("duckdb", feedback, tmp_path)
    address = address_in("duckdb", tmp_path)
    other = pm.Pairs(strategy="adjacent", chosen_min=None, rejected_below=None)
    with pytest.raises(TargetExists, match="of this plan"):
        pm.run(other, feedback.home, address, incremental=True)
    pm.run(other, feedback.home, address, incremental=True, overwrite=True)
    pm.run(other, feedback.home, tmp_path / "full.parquet", pair_id=True)
    expected = pl.read_parquet(tmp_path / "full.parquet").sort("pair_id")
    assert rows_of(address, tmp_path).equals(expected)


def test_what_such_runs_cannot_do_is_refused(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "refused")
    with pytest.raises(BadArgument, match="got the mode 'append'"):
        run_into("sqlite", feedback, tmp_path, mode="append")
    with pytest.raises(BadArgument, match="takes the changes itself"):
        run_into("sqlite", feedback, tmp_path, changes=tmp_path / "c.parquet")
    for address in ("iceberg:lake.training.pairs", "delta:s3://bucket/pairs"):
        with pytest.raises(BadArgument, match="keeps a local folder"):
            mirror.folder_of(Address.of(address), None)


def test_the_command_does_the_same(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "command")
    address = address_in("sqlite", tmp_path)
    how = ["--strategy", "best_rest", "--no-thresholds", "--incremental", "--quiet"]
    command = [sys.executable, "-m", "prefmill", "pairs", str(feedback.home), "-o", address, *how]
    for count in (0, 4):
        feedback.change(count)
        subprocess.run(command, check=True)
        assert rows_of(address, tmp_path).equals(full(feedback, tmp_path))


@pytest.mark.parametrize("kind", ["delta", "sqlite"], indirect=True)
def test_a_table_of_other_columns_is_made_anew(kind: str, tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", "columns")
    run_into(kind, feedback, tmp_path)
    run_into(kind, feedback, tmp_path, margin_scale=2.0, overwrite=True)
    out = tmp_path / "margins.parquet"
    pm.run(PLAN, feedback.home, out, margin_scale=2.0, pair_id=True)
    expected = pl.read_parquet(out).sort("pair_id")
    assert "margin" in expected.columns
    rows = rows_of(address_in(kind, tmp_path), tmp_path)
    assert rows.select(expected.columns).equals(expected)
    assert modes_of(kind, tmp_path)[-1] == "replace"


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"], indirect=True)
def test_a_database_that_others_changed_is_not_taken_for_done(kind: str, tmp_path: Path) -> None:
    feedback = Feedback(tmp_path / "in", kind)
    run_into(kind, feedback, tmp_path)
    file = address_in(kind, tmp_path).partition(":")[2].rpartition("#")[0]
    with closing(duckdb.connect(file) if kind == "duckdb" else sqlite3.connect(file)) as con:
        con.execute("DELETE FROM pairs WHERE prompt < 'p3'")
        con.commit()
    with pytest.raises(RunDiffers, match="somebody else changed the table"):
        run_into(kind, feedback, tmp_path)
    run_into(kind, feedback, tmp_path, overwrite=True)
    expected = full(feedback, tmp_path)
    assert rows_of(address_in(kind, tmp_path), tmp_path).select(expected.columns).equals(expected)
