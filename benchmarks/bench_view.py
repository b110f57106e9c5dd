"""How long `prefmill view` lets a reader wait, by question, and what memory it takes.

    python benchmarks/bench_view.py --rows 10000000 --dir /tmp/bench > view.md

Feedback (four answers a prompt, 600 characters each) is made once in the folder, in a process of
its own. The command runs as people start it, with its server, and is asked over HTTP as the page
asks it: 50 rows each, every question once. The peak is the kernel's own of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from bench_memory import SOURCE, resident
from data import write_feedback
from machine import describe, headline, in_child

LIBRARIES = ("prefmill", "duckdb", "pyarrow")
NOWHERE = "no such text is in any answer"


def questions(rows: int) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """What is asked, in the words of the page."""
    middle = rows // 2
    high = {"filters": [["score", ">", "4"]]}
    return {
        "the first page": ("rows", {"first": 0}),
        "a page in the middle": ("rows", {"first": middle}),
        "a filter on scores": ("rows", high),
        "how many it finds": ("count", high),
        "by score": ("rows", {"sort": "score"}),
        "by a number that each row has another of": ("rows", {"sort": "id"}),
        "a page in the middle of that order": ("rows", {"sort": "id", "first": middle}),
        "the next one": ("rows", {"sort": "id", "first": middle + 50}),
        "by prompt": ("rows", {"sort": "prompt"}),
        "the other answers to a prompt": ("siblings", {"row": middle}),
        "a search in all texts that finds nothing": ("rows", {"search": NOWHERE}),
    }


def seconds(url: str, name: str, asked: Mapping[str, Any]) -> float:
    """How long the answer takes to come."""
    started = time.perf_counter()
    with urlopen(f"{url}{name}?q={quote(json.dumps(asked))}") as answer:
        told = json.load(answer)
    if "error" in told:
        raise SystemExit(f"{name}: {told['error']}")
    return time.perf_counter() - started


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dir", type=Path, required=True)
    asked = parser.parse_args()
    asked.dir.mkdir(parents=True, exist_ok=True)
    source = asked.dir / f"feedback-{asked.rows}.parquet"
    if not source.exists():
        in_child(write_feedback, source, asked.rows)
    machine = describe(LIBRARIES)
    command = [sys.executable, "-m", "prefmill", "view", str(source), "--no-open", "-q"]
    command += ["--flags", str(asked.dir / "flags.jsonl"), "--temp-dir", str(asked.dir)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            print(f"| {asked.rows:,} rows, {source.stat().st_size / 1e9:.2f} GB | seconds |")
            print("|---|--:|")
            print(f"| until the page is there | {time.perf_counter() - started:.1f} |")
            for told, (name, words) in questions(asked.rows).items():
                print(f"| {told} | {seconds(url, name, words):.1f} |", flush=True)
            print(f"| peak memory | {resident(server.pid, 'VmHWM') / 1e6:,.0f} MB |")
        finally:
            server.send_signal(signal.SIGINT)
    machine["load_after"] = os.getloadavg()[0]
    print("", *headline(machine), sep="\n")


if __name__ == "__main__":
    main()
