"""Tables for the engines of many machines: `python benchmarks/spread_tables.py FILE ROWS` makes
one, and `digest` says whether two outputs hold the same rows, in whatever order.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import polars as pl

PAIR = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")


def make(path: str, rows: int, *, answers: int = 4) -> None:
    """`rows` rated answers, about `answers` to a prompt, in no order; `row` numbers them."""
    number = pl.int_range(rows, eager=True).alias("row")
    prompts = max(1, rows // answers)
    word = (number * 2_654_435_761 % 1_000_003).cast(pl.String)
    frame = pl.DataFrame(
        {
            "row": number,
            "prompt": "Question " + (number * 7919 % prompts).cast(pl.String) + " " + "why? " * 20,
            "completion": "Answer " + word + " " + "because of it. " * 20,
            "score": (number * 40_503 % 65_521 % 5 + 1).cast(pl.Float64),
        }
    )
    frame.write_parquet(path, row_group_size=100_000)


def digest(folder: str) -> tuple[int, str]:
    """How many pairs the Parquet files of a folder, or a file, hold, and a hash of them all."""
    files = sorted(map(str, Path(folder).rglob("*.parquet"))) or [folder]
    frame = pl.concat([pl.read_parquet(file, columns=list(PAIR)) for file in files])
    lines = frame.select(pl.concat_str(PAIR, separator="\x1f")).to_series().sort()
    hashed = hashlib.sha256()
    for line in lines:
        hashed.update(line.encode() + b"\n")
    return frame.height, hashed.hexdigest()[:16]


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
