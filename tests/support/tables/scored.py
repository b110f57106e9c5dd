"""Pools with plain scores, and a scorer that stops."""

from __future__ import annotations

import random

import polars as pl
import pyarrow as pa


def pool(prompts: int = 40, seed: int = 0, *, shuffled: bool = True) -> pl.DataFrame:
    draw = random.Random(seed)

    def text(longest: int) -> str:
        return "".join(draw.choice("abcdefgh ") for _ in range(draw.randint(1, longest)))

    rows = [
        (prompt, text(30), f"id-{number}-{k}")
        for number in range(prompts)
        for prompt in [text(40)]
        for k in range(draw.randint(1, 6))
    ]
    if shuffled:
        draw.shuffle(rows)
    return pl.DataFrame(rows, schema=["prompt", "completion", "id"], orient="row")


def length(batch: pa.RecordBatch) -> list[float]:
    """A scorer whose answer depends on both texts and on nothing else."""
    return [
        len(p) * 1000.0 + len(c)
        for p, c in zip(batch["prompt"].to_pylist(), batch["completion"].to_pylist(), strict=True)
    ]


def expected(frame: pl.DataFrame) -> list[float | None]:
    return (
        frame.select(
            pl.col("prompt").str.len_chars() * 1000.0 + pl.col("completion").str.len_chars()
        )
        .to_series()
        .to_list()
    )
