"""A run ten times as large inside the same memory: generates, runs, deletes.

    python benchmarks/bench_hundred.py --dir /tmp/bench > hundred.md

Pairs (best against worst) of 10 M and of 100 M rows, one after the other, each with the same
`--memory-limit`. The large input is about 28 GB, and 32 GB are spilled: with the output some
72 GB of disk. Memory is sampled: the resident pages of the process and its children together.
Exit code 1 where the time is more than 11 times the small run's, or memory more than the limit and
a quarter.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench_pairs import say
from machine import in_child

_PAUSE = 0.1
#: Bytes of disk for each row: the input, the texts that are spilled, the output.
_DISK = 720
_TIMES, _OVER = 11, 1.25


@dataclass(frozen=True)
class Ran:
    """One run, and the largest memory and temporary space that was seen."""

    rows: int
    seconds: float
    rss: int
    scratch: int
    output: int
    code: int


def main() -> int:
    """Run both, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--small", type=int, default=10_000_000)
    parser.add_argument("--memory-limit", type=float, default=4.0, metavar="GB")
    parser.add_argument("--dir", type=Path, required=True, help="where data and outputs go")
    parser.add_argument("--keep", action="store_true", help="do not delete the inputs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(options.dir).free, options.rows * _DISK
    if free < needed:
        parser.error(f"{options.dir} has {free / 1e9:.0f} GB; expected {needed / 1e9:.0f} GB free")
    small, large = (_ran(options, rows) for rows in (options.small, options.rows))
    times, limit = large.seconds / small.seconds, options.memory_limit * 1e9
    print("| rows | seconds | peak RSS, MB | peak of the temporary folder, MB | output, MB |")
    print("|--:|--:|--:|--:|--:|")
    for ran in (small, large):
        sizes = " | ".join(f"{size / 1e6:,.0f}" for size in (ran.rss, ran.scratch, ran.output))
        print(f"| {ran.rows:,} | {ran.seconds:.1f} | {sizes} |")
    print(f"\n{times:.2f} times the time (at most {_TIMES}); limit {limit / 1e6:,.0f} MB.")
    held = times <= _TIMES and max(small.rss, large.rss) <= _OVER * limit
    return 0 if held and small.code == large.code == 0 else 1


def _ran(options: argparse.Namespace, rows: int) -> Ran:
    source = options.dir / f"feedback-{rows}-{options.seed}.parquet"
    if not source.exists():
        say(f"writing {source}")
        in_child(_write, str(source), rows, options.seed)
    output, scratch = options.dir / "hundred-out.parquet", options.dir / "hundred-scratch"
    scratch.mkdir(exist_ok=True)
    say(f"running {rows:,} rows")
    command = [sys.executable, "-m", "prefmill", "pairs", str(source), "-o", str(output)]
    command += ["--memory-limit", f"{options.memory_limit:g}GB", "--temp-dir", str(scratch)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--overwrite", "--quiet"])
    peaks = [0, 0]
    watching = threading.Thread(target=_watch, args=(process, scratch, peaks))
    watching.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    watching.join()
    size = output.stat().st_size if output.exists() else 0
    for path in (output, *(() if options.keep else (source,))):
        path.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return Ran(rows, seconds, peaks[0], peaks[1], size, code)


def _watch(process: subprocess.Popen[bytes], scratch: Path, peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], _resident(process.pid))
        peaks[1] = max(peaks[1], _bytes_in(scratch))
        time.sleep(_PAUSE)


def _resident(pid: int) -> int:
    """Bytes of a process and all below it."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            lines = (folder / "status").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line[:6] == "VmRSS:")
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return total


def _bytes_in(folder: Path) -> int:
    """Bytes on disk of the files in a folder, which come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _write(path: str, rows: int, seed: int) -> None:
    from data import write_feedback

    partial = Path(f"{path}.partial")
    write_feedback(partial, rows, seed=seed)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
