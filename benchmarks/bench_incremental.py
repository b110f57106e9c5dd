"""Pairs of files that keep coming: an incremental run beside a full one, whole processes, one run.

    python benchmarks/bench_incremental.py --rows 1000000 > results.md

The input is 100 files of 1 % of the rows each. Then one more comes:

    recent   half of them new prompts with their answers, half late answers to prompts of the last
             two files
    spread   late answers to prompts of all files, as many as that

Every candidate is a child process: interpreter, imports, reading and writing all count. The rows of
output are compared with those of the full run. Each round starts from a copy of the state before
the new file (links, which the runs replace and never change), and candidates run in rotation. The
table goes to stdout, progress to stderr. Exit code 1 if outputs differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from data import write_feedback

FILES = 100
SHARE = 0.01
TARGETS = {"one file": "pairs.parquet", "parts": "pairs/part-*.parquet"}


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def late(files: list[Path], rows: int, seed: int) -> pa.Table:
    """So many answers to prompts of `files`, the prompts drawn evenly."""
    rng = np.random.default_rng(seed)
    tables = []
    counts = np.diff(np.linspace(0, rows, len(files) + 1).astype(int))
    for file, count in zip(files, counts, strict=True):
        table = pq.read_table(file)
        picked = table.take(rng.integers(0, table.num_rows, size=count))
        # The answer of another row, with a word of its own.
        answers = table["completion"].take(rng.integers(0, table.num_rows, size=count))
        texts = answers.to_pylist()
        joined = pa.array([f"late {seed} {number} {text}" for number, text in enumerate(texts)])
        place = table.schema.get_field_index("completion")
        kind = table.schema.field(place)
        picked = picked.set_column(place, kind, joined.cast(kind.type))
        score = table.schema.get_field_index("score")
        scores = pa.array(rng.integers(1, 6, size=count).astype(float))
        tables.append(picked.set_column(score, table.schema.field(score), scores))
    return pa.concat_tables(tables)


def make(home: Path, rows: int) -> dict[str, Path]:
    """The files of each day, and what comes after them."""
    days = home / "days"
    days.mkdir()
    whole = write_feedback(home / "all.parquet", rows, seed=0)
    # A prompt has all its answers on one day.
    names = [days / f"day-{day:02}.parquet" for day in range(FILES)]
    with pq.ParquetFile(whole) as source, ExitStack() as stack:
        made = [
            stack.enter_context(pq.ParquetWriter(name, source.schema_arrow, compression="zstd"))
            for name in names
        ]
        for batch in source.iter_batches(1_000_000):
            day_of = (pl.DataFrame(batch)["prompt"].hash(0) % FILES).to_numpy()
            table = pa.Table.from_batches([batch])
            for day, writer in enumerate(made):
                writer.write_table(table.take(np.flatnonzero(day_of == day)))
    whole.unlink()
    say("made the days")
    files = sorted(days.iterdir())
    count = int(rows * SHARE)
    fresh = write_feedback(home / "fresh.parquet", count // 2, seed=FILES)
    recent, spread = home / "recent.parquet", home / "spread.parquet"
    both = pa.concat_tables([pq.read_table(fresh), late(files[-2:], count - count // 2, 1)])
    pq.write_table(both, recent, compression="zstd")
    pq.write_table(late(files, count, 2), spread, compression="zstd")
    return {"recent": recent, "spread": spread}


def timed(*words: str | Path) -> float:
    """The seconds of one command."""
    os.sync()
    command = [sys.executable, "-m", "prefmill", "pairs", *map(str, words), "--quiet"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def equal(one: Path, other: Path) -> bool:
    """Whether two outputs have the same rows in the same order, but for ids."""
    first = pl.scan_parquet(one).drop("pair_id", strict=False)
    second = pl.scan_parquet(other).drop("pair_id", strict=False)
    hashed = [frame.collect().hash_rows().to_numpy() for frame in (first, second)]
    return bool(np.array_equal(*hashed))


def copied(source: Path, target: Path) -> None:
    """A folder again, its files linked."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="where the tables go")
    options = parser.parse_args()
    same = True
    with tempfile.TemporaryDirectory(dir=options.home) as folder:
        home = Path(folder)
        arrivals = make(home, options.rows)
        days = home / "days"
        first: dict[str, float] = {}
        for name, target in TARGETS.items():
            out = home / name.replace(" ", "-")
            out.mkdir()
            first[name] = timed(days, "-o", out / target, "--incremental")
            say(f"first, {name}: {first[name]:.2f} s")
        print("| what came | candidate | seconds: median (min–max) | ÷ full run |")
        print("|---|---|--:|--:|")
        for what, arrival in arrivals.items():
            os.link(arrival, days / "late.parquet")
            seconds: dict[str, list[float]] = {"full run": [], **{name: [] for name in TARGETS}}
            for _ in range(options.rounds):
                full = home / "full.parquet"
                seconds["full run"].append(timed(days, "-o", full, "--overwrite"))
                for name, target in TARGETS.items():
                    copied(home / name.replace(" ", "-"), home / "now")
                    took = timed(days, "-o", home / "now" / target, "--incremental")
                    seconds[name].append(took)
                    same &= equal(home / "now" / target, full)
                say(f"{what}: {seconds}")
            middle = statistics.median(seconds["full run"])
            for name, some in seconds.items():
                told = f"{statistics.median(some):.2f} ({min(some):.2f}–{max(some):.2f})"
                ratio = statistics.median(some) / middle
                print(f"| {what} | {name} | {told} | {ratio:.3f} |")
            (days / "late.parquet").unlink()
        for name, took in first.items():
            print(f"| nothing yet | first run, {name} | {took:.2f} | |")
    if not same:
        say("the outputs differ")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
