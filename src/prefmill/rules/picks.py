"""Best-of-K as lazy Polars expressions, under the names of the macros.

candidates ──pools──▶ pools ──picks, rso──▶ picks ──▶ best_report
candidates, numbered ──agreeing──▶ agreeing ──pools, picks──▶ ranked ──agreed──▶ picks
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.errors import BadArgument
from prefmill.rules.rows import drawn, dropped, in_rank_order, rows_in, standing
from prefmill.table.chance import mix32, mix32_array
from prefmill.table.numbers import plain_zero
from prefmill.table.older import taken
from prefmill.table.report import PairReport


def pools(
    candidates: pl.LazyFrame,
    *,
    k: int = 1,
    pick: str = "best",
    scope: str = "prompt",
    min_score: float | None = None,
    tie_break: str = "position",
) -> pl.LazyFrame:
    """What is picked from: _grp ("" for the whole table), _first, _n, and _scores and _positions in
    rank order, worst first. `k` and `pick` are told to the macro, which leaves out what they do.
    """
    order = in_rank_order(tie_break)
    rows = standing(candidates)
    if min_score is not None:
        rows = rows.filter(pl.col("_score") >= min_score)
    key = pl.col("_grp") if scope == "prompt" else pl.lit("").alias("_grp")
    return rows.group_by(key).agg(
        _first=pl.col("_pos").min(),
        _n=pl.len().cast(pl.Int64),
        _scores=pl.col("_score").sort_by(order),
        _positions=pl.col("_pos").sort_by(order),
    )


def picks(
    pools: pl.LazyFrame, *, k: int = 1, pick: str = "best", scope: str = "prompt", seed: int = 0
) -> pl.LazyFrame:
    """What is picked by rank alone: _first (of the pool), _rank (1: the best), _pos, _score.

    The key of a pool of the whole table is "" whatever `scope` says.
    """
    n = pl.col("_n")
    spare = pl.max_horizontal(n - k, 0)
    start, stop = {
        "best": (spare + 1, n + 1),
        "worst": (pl.lit(1), pl.min_horizontal(n, k) + 1),
        "median": (spare // 2 + 1, pl.min_horizontal(spare // 2 + k, n) + 1),
        "random": (pl.lit(1), n + 1),
    }[pick]
    chance = {"_hash": drawn(pools, seed)} if pick == "random" else {}
    ranked = _ranked(pools.with_columns(_up=pl.int_ranges(start, stop), **chance), chance)
    if pick != "random":
        return ranked
    draw = mix32(pl.col("_hash") % 2**32 ^ pl.col("_up").cast(pl.UInt64))
    place = pl.int_range(pl.len()).over("_first")
    return ranked.sort(draw, "_up").filter(place < k)


def agreeing(
    candidates: pl.LazyFrame,
    numbered: pl.LazyFrame,
    *,
    min_score: float | None = None,
    tie_break: str = "position",
) -> pl.LazyFrame:
    """The candidates that come to the conclusion of most in their group, with _agreeing, how many.

    Of conclusions with as many it is that of the better candidate. Candidates below `min_score`
    have no vote, and are left out; the macro keeps them, for the groups that they are of.
    """
    order = in_rank_order(tie_break)
    said = numbered.select("_pos", _conclusion=pl.col("_conclusion").cast(pl.String))
    rows = standing(candidates).join(said, on="_pos", how="left")
    if min_score is not None:
        rows = rows.filter(pl.col("_score") >= min_score)
    listed = [name for name in rows.collect_schema().names() if name not in ("_grp", "_conclusion")]
    tops = {f"_top{name}": pl.col(name).sort_by(order).last() for name in order}
    votes = rows.group_by("_grp", "_conclusion").agg(
        *listed, **tops, _agreeing=pl.len().cast(pl.Int64)
    )
    best = ["_agreeing", *tops]
    won = votes.group_by("_grp").agg(
        pl.col(name).sort_by(best).last() for name in (*listed, "_agreeing")
    )
    return won.explode(listed, empty_as_null=False)


def agreed(ranked: pl.LazyFrame, agreeing: pl.LazyFrame) -> pl.LazyFrame:
    """Picks with _agreeing."""
    return ranked.join(agreeing.select("_pos", "_agreeing"), on="_pos", how="left")


def rso(pools: pl.LazyFrame, *, k: int = 1, seed: int = 0, beta: float = 0.5) -> pl.LazyFrame:
    """What statistical rejection sampling accepts; columns as of `picks`."""
    hashed = pools.with_columns(_hash=drawn(pools, seed))
    return _ranked(hashed.with_columns(_up=accepted(pl.struct("_scores", "_hash"), k, beta)))


def _ranked(pools: pl.LazyFrame, chance: Iterable[str] = ()) -> pl.LazyFrame:
    """A row for each of the ranks `_up`, which count from the worst."""
    place = pl.col("_up") - 1
    lists = {
        "_pos": taken("_positions", place, pl.Int64),
        "_score": taken("_scores", place, pl.Float64),
    }
    return (
        pools.select("_first", "_n", "_up", *chance, **lists)
        .explode("_up", *lists, empty_as_null=False)
        .with_columns(_rank=pl.col("_n") - pl.col("_up") + 1)
    )


def accepted(pools: pl.Expr, k: int, beta: float) -> pl.Expr:
    """The ranks (List(Int64), 1 the worst, in no order) that statistical rejection sampling accepts
    in each pool.

    `pools` is a struct of `_scores` (a list in rank order, worst first) and `_hash`. Each pool is
    by itself: they may come in any batches.
    """
    return pools.map_batches(
        lambda part: accepted_ranks(part, k, beta),
        return_dtype=pl.List(pl.Int64),
        is_elementwise=True,
    )


def accepted_ranks(pools: pl.Series, k: int, beta: float) -> pl.Series:
    """`accepted` of a series, all pools a pass at a time.

    Source: Liu et al. 2024 (arXiv:2309.06657), Algorithm 1, candidates in a drawn order. Cost: a
    pass over what is left of all pools, at most `k` times.

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
            # In rank order: of one pool the last score that is written is the best.
            best[pool[left]] = scores[left]
            chance = np.exp((scores[left] - best[pool[left]]) / beta)
            takes = mix32_array(draw[left] ^ np.uint64(number)) < chance * 2.0**32
            passes[left[takes]] = number
            taken += np.bincount(pool[left[takes]], minlength=len(sizes))
            left = left[~takes]
    order = np.lexsort((rank, draw, passes, pool))
    kept = order[np.arange(len(order)) - starts[pool] < k]
    return _lists(pool[kept], rank[kept], len(sizes)).alias(pools.name)


