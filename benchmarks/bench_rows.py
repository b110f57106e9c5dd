"""Records with lists against the same rows in long form: `prefmill pairs` over both.

python benchmarks/bench_rows.py --records 1000000 --format parquet --memory-limit 2GB

Records are `{prompt, responses[4], scores[4]}`; the long form has a row for each answer, in the
same order. Both runs write the same pairs, which is checked. Each run is a process of its own;
they alternate, and the medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from data import _prose, _slices
from machine import describe, headline, in_child

ANSWERS = 4
_CHUNK = 100_000


def write(folder: Path, records: int, kind: str, length: int) -> tuple[Path, Path]:
    """The records and the long form in `folder`, made once."""
    wide, long = (folder / f"{name}-{records}-{length}.{kind}" for name in ("wide", "long"))
    if wide.exists() and long.exists():
        return wide, long
    rng = np.random.default_rng(0)
    text = _prose(rng, 1 << 26)

    def texts(count: int, size: int) -> pa.Array:
        lengths = rng.integers(size // 2, size + size // 2, count)
        return _slices(text, rng.integers(0, text.size - 2 * size, count), lengths)

    outputs = {path: _Sink(path, kind) for path in (wide, long)}
    for start in range(0, records, _CHUNK):
        count = min(_CHUNK, records - start)
        prompts, answers = texts(count, 120), texts(count * ANSWERS, length)
        scores = pa.array(rng.integers(1, 6, count * ANSWERS).astype(float))
        ends = pa.array(np.arange(0, count * ANSWERS + 1, ANSWERS, dtype=np.int32))
        lists = [
            pa.ListArray.from_arrays(ends, each.cast(kind_))
            for each, kind_ in ((answers, pa.string()), (scores, pa.float64()))
        ]
        outputs[wide].add(pa.table([prompts, *lists], names=["prompt", "responses", "scores"]))
        each = prompts.take(pa.array(np.repeat(np.arange(count), ANSWERS)))
        outputs[long].add(
            pa.table([each, answers, scores], names=["prompt", "completion", "score"])
        )
    for output in outputs.values():
        output.close()
    return wide, long


class _Sink:
    """A file of tables."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        if self.kind == "jsonl":
            with self.path.open("ab") as file:
                pl.DataFrame(table).write_ndjson(file)
            return
        self.file = self.file or pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self.file.write_table(table)

    def close(self) -> None:
        if self.file:
            self.file.close()


def run(path: Path, output: Path, options: list[str]) -> tuple[float, float, float]:
    """Seconds of wall time and of CPU time, and the peak in MB, of one command."""
    command = [sys.executable, "-m", "prefmill", "pairs", str(path), "-o", str(output), "-q"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--overwrite", *options])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{path}: exit status {status}")
    wall = time.perf_counter() - started
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument("--length", type=int, default=300, help="mean characters of an answer")
    parser.add_argument("--memory-limit", default="")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("bench_rows"))
    options = parser.parse_args()
    machine = describe(["prefmill", "polars", "duckdb", "pyarrow"])
    options.folder.mkdir(parents=True, exist_ok=True)
    asked = options.folder, options.records, options.format, options.length
    wide, long = in_child(write, *asked)
    limit = ["--memory-limit", options.memory_limit] if options.memory_limit else []
    outputs = [options.folder / name for name in ("wide-pairs.parquet", "long-pairs.parquet")]
    runs: dict[Path, list[tuple[float, float, float]]] = {wide: [], long: []}
    for _ in range(options.repeat):
        for path, output in zip(runs, outputs, strict=True):
            runs[path].append(run(path, output, limit))
    pairs = [pl.read_parquet(output) for output in outputs]
    if not pairs[0].equals(pairs[1]):
        raise SystemExit("the two runs made different pairs")
    machine["load_after"] = os.getloadavg()[0]
    print("\n".join(headline(machine)))
    print(
        f"{options.records:,} records of {ANSWERS} answers, {options.format}, "
        f"memory limit {options.memory_limit or 'none'}, {pairs[0].height:,} pairs"
    )
    medians = []
    for path, took in runs.items():
        wall, cpu, peak = (statistics.median(values) for values in zip(*took, strict=True))
        medians.append((wall, cpu))
        size = path.stat().st_size / 1e9
        print(f"{path.stem:<24} {size:6.2f} GB  {wall:7.1f} s  {cpu:7.1f} CPU s  {peak:6,.0f} MB")
    wall, cpu = (one / other for one, other in zip(*medians, strict=True))
    print(f"records / long form: {wall:.2f} x wall, {cpu:.2f} x CPU")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
