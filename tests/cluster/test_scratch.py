"""What a task keeps for itself: it names its owner, so that nobody's stays for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
from buckets import TINY, in_buckets

import prefmill as pm

KILLED = """
import os, signal, sys
from dataclasses import replace
import prefmill as pm
from prefmill.runs.cluster import driver
from prefmill.runs.cluster import stages
from prefmill.runs.cluster.executor import Inline
from prefmill.runs.cluster import spread

made = stages._report
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
stages._report = dies
spread.run(pm.Pairs(), sys.argv[1], sys.argv[2], executor=Inline(), temp_dir=sys.argv[3])
"""


def test_scratch_of_a_killed_task_goes_with_the_next_one(tmp_path: Path) -> None:
    source, home = tmp_path / "in.parquet", tmp_path / "home"
    home.mkdir()
    rows = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [1, 5]}
    pl.DataFrame(rows).write_parquet(source)
    target = tmp_path / "out.parquet"
    words = [sys.executable, "-c", KILLED, str(source), str(target), str(home)]
    assert subprocess.run(words, timeout=60).returncode == -signal.SIGKILL
    assert len(list(home.iterdir())) == 2  # the run's own, and the task's
    in_buckets(pm.Pairs(), source, target, cut=TINY, temp_dir=str(home))
    assert list(home.iterdir()) == []
    assert pl.read_parquet(target).height == 1