def _lists(pool: npt.NDArray[np.int64], rank: npt.NDArray[np.int64], pools: int) -> pl.Series:
    """The ranks of each pool as one list, empty where a pool is."""
    kept = pl.DataFrame({"pool": pool, "rank": rank}, schema={"pool": pl.Int64, "rank": pl.Int64})
    lists = kept.group_by("pool", maintain_order=True).agg("rank")
    every = pl.DataFrame({"pool": pl.int_range(pools, eager=True)})
    return every.join(lists, on="pool", how="left", maintain_order="left")["rank"].fill_null([])


def best_report(
    counted: pl.LazyFrame,
    candidates: pl.LazyFrame,
    pools: pl.LazyFrame,
    picks: pl.LazyFrame,
    *,
    scope: str = "prompt",
    min_score: float | None = None,
) -> PairReport:
    """Account for every row; `picks` has a _pos for every row of output.

    Groups are prompts, also where one pool is the whole table: neither `pools` nor `scope` is read.
    """
    marked = picks.select("_pos", _picked=pl.lit(True))
    rows = standing(candidates).join(marked, on="_pos", how="left")
    rows = rows.with_columns(pl.col("_picked").fill_null(False))
    votes = pl.col("_votes")
    low = pl.lit(False) if min_score is None else pl.col("_score") < min_score
    groups = rows.group_by("_grp").agg(
        _used=votes.filter("_picked").sum(),
        _low=votes.filter(low).sum(),
        _votes=votes.filter(~low).sum(),
        _out=pl.col("_picked").sum(),
    )
    sums = groups.select(
        pl.col("_used", "_low", "_votes", "_out").sum(),
        groups_in=pl.len(),
        groups_used=(pl.col("_out") > 0).sum(),
    ).collect()
    counts = {name: int(value) for name, value in sums.row(0, named=True).items()}
    reasons = dropped(counted, candidates)
    if counts["_low"]:
        reasons["below_min_score"] = counts["_low"]
    return PairReport(
        rows_in=rows_in(counted),
        rows_used=counts["_used"],
        rows_not_selected=counts["_votes"] - counts["_used"],
        dropped=dict(sorted(reasons.items())),
        groups_in=counts["groups_in"],
        groups_used=counts["groups_used"],
        pairs_out=counts["_out"],
    )


def rank_in(score: pl.Expr, *over: str | pl.Expr) -> pl.Expr:
    """The rank of each row in its group (Int64): 1 for the best.

    Among equal scores the later row is the better, as in every plan. `over` are the columns that
    group, usually the prompt. `score` holds numbers (or booleans): a row whose score is null, NaN
    or infinite has no rank, nor has one with a null among the columns that group. Rows keep their
    order.

    >>> scores = [2.0, 3.0, 3.0, float("nan")]
    >>> pool = pl.DataFrame({"prompt": ["p", "p", "p", "q"], "score": scores})
    >>> pool.select(rank_in(pl.col("score"), "prompt")).to_series().to_list()
    [3, 2, 1, None]
    """
    if not over:
        raise BadArgument(
            "rank_in: no column to group by; got none, expected for example 'prompt'."
        )
    groups = [pl.col(name) if isinstance(name, str) else name for name in over]
    value = plain_zero(score.cast(pl.Float64))
    usable = pl.when(value.is_finite(), *(group.is_not_null() for group in groups)).then(value)
    ranked = usable.count().over(groups).cast(pl.Int64)
    return (ranked - usable.rank("ordinal").over(groups).cast(pl.Int64) + 1).alias("rank")
