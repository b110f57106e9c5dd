"""Best-of-K as lazy Polars expressions, with the names of the macros.

candidates ──pools──▶ picks
"""

from __future__ import annotations

import polars as pl

from prefmill.errors import BadArgument
from prefmill.plans import BestOf
from prefmill.rules.rows import Candidates, drawn_from
from prefmill.rules.selection import accepted, adjusted, fit_of, measured
from prefmill.table.chance import mix32
from prefmill.table.report import PairReport


def picks(plan: BestOf, judged: Candidates) -> pl.LazyFrame:
    """What `plan` picks, in output order: _first (of the pool), _rank (1: the best), _pos, _score;
    with length control _adjusted_score.
    """
    n, k = pl.col("_n"), plan.k
    spare = pl.max_horizontal(n - k, 0)
    drawn = plan.pick in ("random", "rso")
    chance = (
        {
            "_hash": drawn_from(
                pl.col("_grp"), plan.seed, bool(judged.roles.group) and plan.scope == "prompt"
            )
        }
        if drawn
        else {}
    )
    pools = _pools(plan, judged)
    if plan.pick == "rso":
        pools = pools.with_columns(**chance).with_columns(
            _r=accepted(pl.struct("_scores", "_hash"), k, plan.beta)
        )
    else:
        start, stop = {
            "best": (spare + 1, n + 1),
            "worst": (pl.lit(1), pl.min_horizontal(n, k) + 1),
            "median": (spare // 2 + 1, pl.min_horizontal(spare // 2 + k, n) + 1),
            "random": (pl.lit(1), n + 1),
        }[plan.pick]
        pools = pools.with_columns(_r=pl.int_ranges(start, stop), **chance)
    lists = {"_pos": "_positions", "_score": "_scores"} | (
        {"_given": "_givens"} if plan.length_control else {}
    )
    ranked = pools.select(
        "_first",
        "_n",
        "_r",
        *chance,
        **{name: pl.col(of).list.gather(pl.col("_r") - 1) for name, of in lists.items()},
    ).explode("_r", *lists, empty_as_null=False)
    if plan.pick == "random":
        draw = mix32(pl.col("_hash") % 2**32 ^ pl.col("_r").cast(pl.UInt64))
        ranked = ranked.sort(draw, "_r").filter(pl.int_range(pl.len()).over("_first") < k)
    scores = (
        {"_score": "_given", "_adjusted_score": "_score"}
        if plan.length_control
        else {"_score": "_score"}
    )
    return ranked.select("_first", "_pos", **scores, _rank=n - pl.col("_r") + 1).sort(
        "_first", "_rank"
    )


def rank_in(score: pl.Expr, *over: str | pl.Expr) -> pl.Expr:
    """The rank of each row in its group (Int64): 1 for the best; among equal scores the later row
    is the better, as in every plan.

    `over` are the columns that group, usually the prompt. `score` holds numbers (or booleans): a
    row whose score is null, NaN or infinite has no rank, nor has one with a null among the columns
    that group. Rows keep their order.

    >>> pool = pl.DataFrame({"prompt": ["p", "p", "p", "q"], "score": [2.0, 3.0, 3.0, float("nan")]})
    >>> pool.select(rank_in(pl.col("score"), "prompt")).to_series().to_list()
    [3, 2, 1, None]
    """
    if not over:
        raise BadArgument(
            "rank_in: no column to group by; got none, expected for example 'prompt'."
        )
    groups = [pl.col(name) if isinstance(name, str) else name for name in over]
    value = score.cast(pl.Float64) + 0.0  # a plain zero, also of -0.0
    usable = pl.when(value.is_finite(), *(group.is_not_null() for group in groups)).then(value)
    return (
        usable.count().over(groups).cast(pl.Int64)
        - usable.rank("ordinal").over(groups).cast(pl.Int64)
        + 1
    ).alias("rank")


def pick_report(plan: BestOf, judged: Candidates, picked: pl.LazyFrame) -> PairReport:
    """Account for every row; `picked` has a _pos for every row of output."""
    marked = picked.select("_pos", _picked=pl.lit(True))
    found = (
        judged.candidates.filter(pl.col("_reason").is_null())
        .join(marked, on="_pos", how="left")
        .with_columns(pl.col("_picked").fill_null(False))
    )
    votes, low = pl.col("_votes"), _low(plan)
    groups = found.group_by("_grp").agg(
        _used=votes.filter("_picked").sum(),
        _low=votes.filter(low).sum(),
        _votes=votes.filter(~low).sum(),
        _out=pl.col("_picked").sum(),
    )
    total = groups.select(
        pl.col("_used", "_low", "_votes", "_out").sum(),
        groups_in=pl.len(),
        groups_used=(pl.col("_out") > 0).sum(),
    ).collect()
    counts = {name: int(value) for name, value in total.row(0, named=True).items()}
    dropped = judged.dropped() | ({"below_min_score": counts["_low"]} if counts["_low"] else {})
    return PairReport(
        rows_in=judged.rows_in(),
        rows_used=counts["_used"],
        rows_not_selected=counts["_votes"] - counts["_used"],
        dropped=dict(sorted(dropped.items())),
        groups_in=counts["groups_in"],
        groups_used=counts["groups_used"],
        pairs_out=counts["_out"],
        length=fit_of(judged) if plan.length_control else None,
    )


def _low(plan: BestOf, score: str = "_score") -> pl.Expr:
    return pl.lit(False) if plan.min_score is None else pl.col(score) < plan.min_score


def _pools(plan: BestOf, judged: Candidates) -> pl.LazyFrame:
    """What is picked from: _grp ("" for the whole table), _first, _n, and _scores and _positions
    (with length control _givens) in rank order, worst first."""
    order = ["_score", *(["_id"] if plan.tie_break == "id" else []), "_pos"]
    key = pl.col("_grp") if plan.scope == "prompt" else pl.lit("").alias("_grp")
    if plan.length_control:
        candidates = adjusted(measured(judged)).filter(~_low(plan, "_given"))
        more = {"_givens": pl.col("_given").sort_by(order)}
    else:
        candidates, more = judged.candidates.filter(pl.col("_reason").is_null(), ~_low(plan)), {}
    return candidates.group_by(key).agg(
        _first=pl.col("_pos").min(),
        _n=pl.len().cast(pl.Int64),
        _scores=pl.col("_score").sort_by(order),
        _positions=pl.col("_pos").sort_by(order),
        **more,
    )
