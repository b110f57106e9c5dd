"""Pools with hypothesis: curves are counted on them."""

from __future__ import annotations

import math
import random

import polars as pl
from hypothesis import strategies as st


def pool_of(pools: list[list[float]]) -> pl.DataFrame:
    rows = [
        (f"p{i}", str(j), score) for i, scores in enumerate(pools) for j, score in enumerate(scores)
    ]
    return pl.DataFrame(
        rows,
        schema={"prompt": pl.String, "completion": pl.String, "score": pl.Float64},
        orient="row",
    )


def drawn(seed: int, prompts: int = 40, rows: int = 500) -> pl.DataFrame:
    draw = random.Random(seed)
    rows_ = [
        (
            f"p{draw.randrange(prompts)}",
            str(i),
            draw.choice([1.0, 2.0, None, math.nan, draw.random()]),
            draw.choice([0.1, 0.9, None]),
        )
        for i in range(rows)
    ]
    return pl.DataFrame(
        rows_,
        schema={
            "prompt": pl.String,
            "completion": pl.String,
            "score": pl.Float64,
            "temperature": pl.Float64,
        },
        orient="row",
    )


scores = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
