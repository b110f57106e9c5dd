"""Are outputs the same on the oldest and on the newest versions? Hashes of what comes out of files.

    python benchmarks/range_hashes.py FOLDER > newest.json
    .venv-oldest/bin/python benchmarks/range_hashes.py FOLDER > oldest.json
    diff newest.json oldest.json    # the versions differ, and nothing else

FOLDER is that of PREFMILL_REALDATA. Every plan runs on both engines, in Parquet and JSON lines. A
hash is of the rows in their order, not of the bytes of the file: writers of Parquet differ.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

import prefmill as pm

OPEN = {"chosen_min": None, "rejected_below": None}
HALF = {"chosen_min": 0.5, "rejected_below": 0.1}
VERSIONS = ("polars", "duckdb", "pyarrow", "numpy", "typer", "rich", "zstandard")

PLANS = {
    "pairs": pm.Pairs(**OPEN),
    "random": pm.Pairs(strategy="best_random", seed=7, **OPEN),
    "rest": pm.Pairs(strategy="best_rest", top_k=2, bottom_k=3, **OPEN),
    "adjacent": pm.Pairs(strategy="adjacent", aggregate="mean", min_margin=0.001, **OPEN),
    "capped": pm.Pairs(strategy="all", max_pairs_per_prompt=5, seed=7, **OPEN),
    "half": pm.Pairs(**HALF),
    "labels": pm.Unpaired(**HALF),
    "best": pm.BestOf(k=4),
    "length": pm.BestOf(k=4, length_control=True),
    "rso": pm.BestOf(k=4, pick="rso", beta=0.2, seed=3),
    "pool": pm.BestOf(k=100, scope="pool"),
    "advantages": pm.Advantage(),
    "grpo": pm.Advantage(method="grpo"),
}
#: A file, and how its columns are told.
FILES = {
    "alpaca_eval/weighted_part1.parquet": {},
    "oasst/assistant_rows.jsonl": {"completion": "answer", "score": "-rank"},
    "alpaca_eval/gpt4_discrete.jsonl.gz": {},
    "pandalm/testset_v1.jsonl": {},
}


def digest(path: Path) -> str:
    """The hash of the rows of `path`, in their order."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def outcome(plan: pm.Pairs, source: Path, roles: dict, engine: str, ending: str) -> list:
    """The hash and the counts of one run, or the error."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, f"out{ending}")
        try:
            report = pm.run(plan, source, target, engine=engine, roles=roles, allow_empty=True)
        except pm.PrefmillError as error:
            return ["refused", str(error).replace(str(source), source.name)]
        return [digest(target), report.rows_in, report.rows_used, report.dropped]


def main(folder: Path) -> None:
    told: dict = {"versions": {name: version(name) for name in VERSIONS}}
    for file, roles in FILES.items():
        for name, plan in PLANS.items():
            for engine in ("duckdb", "polars"):
                for ending in (".parquet", ".jsonl"):
                    line = f"{file} {name} {engine} {ending}"
                    told[line] = outcome(plan, folder / file, roles, engine, ending)
    json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
