"""Incremental runs killed at random instants: old or new stands, and the same run ends in the new.

`PREFMILL_KILLS=200` asks for more of them.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill.runs.run import run

TORTURE = int(os.environ.get("PREFMILL_KILLS", "20"))
PLAN = pm.Pairs(chosen_min=None, rejected_below=None)
_CHILD = """
import sys
import prefmill as pm
from prefmill.runs.run import run
import prefmill.runs.incremental.work as incremental
incremental.PART_ROWS = 40
print("ready", flush=True)
plan = pm.Pairs(chosen_min=None, rejected_below=None)
run(plan, sys.argv[1], sys.argv[2], incremental=True)
print("done", flush=True)
"""


def feedback(path: Path, prompts: range, seed: int) -> None:
    draw = random.Random(seed)
    rows = [(f"p{n}", f"a{draw.random()}", draw.randint(1, 5)) for n in prompts for _ in range(3)]
    pl.DataFrame(rows, schema=["prompt", "completion", "score"], orient="row").write_parquet(path)


def child(home: Path, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(home / "in"), str(home / out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("out", ["out.parquet", "out/part-*.parquet"])
@pytest.mark.parametrize("kills", [3, pytest.param(TORTURE, marks=pytest.mark.torture)])
def test_killed_at_random_instants_the_same_run_ends_in_the_new_output(
    tmp_path: Path, out: str, kills: int
) -> None:
    base = tmp_path / "base"
    (base / "in").mkdir(parents=True)
    feedback(base / "in" / "a.parquet", range(200), 1)
    run(PLAN, base / "in", base / out, incremental=True)
    old = pl.read_parquet(base / out)
    feedback(base / "in" / "b.parquet", range(190, 240), 2)
    whole = tmp_path / "whole.parquet"
    run(PLAN, base / "in", whole)
    new = pl.read_parquet(whole)
    draw = random.Random(kills)
    took, killed = 1.0, 0
    while killed < kills:
        home = tmp_path / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(base, home)
        started = time.perf_counter()
        process = child(home, out)
        time.sleep(draw.uniform(0, took))
        process.kill()
        last, _ = process.communicate()
        if "done" in last:
            took = time.perf_counter() - started
        killed += "done" not in last
        seen = pl.read_parquet(home / out)
        assert seen.equals(old) or seen.drop("pair_id").equals(new)
        # Through the reader that read the first line, for it may hold the next one already.
        with child(home, out) as second:
            told, error = second.stdout.read(), second.stderr.read()
        assert told == "done\n", error
        rows = pl.read_parquet(home / out)
        assert rows.drop("pair_id").equals(new)
        changes = pl.read_parquet(home / "out-changes.parquet")
        fresh = changes.filter(pl.col("change") != "removed").drop("change")
        merged = pl.concat(
            [old.join(changes, on="pair_id", how="anti"), fresh.select(rows.columns)]
        )
        assert merged.sort("pair_id").equals(rows.sort("pair_id"))
        left = {path.name for path in home.iterdir()}
        name = out.partition("/")[0]
        assert left == {"in", name, f".{name}.prefmill", "out-changes.parquet"}


@pytest.mark.parametrize("out", ["out.parquet", "out/part-*.parquet"])
def test_the_change_file_comes_also_where_the_run_died_before_it(tmp_path: Path, out: str) -> None:
    """The output and the change file are two names."""
    home = tmp_path / "home"
    (home / "in").mkdir(parents=True)
    feedback(home / "in" / "a.parquet", range(200), 1)
    run(PLAN, home / "in", home / out, incremental=True)
    feedback(home / "in" / "b.parquet", range(190, 240), 2)
    shutil.copytree(home, tmp_path / "other")
    run(PLAN, tmp_path / "other" / "in", tmp_path / "other" / out, incremental=True)
    dies = _CHILD.replace(
        'print("ready", flush=True)',
        "import os, prefmill.disk.whole as whole\n"
        "move, count = whole._move, 0\n"
        "def moved(source, target):\n"
        "    move(source, target)\n"
        "    os._exit(9)\n"
        "whole._move = moved",
    )
    command = [sys.executable, "-W", "ignore", "-c", dies, str(home / "in"), str(home / out)]
    assert subprocess.run(command, check=False).returncode == 9
    run(PLAN, home / "in", home / out, incremental=True)
    mended, whole = (
        pl.read_parquet(place / "out-changes.parquet").sort("pair_id")
        for place in (home, tmp_path / "other")
    )
    assert mended.equals(whole)
