"""How many labels does `prefmill next` save? Those of alpaca_eval are hidden, and bought in rounds.

    PREFMILL_REALDATA=DIR python benchmarks/bench_next.py [--seeds 10] [--vectors FILE.npy]

Four answers of each prompt, all their pairs; a quarter of the prompts is for testing only. Each
round buys pairs: those that `next` wants, by a proxy of the labels that it has, or drawn ones. The
table shows what a proxy of so many labels gets right of the test pairs, less what it gets right
with all labels: mean and standard error over seeds, which decide prompts, draws and rounds.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import polars as pl

from prefmill.models.embedding import Embedder
from prefmill.proxies.choice import keys_of, spread
from prefmill.proxies.features import features
from prefmill.proxies.fit import weights_of

SHARES = (1 / 24, 1 / 12, 1 / 6, 1 / 4, 1 / 3)
ANSWERS = 4


def pool() -> pl.DataFrame:
    """Four different answers of each prompt, drawn by a seed."""
    path = Path(os.environ["PREFMILL_REALDATA"]) / "alpaca_eval" / "weighted_part1.parquet"
    rows = pl.read_parquet(path).unique(["prompt", "completion"], keep="first", maintain_order=True)
    drawn = rows.sample(fraction=1, shuffle=True, seed=7)
    return drawn.group_by("prompt", maintain_order=True).head(ANSWERS).sort("prompt", "score")


def pairs_of(frame: pl.DataFrame) -> np.ndarray:
    """The better answer, the worse one, and the prompt of each pair with different scores."""
    rows = frame.with_row_index("at").with_columns(group=pl.col("prompt").rank("dense"))
    both = rows.join(rows, on="group", suffix="_b").filter(pl.col("score") > pl.col("score_b"))
    return both.select("at", "at_b", "group").to_numpy().astype(np.int64)


def bought(differences, sides, answers, method, seed):
    """The pairs that are labelled after each round."""
    draws, have = np.random.default_rng(seed), []
    order = draws.permutation(len(sides))
    for share in SHARES:
        wanted = int(share * len(sides))
        if method == "drawn":
            have = order[:wanted].tolist()
        else:
            margins = None
            if have:
                margins = differences @ weights_of(differences[have])
            keys = keys_of(margins, len(sides), seed)
            met = np.bincount(sides[have].ravel(), minlength=answers) if have else [0] * answers
            left = np.setdiff1d(np.arange(len(sides)), have)
            fresh = spread(sides[left], keys[left], wanted - len(have), met)
            have = [*have, *left[fresh].tolist()]
        yield have


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=200, help="the first seed")
    parser.add_argument("--vectors", type=Path, help="kept there, for another run")
    asked = parser.parse_args()
    frame = pool()
    if asked.vectors and asked.vectors.exists():
        rows = np.load(asked.vectors)
    else:
        rows = features(Embedder(None, max_tokens=128, where="bench"), frame["completion"])
        if asked.vectors:
            np.save(asked.vectors, rows)
    pairs = pairs_of(frame)
    sides, prompts = pairs[:, :2], pairs[:, 2]
    differences = rows[sides[:, 0]] - rows[sides[:, 1]]
    longer = np.mean(differences[:, -2] > 0)
    print(f"{len(frame):,} answers, {len(pairs):,} pairs; the longer one is right: {longer:.3f}")
    whole, told = [], {"next": [], "drawn": []}
    for seed in range(asked.first, asked.first + asked.seeds):
        names = np.unique(prompts)
        test = np.isin(prompts, np.random.default_rng(seed).permutation(names)[: len(names) // 4])

        def right(trained, test=test):
            return float(np.mean(differences[test] @ weights_of(trained) > 0))

        known, known_sides = differences[~test], sides[~test]
        whole.append(right(known))
        for method, found in told.items():
            rounds = bought(known, known_sides, len(frame), method, seed)
            found.append([right(known[have]) - whole[-1] for have in rounds])
    print(f"all {int(np.sum(~test)):,} labels: {np.mean(whole):.4f} over {asked.seeds} seeds\n")
    print("| share of the labels | next | drawn | next better, of seeds |")
    print("|--:|--:|--:|--:|")
    one, other = np.array(told["next"]), np.array(told["drawn"])
    for place, share in enumerate(SHARES):
        cells = [
            f"{each[:, place].mean():+.4f} ± {each[:, place].std(ddof=1) / len(each) ** 0.5:.4f}"
            for each in (one, other)
        ]
        wins = int((one[:, place] > other[:, place]).sum())
        print(f"| {share:.3f} | {' | '.join(cells)} | {wins} |")


if __name__ == "__main__":
    main()
