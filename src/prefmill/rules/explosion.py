"""One prompt with very many answers: the pairs of all of them are refused, and never cut short."""

from __future__ import annotations

from typing import Any

import polars as pl

from prefmill.errors import BadArgument

#: Pairs that one prompt may propose: they are in memory together. The same as in
#: sql/pairs/pref_is_bounded.sql.
MOST_OF_A_PROMPT = 10_000_000
EXPLOSION_HINT = (
    "set top_k and bottom_k, or use best_rest, best_random or adjacent;"
    " max_pairs_per_prompt draws from all pairs, so it makes no fewer."
)
_HOT_HINT = (
    "set max_pairs_per_prompt, or top_k and bottom_k, or use best_rest, best_random or adjacent."
)


def proposed_by(answers: int, top_k: int | None, bottom_k: int | None) -> int:
    """The pairs of ranks that `all` and `threshold` look at, of a prompt with so many answers.

    >>> proposed_by(4, None, None), proposed_by(1_000_000, 10, 10)
    (6, 100)
    """
    every = answers * (answers - 1) // 2
    return min(every, min(answers, top_k or answers) * min(answers, bottom_k or answers))


def is_capped(strategy: str, cap: int | None) -> bool:
    """Whether of a prompt with very many answers only so many pairs are made as are drawn."""
    return strategy in ("all", "threshold") and cap is not None and cap <= MOST_OF_A_PROMPT


def is_hot(top_k: int | None, bottom_k: int | None) -> pl.Expr:
    """Whether a prompt of `_n` answers proposes too many pairs to make them all."""
    n = pl.col("_n")
    sides = [pl.min_horizontal(n, pl.lit(k, pl.Int64)) if k else n for k in (top_k, bottom_k)]
    return pl.min_horizontal(n * (n - 1) // 2, sides[0] * sides[1]) > MOST_OF_A_PROMPT


def refuse_hot_prompt(where: str, answers: int, top_k: int | None, bottom_k: int | None) -> None:
    """Raise `BadArgument` where a prompt with so many answers proposes too many pairs."""
    proposals = proposed_by(answers, top_k, bottom_k)
    if proposals > MOST_OF_A_PROMPT:
        raise BadArgument(
            f"{where}: a prompt of {answers:,} answers would propose {proposals:,} pairs;"
            f" expected at most {MOST_OF_A_PROMPT:,} of a prompt.",
            hint=_HOT_HINT,
        )


def bounded_sizes(sizes: pl.LazyFrame, top_k: int | None, bottom_k: int | None) -> pl.LazyFrame:
    """`sizes` with the answers of each prompt, `_n`; collecting them raises for one of too many."""

    def look(answers: pl.Series, **_: Any) -> pl.Series:  # Polars tells it the type
        refuse_hot_prompt("pairs", int(answers.max() or 0), top_k, bottom_k)  # type: ignore[arg-type]
        return answers

    return sizes.with_columns(pl.col("_n").map_batches(look, return_dtype=pl.Int64))
