"""What selection for training adds to best-of-K: statistical rejection sampling, and scores without
what length explains of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from prefmill.rules.rows import Candidates
from prefmill.table.chance import message_keys, mix32_array
from prefmill.table.numbers import rounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


def accepted(pools: pl.Expr, k: int, beta: float) -> pl.Expr:
    """The ranks (List(Int64), 1 the worst, in no order) that statistical rejection sampling accepts
    in each pool.

    `pools` is a struct of `_scores` (a list in rank order, worst first) and `_hash`. Each pool is
    by itself: they may come in any batches.
    """
    return pools.map_batches(
        lambda s: accepted_ranks(s, k, beta), return_dtype=pl.List(pl.Int64), is_elementwise=True
    )


def accepted_ranks(pools: pl.Series, k: int, beta: float) -> pl.Series:
    """`accepted` of a series, all pools a pass at a time: Liu et al. 2024 (arXiv:2309.06657),
    Algorithm 1, candidates in a drawn order.

    Raises nothing; cost: a pass over what is left of all pools, at most `k` times.

    >>> pools = pl.Series([{"_scores": [0.0, 1.0, 5.0], "_hash": 7}])
    >>> accepted_ranks(pools, 2, 1e-9).to_list()  # the best two, as beta goes to 0
    [[3, 2]]
    """
    lists = pools.struct.field("_scores")
    sizes = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    scores = lists.explode(empty_as_null=False).to_numpy()
    pool = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(scores)) - starts[pool] + 1
    hashes = pools.struct.field("_hash").cast(pl.UInt64).to_numpy() & np.uint64(0xFFFFFFFF)
    draw = mix32_array(hashes[pool] ^ rank.astype(np.uint64))
    passes = np.full(len(scores), k + 1)
    left, taken = np.arange(len(scores)), np.zeros(len(sizes), dtype=np.int64)
    with np.errstate(over="ignore"):  # a difference beyond float64 is -inf, and its exponential 0
        for number in range(1, k + 1):
            left = left[taken[pool[left]] < k]
            if not len(left):
                break
            best = np.full(len(sizes), -np.inf)
            best[pool[left]] = scores[
                left
            ]  # they are in rank order: the last one written is the best
            chance = np.exp((scores[left] - best[pool[left]]) / beta)
            takes = mix32_array(draw[left] ^ np.uint64(number)) < chance * 2.0**32
            passes[left[takes]] = number
            taken += np.bincount(pool[left[takes]], minlength=len(sizes))
            left = left[~takes]
    order = np.lexsort((rank, draw, passes, pool))
    kept = order[np.arange(len(order)) - starts[pool] < k]
    ends = np.cumsum(np.minimum(sizes, k))
    ranks = pl.Series(rank[kept], dtype=pl.Int64)
    return (
        pl.DataFrame({"pool": pl.Series(pool[kept], dtype=pl.Int64), "rank": ranks})
        .pipe(_listed, ends)
        .alias(pools.name)
    )


def _listed(kept: pl.DataFrame, ends: npt.NDArray[np.int64]) -> pl.Series:
    """The ranks of each pool as one list, empty where a pool is."""
    pools = pl.DataFrame({"pool": pl.int_range(len(ends), eager=True)})
    lists = kept.group_by("pool", maintain_order=True).agg("rank")
    return pools.join(lists, on="pool", how="left", maintain_order="left")["rank"].fill_null([])


def characters(completion: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The length of a completion of type `dtype` in Unicode code points; of a message list, that of
    all its contents together.
    """
    if isinstance(dtype, pl.List):
        _, content = message_keys(dtype, "completion")
        return (
            completion.list.eval(pl.element().struct.field(content).cast(pl.String).str.len_chars())
            .list.sum()
            .cast(pl.Int64)
        )
    return completion.cast(pl.String).str.len_chars().cast(pl.Int64)


def measured(judged: Candidates) -> pl.LazyFrame:
    """The candidates that stand, with _length."""
    dtype = judged.rows.collect_schema()["_completion"]
    lengths = judged.rows.select("_pos", _length=characters(pl.col("_completion"), dtype))
    return judged.candidates.filter(pl.col("_reason").is_null()).join(
        lengths, on="_pos", how="left"
    )


def length_fit(candidates: pl.LazyFrame) -> pl.LazyFrame:
    """One row over the output of `measured`: slope, correlation, mean; what they are is in
    `sql/picks/pref_length_fit.sql`.
    """
    score, length = pl.col("_score"), pl.col("_length").cast(pl.Float64)
    over, along = score - score.mean(), length - length.mean()
    sums = candidates.group_by("_grp").agg(
        _xx=(along * along).sum(),
        _xy=(along * over).sum(),
        _yy=(over * over).sum(),
        _total=pl.col("_length").sum(),
        _n=pl.len(),
        _varies=score.min() < score.max(),
    )
    # Equal scores have a mean that may differ from them in the last bit: that is no spread.
    xy, yy = (pl.when("_varies").then(name).otherwise(0.0).sum() for name in ("_xy", "_yy"))
    xx = pl.col("_xx").sum()
    correlation = pl.when(xx > 0, yy > 0).then(xy / xx.sqrt() / yy.sqrt())
    return sums.select(
        slope=_finite(pl.when(xx > 0).then(1000 * xy / xx)).fill_null(0.0),
        correlation=_finite(correlation),
        mean=_finite(pl.col("_total").sum().cast(pl.Float64) / pl.col("_n").sum()),
    )


def adjusted(candidates: pl.LazyFrame) -> pl.LazyFrame:
    """The output of `measured` with its residual after length as _score, and the score as it was as
    _given.
    """
    gap = (pl.col("_length").cast(pl.Float64) - pl.col("mean")) * pl.col("slope") * 0.001
    return candidates.join(length_fit(candidates), how="cross").with_columns(
        _given=pl.col("_score"), _score=rounded(pl.col("_score") - gap) + 0.0
    )


def fit_of(judged: Candidates) -> Mapping[str, float | None]:
    """`length_fit` of the candidates, collected."""
    return dict(length_fit(measured(judged)).collect().row(0, named=True))


def _finite(value: pl.Expr) -> pl.Expr:
    """As `sql/cells/pref_finite.sql`."""
    return pl.when(value.is_finite()).then(rounded(value))
