"""Workers of simulated latency: rows a second with 1, 2, 4 and 8 of them, beside linear.

    python benchmarks/bench_workers.py [--seconds 0.25] [--chunks 40]

A scorer that sleeps takes no CPU, as one that waits for a GPU or a server. What is measured is what
the run itself costs: reading, sending, committing. Workers begin when all of them are there, and
the time counts from when each has done a chunk: how long machines take to start is not of the run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

import prefmill as pm
from prefmill.runs.workers.workers import Workers

ROWS = 64  # of a chunk


class Sleeping:
    """A scorer that takes so long for a chunk, from when all workers are there."""

    compares, reads, fingerprint = False, (), "sleeping"

    def __init__(self, seconds: float, workers: int, folder: Path) -> None:
        self.seconds, self.workers, self.folder = seconds, workers, folder
        self.all_there = False

    def __call__(self, batch: Any) -> list[float]:
        if not self.all_there:
            (self.folder / str(os.getpid())).touch()
            while len(list(self.folder.iterdir())) < self.workers:
                time.sleep(0.01)
            self.all_there = True
        time.sleep(self.seconds)
        return [float(len(text)) for text in batch["completion"].to_pylist()]


class Marks:
    """When how many rows were done, as progress tells it."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def __call__(self, phase: str, share: float | None) -> None:
        if share is not None:
            self.marks.append((time.perf_counter(), int(phase.split()[0].replace(",", ""))))

    def rate(self, workers: int) -> float:
        """Rows a second from when each worker has done a chunk to the last."""
        (begun, before), (ended, after) = self.marks[workers - 1], self.marks[-1]
        return (after - before) / (ended - begun)


def measured(workers: int, seconds: float, chunks: int, folder: Path) -> float:
    """Rows a second of a run with so many workers, `chunks` for each."""
    rows = ROWS * chunks * workers
    texts = [f"answer {number} {'x' * 400}" for number in range(rows)]
    frame = pl.DataFrame({"prompt": [f"p{n // 8}" for n in range(rows)], "completion": texts})
    marks, meeting = Marks(), folder / f"meeting-{workers}"
    meeting.mkdir()
    pm.score(
        frame,
        folder / f"{workers}.parquet",
        scorer=Sleeping(seconds, workers, meeting),
        chunk_rows=ROWS,
        workers=Workers(workers, cpus=0.25),
        progress=marks,
    )
    return marks.rate(workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.25, help="of a chunk")
    parser.add_argument("--chunks", type=int, default=40, help="of each worker")
    options = parser.parse_args()
    print(f"{options.seconds} s a chunk of {ROWS} rows, {options.chunks} chunks a worker")
    print("| workers | rows/s | of linear |")
    print("|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2, 4, 8):
            rate = measured(workers, options.seconds, options.chunks, Path(folder))
            linear = workers * ROWS / options.seconds
            print(f"| {workers} | {rate:,.0f} | {100 * rate / linear:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
