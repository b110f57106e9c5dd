"""Every kind of plan on a cluster and on this machine: the same rows in order, the same report.

    python ray_equals.py ROWS [SHUFFLE]

A head without CPUs and three nodes of one. The input is made in the temporary folder. Prints a line
for each plan, and ends with 1 where one differs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import prefmill as pm

STEP, ANSWERS = 250_000, 5
NODES, MEMORY = 3, 2 << 30
#: Of the report: where and how fast.
_OF_THE_PLACE = ("seconds", "peak_rss_mb", "worker_rss_mb", "engine", "output")

PLANS: dict[str, Any] = {
    "pairs best_worst": pm.Pairs(),
    "pairs best_random": pm.Pairs(strategy="best_random", seed=3),
    "pairs best_rest": pm.Pairs(strategy="best_rest", min_margin=1),
    "pairs adjacent": pm.Pairs(strategy="adjacent", top_k=3),
    "pairs all": pm.Pairs(strategy="all", max_pairs_per_prompt=4, seed=5),
    "pairs threshold": pm.Pairs(strategy="threshold", chosen_min=8, rejected_below=4),
    "pairs threshold, quantiles": pm.Pairs(
        strategy="threshold", chosen_quantile=0.8, rejected_quantile=0.3
    ),
    "labels": pm.Unpaired(chosen_min=7, rejected_below=5),
    "labels, auto": pm.Unpaired(),
    "best-of best": pm.BestOf(k=2),
    "best-of median": pm.BestOf(pick="median"),
    "best-of random": pm.BestOf(pick="random", seed=9),
    "best-of rso": pm.BestOf(pick="rso", k=2, seed=9),
    "best-of majority": pm.BestOf(pick="majority"),
    "best-of best, stages last": pm.BestOf(stages="last"),
    "advantages centered": pm.Advantage(method="centered"),
    "advantages grpo": pm.Advantage(method="grpo"),
    "advantages rloo": pm.Advantage(method="rloo"),
    "advantages rank": pm.Advantage(method="rank"),
}


def write_pool(path: Path, rows: int) -> None:
    """Five answers a prompt in random order, with ties, nulls, repeats and numbers that are none.

    So many rows at a time, whatever their number.
    """
    rng = np.random.default_rng(14)
    order = rng.permutation(rows).astype(np.int64)
    words = np.array([f"w{number * 7_919 % 5_003:x}" for number in range(5_003)])
    writer = None
    for first in range(0, rows, STEP):
        row = order[first : first + STEP]
        prompt, count = row // ANSWERS, len(row)
        text = words[rng.integers(0, len(words), (count, 24))]
        frame = pl.DataFrame(
            {
                "prompt": prompt,
                "completion": [" ".join(each) for each in text.tolist()],
                "score": rng.integers(0, 21, count) / 2,
                "stage": prompt % 2 + row % 2,
                "answer": row % 3,
            }
        ).with_columns(
            pl.when(pl.col("prompt") % 997 != 5)
            .then(pl.format("What of {}, and of it?", "prompt"))
            .alias("prompt"),
            pl.when(pl.col("prompt") % 11 == 0)
            .then(pl.lit("the same words"))
            .when(pl.lit(rng.random(count)) < 0.99)
            .then(pl.col("completion"))
            .alias("completion"),
            pl.when(pl.lit(rng.random(count)) < 0.005)
            .then(pl.lit(float("nan")))
            .when(pl.lit(rng.random(count)) < 0.99)
            .then(pl.col("score"))
            .alias("score"),
            pl.col("answer").cast(pl.String),
        )
        table = frame.to_arrow().cast(_schema())
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=61_440)
    assert writer is not None
    writer.close()


def _schema() -> pa.Schema:
    kinds = [pa.string(), pa.string(), pa.float64(), pa.int64(), pa.string()]
    return pa.schema(
        list(zip(["prompt", "completion", "score", "stage", "answer"], kinds, strict=True))
    )


def content(path: Path) -> tuple[int, str]:
    """The rows of a file, and a hash of its schema and of them in their order."""
    file, rows = pq.ParquetFile(path), 0
    said = hashlib.sha256(str(file.schema_arrow.remove_metadata()).encode())
    for batch in file.iter_batches(65_536):
        rows += batch.num_rows
        # Hashes of a row: the division into batches is nothing to them.
        said.update(pl.DataFrame(pa.Table.from_batches([batch])).hash_rows(1).to_numpy())
    return rows, said.hexdigest()


def told(report: pm.RunReport) -> Any:
    """A report without what says where and how fast a run was."""
    said = {name: value for name, value in report.as_json().items() if name not in _OF_THE_PLACE}
    said["notes"] = [note for note in report.notes if not note.startswith("shuffle: ")]
    return json.loads(json.dumps(said))


def looks(source: Path) -> dict[str, Any]:
    """Questions that write nothing, each of an engine: what it says, without a place or time."""
    curve = {"conclusion": "answer", "check": "stage", "k": ANSWERS, "resamples": 50}

    def of_curve(**where: Any) -> Any:
        return pm.curve(source, **curve, **where).as_json()

    def of_check(**where: Any) -> Any:
        from prefmill.runs.looks.check import check

        return json.loads(json.dumps(asdict(check(source, **where)), default=str))

    return {"curve": of_curve, "check": of_check}


def says(name: str, same: bool, rows: int, here: float, there: float, more: str = "") -> bool:
    """A line of the table."""
    verdict = "same" if same else f"DIFFERS {more}"
    print(f"| {name} | {rows:,} | {here:.1f} | {there:.1f} | {verdict} |", flush=True)
    return same


def timed(call: Any, *given: Any, **options: Any) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    started = time.perf_counter()
    return call(*given, **options), time.perf_counter() - started


def differing(one: Any, other: Any) -> str:
    """The names whose values differ."""
    return ", ".join(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def compare(name: str, plan: Any, source: Path, folder: Path, there: dict[str, Any]) -> bool:
    """One plan on both; its files are removed."""
    here, far = folder / "here.parquet", folder / "there.parquet"
    words = {"roles": {"conclusion": "answer"} if "majority" in name else {}}
    mine, seconds = timed(pm.run, plan, source, here, engine="duckdb", **words)
    other, seconds_there = timed(pm.run, plan, source, far, **words, **there)
    rows, expected = content(here)
    wrong = differing(told(mine), told(other))
    if content(far) != (rows, expected):
        wrong = f"rows; {wrong}"
    for path in folder.iterdir():
        if path != source:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return says(name, not wrong, rows, seconds, seconds_there, wrong)


def main(rows: int, shuffle: str = "auto") -> int:
    """The whole table; how many plans differ."""
    import ray_nodes

    with tempfile.TemporaryDirectory() as home, ray_nodes.nodes(NODES, 1, MEMORY) as cluster:
        folder = Path(home)
        source = folder / "pool.parquet"
        write_pool(source, rows)
        there = {"engine": "ray", "address": cluster.address, "shuffle": shuffle}
        print(f"| {rows:,} rows, shuffle {shuffle} | rows out | local s | cluster s | |")
        print("|---|--:|--:|--:|---|", flush=True)
        same = [compare(name, plan, source, folder, there) for name, plan in PLANS.items()]
        for name, call in looks(source).items():
            (mine, seconds), (other, far) = timed(call), timed(call, **there)
            wrong = differing(mine, other)
            same.append(says(name, not wrong, len(mine), seconds, far, wrong))
    return same.count(False)


if __name__ == "__main__":  # pytest imports every file, for doctests
    warnings.simplefilter("ignore")
    sys.exit(bool(main(int(sys.argv[1]), *sys.argv[2:])))
