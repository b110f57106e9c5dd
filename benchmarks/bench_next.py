"""How many labels does `prefmill next` save? Those of alpaca_eval are hidden, and bought in rounds.

    PREFMILL_REALDATA=DIR python benchmarks/bench_next.py [--seeds 10] [--vectors FILE.npy]
        [--methods NAME ...]

Four answers of each prompt, all their pairs; a quarter of the prompts is for testing only. Each
round buys pairs by one of the ways in `next_choices.py`, which know the labels of the rounds
before. Then a proxy is fitted to what was bought, and asked of the test pairs. Lines of `<!-- -->`
have the figures of each seed.

The first table has what it gets right less what it gets right with all labels, in points: mean and
standard error over seeds, which decide prompts, draws and rounds. `*` says that it differs from
drawn labels (paired t-test over seeds, p below 0.05 of this cell alone). The second table has the
smallest share of the labels from which on the mean is that of all of them or more, and within half
a point, with 95 % intervals (seeds resampled).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from next_choices import METHODS, Round, narrowed

from prefmill.models.embedding import Embedder
from prefmill.proxies.choice import PENALTY
from prefmill.proxies.features import features
from prefmill.proxies.fit import weights_of

SHARES = (1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2)
ANSWERS = 4
#: What a mean may be below that of all labels, to be called as good.
WITHIN = (0.0, 0.5)
#: The 97.5 % point of Student's t by degrees of freedom; far out that of the normal distribution.
_T = {4: 2.776, 9: 2.262, 19: 2.093, 29: 2.045, 39: 2.023}
_RESAMPLES = 4000


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


def bought(
    differences: np.ndarray, sides: np.ndarray, answers: int, method: str, seed: int
) -> Iterator[np.ndarray]:
    """The weights of a proxy of the labels, after each round."""
    draws = np.random.default_rng(seed)
    # Which answer is named first is not known before there is a label.
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], len(sides))[:, None]
    hidden = differences * signs
    narrow = narrowed(hidden)
    have, weights = np.empty(0, dtype=np.int64), None
    for share in SHARES:
        n = int(share * len(sides)) - len(have)
        now = Round(hidden, narrow, sides, answers, have, weights, n, draws, seed)
        have = np.concatenate([have, METHODS[method](now)]).astype(np.int64)
        assert len(np.unique(have)) == len(have) == int(share * len(sides))
        weights = weights_of(differences[have], PENALTY)
        yield weights


def measured(
    rows: np.ndarray, pairs: np.ndarray, methods: Sequence[str], seeds: Sequence[int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What all labels get right, by seed; and each method, by seed and share."""
    sides, prompts = pairs[:, :2], pairs[:, 2]
    differences = rows[sides[:, 0]] - rows[sides[:, 1]]
    names = np.unique(prompts)
    whole, told = [], {method: [] for method in methods}
    for seed in seeds:
        test = np.isin(prompts, np.random.default_rng(seed).permutation(names)[: len(names) // 4])

        def right(weights: np.ndarray, test: np.ndarray = test) -> float:
            return float(np.mean(differences[test] @ weights > 0))

        known, known_sides = differences[~test], sides[~test]
        whole.append(right(weights_of(known, PENALTY)))
        for method, found in told.items():
            rounds = bought(known, known_sides, len(rows), method, seed)
            found.append([right(weights) for weights in rounds])
            line = " ".join(f"{value:.4f}" for value in found[-1])
            print(f"<!-- {seed} {method}: {line}; all {whole[-1]:.4f} -->", flush=True)
    return np.array(whole), {method: np.array(found) for method, found in told.items()}


def smallest(gaps: np.ndarray, within: float) -> str:
    """The smallest share from which on the mean gap is within some points, with its interval."""
    draws = np.random.default_rng(0).integers(0, len(gaps), (_RESAMPLES, len(gaps)))

    def first(means: np.ndarray) -> np.ndarray:
        enough = 100 * means >= -within
        lasting = np.logical_and.accumulate(enough[:, ::-1], axis=1)[:, ::-1]
        shares = np.array([*SHARES, 1.0])
        return shares[np.where(lasting.any(axis=1), lasting.argmax(axis=1), len(SHARES))]

    (found,) = first(gaps.mean(axis=0)[None])
    low, high = np.quantile(first(gaps[draws].mean(axis=1)), [0.025, 0.975], method="nearest")
    return f"{found:.3f} ({low:.3f} to {high:.3f})"


def tables(whole: np.ndarray, told: dict[str, np.ndarray]) -> None:
    """Print both tables."""
    print(f"\n| method | {' | '.join(f'{share:.3f}' for share in SHARES)} |")
    print(f"|---|{'--:|' * len(SHARES)}")
    far = _T.get(len(whole) - 1, 1.96)
    for method, found in told.items():
        gaps, cells = found - whole[:, None], []
        for place in range(len(SHARES)):
            mean, error = gaps[:, place].mean(), gaps[:, place].std(ddof=1) / len(gaps) ** 0.5
            better = found[:, place] - told["drawn"][:, place]
            spread = better.std(ddof=1) / len(better) ** 0.5
            mark = "\\*" if abs(better.mean()) > far * spread > 0 else ""
            cells.append(f"{100 * mean:+.2f} ± {100 * error:.2f}{mark}")
        print(f"| {method} | {' | '.join(cells)} |")
    print(f"\n| method | {' | '.join(f'within {each} points' for each in WITHIN)} |")
    print(f"|---|{'--:|' * len(WITHIN)}")
    for method, found in told.items():
        cells = [smallest(found - whole[:, None], within) for within in WITHIN]
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=200, help="the first seed")
    parser.add_argument("--vectors", type=Path, help="kept there, for another run")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    asked = parser.parse_args()
    frame = pool()
    if asked.vectors and asked.vectors.exists():
        rows = np.load(asked.vectors)
    else:
        rows = features(Embedder(None, max_tokens=128, where="bench"), frame["completion"])
        if asked.vectors:
            np.save(asked.vectors, rows)
    pairs = pairs_of(frame)
    longer = np.mean(rows[pairs[:, 0], -2] > rows[pairs[:, 1], -2])
    print(f"{len(frame):,} answers, {len(pairs):,} pairs; the longer one is right: {longer:.3f}")
    seeds = range(asked.first, asked.first + asked.seeds)
    methods = list(dict.fromkeys(["drawn", *asked.methods]))
    whole, told = measured(rows, pairs, methods, seeds)
    print(f"\nall labels: {whole.mean():.4f} over {asked.seeds} seeds")
    tables(whole, told)


if __name__ == "__main__":
    main()
