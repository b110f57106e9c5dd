"""`--isolate`: a file that crashes a reader is an error of one line, and not the end of the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import polars as pl
import pytest

#: Runs at the start of every Python: whoever opens `hostile.jsonl` gets a fault in native code.
HOOK = """
import sys

def hook(event, args):
    if event == "open" and str(args[0]).endswith("hostile.jsonl"):
        import ctypes
        ctypes.string_at(0)

sys.addaudithook(hook)
"""
COMMANDS = {
    "pairs": ["pairs", "hostile.jsonl", "-o", "out.parquet"],
    "unpair": ["unpair", "hostile.jsonl", "-o", "out.parquet"],
    "best": ["best", "hostile.jsonl", "-o", "out.parquet"],
    "advantages": ["advantages", "hostile.jsonl", "-o", "out.parquet"],
    "check": ["check", "hostile.jsonl"],
    "votes": ["votes", "hostile.jsonl", "-o", "out.parquet"],
    "values": ["values", "hostile.jsonl", "-o", "out.parquet"],
    "rows": ["rows", "hostile.jsonl", "-o", "out.parquet"],
    "sql": ["sql", "FROM hostile", "hostile.jsonl"],
}


@pytest.fixture
def hostile(tmp_path):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    lines = [{"prompt": "p", "completion": c, "score": s} for c, s in (("a", 5), ("b", 1))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "hostile.jsonl").write_text(text)
    (tmp_path / "good.jsonl").write_text(text)
    return tmp_path


def asked(folder, *args, hook=True):
    paths = [str(folder / "hook")] * hook + list(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-m", "prefmill", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_is_an_error_of_the_data(command, hostile):
    args = COMMANDS[command]
    done = asked(hostile, *args, "--isolate")
    assert done.returncode == 1, done.stderr
    assert "ended without a word; got SIGSEGV." in done.stderr
    assert "'hostile.jsonl'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (hostile / "out.parquet").exists()


def test_without_it_the_command_crashes(hostile):
    """So the tests above show something."""
    assert asked(hostile, *COMMANDS["pairs"]).returncode == -11


def test_it_does_what_it_does_without(hostile):
    for name, more in (("plain.parquet", []), ("apart.parquet", ["--isolate"])):
        done = asked(hostile, "pairs", "good.jsonl", "-o", name, *more)
        assert done.returncode == 0, done.stderr
        assert "1 pair from 1 of 1" in done.stderr
    one, other = (pl.read_parquet(hostile / f"{name}.parquet") for name in ("plain", "apart"))
    assert one.equals(other)
    done = asked(
        hostile, "sql", "SELECT count(*) AS n FROM good", "good.jsonl", "--json", "--isolate"
    )
    assert json.loads(done.stdout) == {"n": 2}


def test_rows_go_to_stdout_and_errors_are_the_same(hostile):
    done = asked(hostile, "pairs", "good.jsonl", "-o", "-", "--isolate", "--quiet")
    assert json.loads(done.stdout)["chosen"] == "a"
    missing = [asked(hostile, "check", "no.jsonl", *more) for more in ([], ["--isolate"])]
    assert missing[0].returncode == missing[1].returncode == 1
    assert missing[0].stderr == missing[1].stderr


def test_logs_are_objects_there_too(hostile):
    done = asked(hostile, *COMMANDS["pairs"], "--isolate", "--log-format", "json")
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert next(each for each in told if each["event"] == "error")["error"] == "RunDied"
    assert told[-1] == {**told[-1], "event": "exit", "exit_code": 1}
    done = asked(
        hostile, "pairs", "good.jsonl", "-o", "x.parquet", "--isolate", "--log-format", "json"
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[0] == "start"
    assert events[-2:] == ["done", "exit"]
