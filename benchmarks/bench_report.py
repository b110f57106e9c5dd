"""Whether a report on ten million rows stays within 2 GB and two minutes.

    python benchmarks/bench_report.py --dir /tmp/bench > report.md

Feedback (four answers a prompt, 600 characters each) is made once in the folder, and looked at by
`prefmill report -o` in a child, with `--memory-limit` where one is given. The peak is the resident
memory of the tree of processes, looked at from outside a hundred times a second, and the kernel's
own peak of the child. CPU seconds are of all threads: on a machine that does other work they say
more than wall time. `--more` are further options of the command.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from bench_memory import SOURCE, resident, tree
from data import write_feedback, write_pool
from machine import describe, headline, in_child

LIBRARIES = ("prefmill", "duckdb", "polars", "pyarrow")
MOST_SECONDS, MOST_BYTES = 120, 2_000_000_000


def run(command: list[str]) -> tuple[float, float, int]:
    """Seconds of wall and CPU time, and the peak in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    started, peak = time.perf_counter(), 0
    child = os.posix_spawn(sys.executable, [sys.executable, *command], environment)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        together = sum(resident(each) for each in tree(child))
        peak = max(peak, together, resident(child, "VmHWM"))
        time.sleep(0.01)
    if status:
        raise SystemExit(f"report: exit status {os.waitstatus_to_exitcode(status)}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, cpu, max(peak, usage.ru_maxrss * 1024)


def measure(source: Path, folder: Path, limit: str, more: list[str]) -> str:
    """One line of the table."""
    page = folder / "report.html"
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    command = ["-m", "prefmill", "report", str(source), "-o", str(page), "--overwrite", "-q"]
    command += ["--temp-dir", str(scratch), *(("--memory-limit", limit) if limit else ()), *more]
    wall, cpu, peak = run(command)
    left = sorted(os.listdir(scratch))
    holds = wall <= MOST_SECONDS and peak <= MOST_BYTES and not left
    cells = [source.stem, f"{source.stat().st_size / 1e9:.2f} GB", limit or "none", " ".join(more)]
    cells += [f"{wall:.0f}", f"{cpu:.0f}", f"{peak / 1e6:,.0f} MB"]
    return f"| {' | '.join([*cells, 'holds' if holds else 'fails'])} |"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kinds", nargs="+", default=["feedback"], choices=["feedback", "pool"])
    parser.add_argument("--limit", default="", help="for --memory-limit")
    parser.add_argument("--more", default="", help="further options of the command")
    parser.add_argument("--dir", type=Path, required=True)
    asked = parser.parse_args()
    asked.dir.mkdir(parents=True, exist_ok=True)
    writers = {"feedback": write_feedback, "pool": write_pool}
    machine = describe(LIBRARIES)
    print("| rows | input | limit | options | seconds | CPU seconds | peak | verdict |")
    print("|---|--:|--:|---|--:|--:|--:|---|", flush=True)
    for kind in asked.kinds:
        source = asked.dir / f"{kind}-{asked.rows}.parquet"
        if not source.exists():
            in_child(writers[kind], source, asked.rows)
        print(measure(source, asked.dir, asked.limit, shlex.split(asked.more)), flush=True)
    machine["load_after"] = os.getloadavg()[0]
    print("", *headline(machine), sep="\n")


if __name__ == "__main__":
    main()
