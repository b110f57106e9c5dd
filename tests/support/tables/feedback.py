"""Feedback with ties, repeats and rows that cannot be used, and a plan of every kind."""

from __future__ import annotations

import random

import polars as pl

import prefmill as pm


def feedback(seed: int, prompts: int = 400) -> pl.DataFrame:
    draw = random.Random(seed)
    rows = [
        (
            f"prompt {draw.randrange(prompts)}",
            f"answer {draw.randrange(40)} " + "x" * draw.randrange(300),
            draw.choice([1, 2, 3, 4, 5, None]),
            i,
        )
        for i in range(6000)
    ]
    return pl.DataFrame(
        rows, schema=["prompt", "completion", "score", "id"], orient="row"
    ).with_columns(pl.col("id").cast(pl.String))


PLANS = [
    pm.Pairs(),
    pm.Pairs(strategy="best_random", seed=5),
    pm.Pairs(strategy="all", chosen_min=None, rejected_below=None, max_pairs_per_prompt=7, seed=1),
    pm.Pairs(strategy="adjacent", aggregate="mean", min_margin=0.5, chosen_min=3),
    pm.Unpaired(rejected_below=3),
    pm.BestOf(),
    pm.BestOf(k=3, pick="random", seed=2),
    pm.BestOf(k=2, pick="median", aggregate="mean", min_score=2),
    pm.BestOf(k=700, scope="pool", pick="worst"),
    pm.BestOf(k=2, pick="rso", beta=1, seed=4, length_control=True),
    pm.Advantage(method="grpo"),
    pm.Advantage(method="rank", aggregate="mean"),
]


def rows(path, columns: list[str] | None = None) -> list[tuple]:
    return pl.read_parquet(path, columns=columns).rows()
