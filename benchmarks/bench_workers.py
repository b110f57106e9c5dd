"""Workers of simulated latency: rows a second with 1, 2, 4 and 8 of them, beside linear.

    python benchmarks/bench_workers.py [--seconds 0.25] [--chunks 40]

A scorer that sleeps takes no CPU, as one that waits for a GPU or a server. What is measured is what
the run itself costs: reading, sending, committing. The time counts from the first chunk that is
done to the last: how long machines take to start is not of the run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

import prefmill as pm
from prefmill.runs.cluster.workers import Workers

ROWS = 64  # of a chunk


def sleeping(seconds: float) -> Any:
    """A scorer that takes so long for a chunk."""

    def scorer(batch: Any) -> list[float]:
        time.sleep(seconds)
        return [float(len(text)) for text in batch["completion"].to_pylist()]

    scorer.compares, scorer.reads = False, ()  # type: ignore[attr-defined]
    scorer.fingerprint = "sleeping"  # type: ignore[attr-defined]
    return scorer


class Marks:
    """When chunks were done while all workers were there, as progress tells it."""

    def __init__(self, workers: int) -> None:
        self.full, self.marks = f" {workers} workers", []

    def __call__(self, phase: str, share: float | None) -> None:
        if share is not None and phase.endswith(self.full):
            self.marks.append((time.perf_counter(), int(phase.split()[0].replace(",", ""))))

    def rate(self) -> float:
        """Rows a second between the first and the last mark."""
        (begun, before), (ended, after) = self.marks[0], self.marks[-1]
        return (after - before) / (ended - begun)


def measured(workers: int, seconds: float, chunks: int, folder: Path) -> float:
    """Rows a second of a run with so many workers, `chunks` for each."""
    rows = ROWS * chunks * workers
    texts = [f"answer {number} {'x' * 400}" for number in range(rows)]
    frame = pl.DataFrame({"prompt": [f"p{n // 8}" for n in range(rows)], "completion": texts})
    marks = Marks(workers)
    pm.score(
        frame,
        folder / f"{workers}.parquet",
        scorer=sleeping(seconds),
        chunk_rows=ROWS,
        workers=Workers(workers, cpus=0.25),
        progress=marks,
    )
    return marks.rate()


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
