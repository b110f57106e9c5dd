"""Writers of one table that are killed, or run at once: all of a run is there, or nothing."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warehouses import keys_in, put

RUNNER = Path(__file__).parents[1] / "support" / "tables" / "put_table.py"
NEW = [f"new{number}" for number in range(400)]


def writer(kind, folder, mode, run, keys):
    """A process that waits for a line, and then puts rows into the table."""
    command = [sys.executable, str(RUNNER), kind, str(folder), mode, run, " ".join(keys)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n", process.stderr.read()
    return process


def ended(process):
    """What it said at its end."""
    out, err = process.communicate("\n", timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def kill_after(process, seconds):
    """Let it go, and kill it."""
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(seconds)
    process.kill()
    process.communicate()


def lives(kind, folder, kills, mode):
    """Kill a writer again and again: at each look all of its rows are there, or none."""
    put(kind, folder, "a b", run="1", mode="create")
    started = time.perf_counter()
    assert ended(writer(kind, folder, "replace", "warm", ["a", "b"])) == "put"
    longest = min(1.5, time.perf_counter() - started)
    old, new = ["a", "b"], sorted([*NEW] if mode == "replace" else ["a", "b", *NEW])
    chance = random.Random(f"{kind} {mode}")
    for _ in range(kills):
        kill_after(writer(kind, folder, mode, "2", NEW), chance.uniform(0, longest))
        assert keys_in(kind, folder) in (old, new)
    assert ended(writer(kind, folder, mode, "2", NEW)) in ("put", "nothing to do")
    assert keys_in(kind, folder) == new
    assert ended(writer(kind, folder, mode, "2", NEW)) == "nothing to do"


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_killed_writer_leaves_all_or_nothing(kind, tmp_path, mode):
    lives(kind, tmp_path, 2, mode)


@pytest.mark.torture
@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_many_killed_writers_leave_all_or_nothing(kind, tmp_path, mode):
    lives(kind, tmp_path, 20, mode)


def test_two_writers_of_one_run_add_it_once(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    both = [writer(kind, tmp_path, "append", "2", ["b"]) for _ in range(2)]
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    assert sorted(ended(each) for each in both) == ["nothing to do", "put"]
    assert keys_in(kind, tmp_path) == ["a", "b"]


def test_two_writers_of_two_runs_both_add_theirs(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    both = [writer(kind, tmp_path, "append", key, [key]) for key in ("b", "c")]
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    assert [ended(each) for each in both] == ["put", "put"]
    assert keys_in(kind, tmp_path) == ["a", "b", "c"]
