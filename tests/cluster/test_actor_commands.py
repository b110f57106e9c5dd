"""Commands with workers on this machine: what they print, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("ray", reason="needs the extra prefmill[ray]")

import ray_nodes

pytestmark = pytest.mark.cluster

#: each check starts a program that takes half a second
CHECK = "import time; time.sleep(0.5)"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    frame = pl.DataFrame(
        {"prompt": [f"p{i // 2}" for i in range(40)], "completion": ["x" * i for i in range(40)]}
    )
    frame.write_ndjson(tmp_path / "pool.jsonl")
    check = tmp_path / "check.py"
    check.write_text(CHECK)
    return [
        sys.executable, "-m", "prefmill", "score", str(tmp_path / "pool.jsonl"),
        "-o", str(tmp_path / "scored.jsonl"), "--scorer", "verify", "--check", "command",
        "--command", f"{sys.executable} {check}", "--processes", "1",
        "--workers", "1..2", "--cpus-per-worker", "0.5", "--chunk-rows", "4", "--json",
    ]  # fmt: skip


def until_chunks(process: Any, folder: Path, count: int) -> None:
    while len(list((folder / ".scored.jsonl.prefmill").glob("*.arrow"))) < count:
        assert process.poll() is None
        time.sleep(0.05)


def test_stdout_is_json_alone_also_where_a_worker_died(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    until_chunks(process, tmp_path, 2)
    ray_nodes.kill_one()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["workers_lost"] == 1
    assert report["rows_scored"] == 40
    assert ", 1 lost on the way" in err
    assert "raylet" not in out + err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_and_its_workers(
    number: signal.Signals, code: int, command: list[str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    until_chunks(process, tmp_path, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    until = time.monotonic() + 20
    while ray_nodes.workers_of_ray():
        assert time.monotonic() < until
        time.sleep(0.2)
