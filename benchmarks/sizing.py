"""How large must a cluster be? An estimate from rates of one machine, not a measurement.

    python benchmarks/sizing.py --rows 1e9 --workers 64

The defaults are of pairs at 10 M rows (two cores: 21.5 s with texts, 320 bytes a
row in zstd Parquet). `--rate` and `--bytes-per-row` take what you measured on your own data.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

#: As the driver cuts a run without a memory limit: bytes of text a split, of narrow rows a bucket.
SPLIT_BYTES, BUCKET_BYTES = 192 << 20, 96 << 20
#: What a task holds over its text: Python and its libraries, and copies while it sorts.
BASE_BYTES, COPIES = 300 << 20, 5


@dataclass(frozen=True)
class Job:
    """What is to be done, and what one core was seen to do.

    rate           rows/s of one core on one machine, texts and writing in it
    bytes_per_row  in the input's files; `unpacked` times as many in memory
    narrow         bytes a row that is ranked: key, score, position
    efficiency     of a core in the cluster, of one alone; 0.5 is what is promised
    kept           rows of output for each row of input, as texts: two texts a pair of four rows
    """

    rows: float
    workers: int
    rate: float = 10e6 / 21.5 / 2
    bytes_per_row: float = 320.0
    unpacked: float = 2.5
    narrow: float = 40.0
    efficiency: float = 0.5
    kept: float = 0.5


def size(job: Job) -> dict[str, float]:
    """Tasks, buckets, memory of a worker (bytes), hours, and bytes moved; an estimate.

    >>> size(Job(rows=10e6, workers=2, efficiency=1.0))["hours"] * 3600
    21.5
    """
    unpacked = job.bytes_per_row * job.unpacked
    splits = math.ceil(job.rows * unpacked / SPLIT_BYTES)
    buckets = max(2 * job.workers, math.ceil(job.rows * job.narrow / BUCKET_BYTES))
    # texts cross once, the narrow rows and their slots twice
    moved = job.rows * (job.kept * job.bytes_per_row + 2 * job.narrow)
    return {
        "map tasks": splits,
        "buckets": buckets,
        "range reads": splits * buckets,
        "worker bytes": BASE_BYTES + COPIES * SPLIT_BYTES,
        "hours": job.rows / (job.rate * job.efficiency * job.workers) / 3600,
        "input bytes": job.rows * job.bytes_per_row,
        "moved bytes": moved,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 256])
    for name in ("rate", "bytes_per_row", "narrow", "efficiency", "kept"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=getattr(Job, name))
    told = vars(parser.parse_args())
    print("An estimate, from rates of one machine.\n")
    print("| workers (cores) | map tasks | buckets | GB a worker | minutes | GB in | GB moved |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for workers in told.pop("workers"):
        its = size(Job(workers=workers, **told))
        print(
            f"| {workers} | {its['map tasks']:,} | {its['buckets']:,} |"
            f" {its['worker bytes'] / 1e9:.1f} | {its['hours'] * 60:.1f} |"
            f" {its['input bytes'] / 1e9:,.0f} | {its['moved bytes'] / 1e9:,.0f} |"
        )


if __name__ == "__main__":
    main()
