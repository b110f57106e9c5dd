"""`prefmill.votes` on a million verdicts: each method, over answers and over sources.

    python benchmarks/bench_votes.py > votes.md
    python benchmarks/bench_votes.py --votes 100000 --only bradley-terry,elo

A vote is a judge's word on two of the four answers of a prompt, two rows of a Parquet file in long
form; a prompt has four votes. Strengths are planted, a fifth of the votes are ties, and 200 judges
differ in care. Each method runs in a process of its own, with the input in the page cache. Wall and
CPU seconds and peak memory are those of the process from after its imports on. The share of planted
orders that came out says that something was found. The table goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
from machine import in_child

import prefmill as pm
from prefmill.rules.ratings import Method

ANSWERS, JUDGES, VOTES_OF_A_PROMPT, TIES = 4, 200, 4, 0.2
STRENGTH = np.linspace(1.0, -1.0, ANSWERS)
COLUMNS = ("method", "over", "wall s", "CPU s", "peak MB", "rows out", "planted order")


def verdicts(votes: int, path: Path, seed: int = 0) -> None:
    """Write the votes: two rows for each."""
    draw = np.random.default_rng(seed)
    prompt = draw.integers(0, max(1, votes // VOTES_OF_A_PROMPT), votes)
    one = draw.integers(0, ANSWERS, votes)
    two = (one + draw.integers(1, ANSWERS, votes)) % ANSWERS
    judge = draw.integers(0, JUDGES, votes)
    care = draw.uniform(0.3, 1.0, JUDGES)[judge]
    chance = 1 / (1 + np.exp(STRENGTH[two] - STRENGTH[one]))
    wins = draw.random(votes) < np.where(draw.random(votes) < care, chance, 0.5)
    points = np.where(draw.random(votes) < TIES, 0.5, wins)
    columns = {
        "prompt": np.repeat(prompt, 2),
        "record": np.repeat(np.arange(votes), 2),
        "annotator": np.repeat(judge, 2),
        "answer": np.stack([one, two], axis=1).ravel(),
        "score": np.stack([points, 1 - points], axis=1).ravel(),
    }
    pl.DataFrame(columns).select(
        pl.format("A question of some length that has the number {}", "prompt").alias("prompt"),
        pl.format("The answer {}, in a sentence or two", "answer").alias("completion"),
        pl.format("model-{}", "answer").alias("source"),
        "record",
        "annotator",
        "score",
    ).write_parquet(path)


def run(path: Path, method: Method, over: str) -> dict[str, object]:
    """One method over the file, in this process."""
    target = path.with_name(f"{method}-{over}.parquet")
    path.read_bytes()
    before, started = time.process_time(), time.perf_counter()
    report = pm.votes(
        path,
        target,
        method=method,
        over=over,  # type: ignore[arg-type]
        roles={"group": "record"},
        overwrite=True,
    )
    wall, spent = time.perf_counter() - started, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = "source" if over == "source" else "completion"
    # The texts name planted places: a smaller one is better.
    rated = pl.read_parquet(target).select(pl.col(name).alias("name"), "score", "component")
    pairs = rated.join(rated, on="component").filter(pl.col("name") < pl.col("name_right"))
    right = (pairs["score"] > pairs["score_right"]).mean()
    return {
        "method": method,
        "over": over,
        "wall s": f"{wall:.1f}",
        "CPU s": f"{spent:.1f}",
        "peak MB": f"{peak:,.0f}",
        "rows out": f"{report.rows_out:,}",
        "planted order": f"{right:.1%}" if right is not None else "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the options ask for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--only", default=",".join(get_args(Method)), help="methods, by comma")
    parser.add_argument("--child", nargs=3, metavar=("FILE", "METHOD", "OVER"))
    options = parser.parse_args(arguments)
    if options.child:
        path, method, over = options.child
        print(json.dumps(run(Path(path), method, over)))
        return 0
    failed = False
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory(prefix="prefmill-bench-") as folder:
        path = Path(folder) / "votes.parquet"
        in_child(verdicts, options.votes, path)
        for method in options.only.split(","):
            for over in ("prompt", "source"):
                print(f"{method}, over {over}", file=sys.stderr)
                command = [sys.executable, __file__, "--child", str(path), method, over]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                failed |= done.returncode != 0
                told = json.loads(done.stdout) if done.returncode == 0 else {"method": method}
                cells = (str(told.get(column, "failed")) for column in COLUMNS)
                print(f"| {' | '.join(cells)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
