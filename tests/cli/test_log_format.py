"""`--log-format json`: stderr has an object a line and nothing else, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

ROWS = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 3]}


@pytest.fixture
def rated(tmp_path) -> Path:
    path = tmp_path / "rated.parquet"
    pl.DataFrame(ROWS).write_parquet(path)
    return path


def run(*arguments: object, **variables: str) -> tuple[int, str, list[dict[str, Any]]]:
    """The exit code, stdout, and the objects on stderr."""
    command = [sys.executable, "-m", "prefmill", *map(str, arguments)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, [json.loads(line) for line in done.stderr.splitlines()]


def test_a_run_and_its_result_are_apart(rated, tmp_path):
    target = tmp_path / "pairs.parquet"
    code, out, events = run("pairs", rated, "-o", target, "--json", "--log-format", "json")
    assert code == 0
    assert json.loads(out)["pairs_out"] == 1  # stdout has the result, and it alone
    names = [event["event"] for event in events]
    assert (names[0], names[-2:]) == ("start", ["done", "exit"])
    assert set(names[1:-2]) == {"progress"}
    done = events[-2]
    assert done["figures"]["pairs_out"] == 1
    assert done["command"] == "pairs"
    assert events[-1]["exit_code"] == 0
    assert all({"time", "level", "event", "message"} <= set(event) for event in events)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pairs", "nothing.csv", "-o", "x.parquet"), 1, "nothing.csv"),
        (("pairs", "--no-such-option"), 2, "No such option"),
        (("pairs", "rated.parquet", "-o", "x.parquet", "--min-margin", "9"), 1, "no pairs came"),
        (("check", "rated.parquet", "--score", "none"), 2, "no column 'none'"),
    ],
)
def test_what_goes_wrong_is_an_object_too(arguments, code, words, rated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended, out, events = run(*arguments, PREFMILL_LOG_FORMAT="json")
    assert (ended, out) == (code, "")
    assert events[-1] == {**events[-1], "event": "exit", "exit_code": code, "level": "error"}
    assert any(words in event["message"] for event in events[:-1])


def test_an_error_has_its_type_and_its_hint(rated):
    code, _, events = run("pairs", rated, "-o", rated.parent / "rated.parquet", "--log-format=json")
    (error,) = [event for event in events if event["event"] == "error"]
    assert code == 2
    assert error["error"]
    assert error["hint"]


def test_a_signal_is_a_stopped_run(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")  # it waits for its input
    arguments = ["pairs", tmp_path / "rows.jsonl", "-o", tmp_path / "x.parquet"]
    command = [sys.executable, "-m", "prefmill", *map(str, arguments), "--log-format", "json"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert started.stderr
    first = json.loads(started.stderr.readline())
    assert first["event"] == "start"
    time.sleep(0.3)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=10)
    events = [json.loads(line) for line in err.splitlines()]
    assert started.returncode == 143
    assert "stopped" in {event["event"] for event in events}
    assert events[-1]["exit_code"] == 143


def test_an_unknown_format_is_refused(rated):
    command = [sys.executable, "-m", "prefmill", "check", str(rated), "--log-format", "yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'yaml' is not one of 'text', 'json'" in done.stderr
