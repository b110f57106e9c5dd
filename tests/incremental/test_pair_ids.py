"""The column `pair_id` of runs that are not incremental; incremental runs have the same ids
(`test_incremental_is_full.py`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import BadArgument, RunDiffers
from prefmill.runs.run import run

PLAN = pm.Pairs(strategy="all", chosen_min=None, rejected_below=None)
ROWS = "prompt,completion,score,source\np,a,5,x\np,b,1,x\np,a,4,y\nq,é,4,y\nq,d,2,y\n"


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.csv"
    path.write_text(ROWS)
    return path


def ids(path: Path) -> list[str]:
    return pl.read_parquet(path)["pair_id"].to_list()


@pytest.mark.parametrize("how", ["duckdb", "polars"])
def test_an_id_is_that_of_sql_and_no_other_prompt_moves_it(
    how: str, feedback: Path, tmp_path: Path
) -> None:
    out, more = tmp_path / "out.parquet", tmp_path / "more.parquet"
    run(PLAN, feedback, out, pair_id=True, engine=how)
    (tmp_path / "first.csv").write_text("prompt,completion,score,source\no,a,5,x\no,b,1,x\n")
    run(PLAN, [tmp_path / "first.csv", feedback], more, pair_id=True, engine=how)
    assert ids(more)[1:] == ids(out)
    con = duckdb.connect()
    install(con)
    query = f"SELECT pair_id(prompt, chosen, rejected), pair_id FROM '{out}' WHERE prompt = 'q'"
    ((by_sql, ours),) = con.sql(query).fetchall()
    assert by_sql == ours
    # The text `a` is there twice, and each has its own pair.
    assert len(set(ids(out))) == len(ids(out)) == 3


def test_every_layout_has_the_id_as_its_last_column(feedback: Path, tmp_path: Path) -> None:
    plans = [
        (pm.Pairs(), {"format": "trl-implicit", "margin_scale": 1.0}),
        (pm.Pairs(), {"format": "llama-factory"}),
        (pm.Pairs(), {"chat": True, "keep": ["source"]}),
        (pm.Unpaired(), {}),
        (pm.BestOf(), {"format": "messages"}),
        (pm.Advantage(), {}),
    ]
    for number, (plan, how) in enumerate(plans):
        without, out = tmp_path / f"{number}.parquet", tmp_path / f"{number}-ids.parquet"
        run(plan, feedback, without, **how)
        run(plan, feedback, out, pair_id=True, **how)
        frame = pl.read_parquet(out)
        assert frame.columns[-1] == "pair_id"
        assert frame.drop("pair_id").equals(pl.read_parquet(without))
        assert frame["pair_id"].n_unique() == frame.height


def test_splits_and_other_files_have_it_too(feedback: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    run(PLAN, feedback, whole, pair_id=True)
    run(PLAN, feedback, tmp_path / "p.jsonl", pair_id=True, split={"a": 0.5, "b": 0.5})
    read = [pl.read_ndjson(tmp_path / f"p-{name}.jsonl") for name in "ab"]
    parts = [name for frame in read if frame.height for name in frame["pair_id"]]
    assert sorted(parts) == sorted(ids(whole))


def test_a_run_with_ids_is_another_run(feedback: Path, tmp_path: Path) -> None:
    run(PLAN, feedback, tmp_path / "out.parquet")
    with pytest.raises(RunDiffers, match="pair_id"):
        run(PLAN, feedback, tmp_path / "out.parquet", pair_id=True)


def test_what_cannot_have_an_id_is_refused(feedback: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(BadArgument, match="a row has one id"):
        run(PLAN, feedback, out, pair_id=True, format="kto")
    with pytest.raises(BadArgument, match="made on one machine"):
        run(PLAN, feedback, out, pair_id=True, engine="ray")
    run(pm.Advantage(), feedback, out, pair_id=True)
    with pytest.raises(BadArgument, match="'pair_id' is there already"):
        run(pm.Advantage(), out, tmp_path / "again.parquet", pair_id=True)
    # Who merges such rows goes by the ids that they have.
    run(pm.Advantage(), out, tmp_path / "same.parquet", pair_id=None)
    assert ids(tmp_path / "same.parquet") == ids(out)


def test_the_command_has_it(feedback: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "prefmill", "pairs", feedback, "-o", out, "--pair-id"]
    subprocess.run([*command, "--quiet"], check=True)
    run(pm.Pairs(), feedback, tmp_path / "same.parquet", pair_id=True)
    assert ids(out) == ids(tmp_path / "same.parquet")
