"""Pairs as lazy Polars expressions, under the names of the macros.

candidates ──groups──▶ groups ──pairs──▶ pairs (positions and scores) ──▶ report
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from prefmill.rules.draws import Stands, pairs_frame
from prefmill.rules.explosion import bounded_sizes, is_capped, is_hot
from prefmill.rules.limits import Bounds, bounded, limit_columns
from prefmill.rules.rows import (
    drawn,
    dropped,
    first_that_holds,
    in_rank_order,
    rows_in,
    standing,
)
from prefmill.table.chance import mix32
from prefmill.table.older import taken
from prefmill.table.report import PairReport
from prefmill.table.thresholds import Bound

_best = pl.col("_scores").list.last()
_worst = pl.col("_scores").list.first()


def groups(candidates: pl.LazyFrame, *, tie_break: str = "position") -> pl.LazyFrame:
    """Groups: _grp, _first, _votes, _n, and _scores and _positions in rank order, worst first."""
    order = in_rank_order(tie_break)
    return (
        standing(candidates)
        .group_by("_grp")
        .agg(
            _first=pl.col("_pos").min(),
            _votes=pl.col("_votes").sum(),
            _n=pl.len().cast(pl.Int64),
            _scores=pl.col("_score").sort_by(order),
            _positions=pl.col("_pos").sort_by(order),
        )
    )


def pairs(
    groups: pl.LazyFrame,
    *,
    strategy: str = "best_worst",
    chosen_min: Bound = None,
    rejected_below: Bound = None,
    min_margin: float = 0,
    max_pairs_per_prompt: int | None = None,
    top_k: int | None = None,
    bottom_k: int | None = None,
    seed: int = 0,
) -> pl.LazyFrame:
    """Standing pairs: _first, _grp, _c, _r (ranks), _chosen, _rejected (positions), their scores.

    Texts are not looked at. Cost: the pairs proposed, O(n) or O(n^2) of a group.
    """
    by_chance = strategy == "best_random" or max_pairs_per_prompt is not None
    chance = {"_hash": drawn(groups, seed)} if by_chance else {}
    limits = limit_columns(chosen_min, rejected_below)
    groups, bounds = bounded(groups, "_scores", "pairs", chosen_min, rejected_below)
    open_ = groups.filter(_refusal(bounds, min_margin).is_null()).select(
        "_first", "_n", "_scores", "_positions", *limits, **chance
    )
    hot = None
    if max_pairs_per_prompt is not None and is_capped(strategy, max_pairs_per_prompt):
        stands = Stands(None, None, min_margin, top_k, bottom_k)
        fixed = (chosen_min, rejected_below)
        hot = _hot(open_.filter(is_hot(top_k, bottom_k)), stands, fixed, max_pairs_per_prompt)
        open_ = open_.filter(~is_hot(top_k, bottom_k))
    if strategy == "best_random":
        proposed = _best_against_one(open_, limits, bounds, min_margin, bottom_k)
    else:
        proposed = open_.join(_proposals(open_, strategy, top_k, bottom_k), on="_n")
    chosen, rejected = pl.col("_c") - 1, pl.col("_r") - 1
    sides = {
        "_chosen": taken("_positions", chosen, pl.Int64),
        "_rejected": taken("_positions", rejected, pl.Int64),
        "_chosen_score": taken("_scores", chosen, pl.Float64),
        "_rejected_score": taken("_scores", rejected, pl.Float64),
    }
    standing_pairs = (
        proposed.select("_first", *chance, *limits, "_c", "_r", **sides)
        .explode("_c", "_r", *sides, empty_as_null=False)
        .filter(_stands(pl.col("_chosen_score"), pl.col("_rejected_score"), bounds, min_margin))
    )
    if max_pairs_per_prompt is not None:
        chosen, rejected = pl.col("_c").cast(pl.UInt64), pl.col("_r").cast(pl.UInt64)
        draw = mix32(mix32(pl.col("_hash") % 2**32 ^ chosen) ^ rejected)
        place = pl.int_range(pl.len()).over("_first")
        standing_pairs = standing_pairs.sort(draw, "_c", "_r").filter(place < max_pairs_per_prompt)
    standing_pairs = standing_pairs.select(pl.all().exclude("_hash", *limits))
    return standing_pairs if hot is None else pl.concat([standing_pairs, hot])


def _hot(
    groups: pl.LazyFrame, stands: Stands, fixed: tuple[Bound, Bound], cap: int
) -> pl.LazyFrame:
    """The drawn pairs of prompts with very many answers; thresholds that wait are columns."""
    schema = pl.Schema(
        {
            **dict.fromkeys(("_first", "_c", "_r", "_chosen", "_rejected"), pl.Int64()),
            **dict.fromkeys(("_chosen_score", "_rejected_score"), pl.Float64()),
        }
    )
    limits = limit_columns(*fixed)

    def draw(groups: pl.DataFrame) -> pl.DataFrame:
        parts = []
        for row in range(groups.height):
            group = groups[row]
            bounds = [group[name].item() for name in limits] or list(fixed)
            parts.append(
                pairs_frame(
                    group["_first"].item(),
                    group["_hash"].item(),
                    group["_scores"].explode(),
                    group["_positions"].explode(),
                    replace(stands, chosen_min=bounds[0], rejected_below=bounds[1]),
                    cap,
                ).cast(schema)
            )
        return pl.concat([schema.to_frame(), *parts])

    return groups.map_batches(
        draw, predicate_pushdown=False, projection_pushdown=False, schema=schema
    )


def _refusal(bounds: Bounds, min_margin: float) -> pl.Expr:
    """Why no pair of a group can stand, by its best and worst candidate; null if these could."""
    reasons = [("single_completion", pl.col("_n") < 2), ("tie", _best == _worst)]
    if bounds.high is not None:
        reasons.append(("below_chosen_min", _best < bounds.high))
    if bounds.low is not None:
        reasons.append(("not_below_rejected", _worst >= bounds.low))
    return first_that_holds([*reasons, ("below_min_margin", _best - _worst < min_margin)])


def _stands(chosen: pl.Expr, rejected: pl.Expr, bounds: Bounds, min_margin: float) -> pl.Expr:
    rules = [chosen > rejected, chosen - rejected >= min_margin]
    if bounds.high is not None:
        rules.append(chosen >= bounds.high)
    if bounds.low is not None:
        rules.append(rejected < bounds.low)
    return pl.all_horizontal(rules)


def _proposals(
    open_: pl.LazyFrame, strategy: str, top_k: int | None, bottom_k: int | None
) -> pl.LazyFrame:
    """The ranks that the strategy pairs in a group of _n candidates, as lists _c and _r: they
    depend on _n alone.
    """
    n = pl.col("_n")
    sizes = open_.select("_n").unique()
    if strategy in ("all", "threshold"):
        sizes = bounded_sizes(sizes, top_k, bottom_k)
    if strategy == "best_worst":
        one = pl.lit(1, pl.Int64)
        return sizes.select("_n", _c=pl.concat_list("_n"), _r=pl.concat_list(one))
    lowest = n if strategy == "best_rest" else pl.max_horizontal(pl.lit(2), n - (top_k or n) + 1)
    limit = pl.lit(bottom_k, pl.Int64) if bottom_k else n
    chosen = sizes.with_columns(_c=pl.int_ranges(lowest, n + 1)).explode("_c", empty_as_null=False)
    if strategy == "adjacent":
        ranks = chosen.with_columns(_r=pl.col("_c") - 1).filter(pl.col("_r") <= limit)
    else:
        below = pl.int_ranges(1, pl.min_horizontal(pl.col("_c") - 1, limit) + 1)
        ranks = chosen.with_columns(_r=below).explode("_r", empty_as_null=False)
    return ranks.group_by("_n").agg("_c", "_r")


def _best_against_one(
    open_: pl.LazyFrame,
    limits: list[str],
    bounds: Bounds,
    min_margin: float,
    bottom_k: int | None,
) -> pl.LazyFrame:
    """The best candidate against one of those that it may beat, drawn by the group's hash."""
    # The allowed ranks are the first ones of the order; how many there are is a count of scores
    # under a bound.
    lowest = pl.col("_n") - 1
    if bottom_k is not None:
        lowest = pl.min_horizontal(lowest, bottom_k)
    allowed = pl.col("_scores").list.head(lowest)
    count = (
        open_.select("_first", *limits, _best=_best, _low=allowed)
        .explode("_low", empty_as_null=False)
        .filter(_stands(pl.col("_best"), pl.col("_low"), bounds, min_margin))
        .group_by("_first")
        .agg(_m=pl.len().cast(pl.UInt64))
    )
    rank = 1 + (pl.col("_hash") % pl.col("_m")).cast(pl.Int64)
    return open_.join(count, on="_first").with_columns(
        _c=pl.concat_list("_n"), _r=pl.concat_list(rank)
    )


def report(
    counted: pl.LazyFrame,
    candidates: pl.LazyFrame,
    groups: pl.LazyFrame,
    told: pl.LazyFrame,
    *,
    chosen_min: Bound = None,
    rejected_below: Bound = None,
    min_margin: float = 0,
) -> PairReport:
    """Account for every row; `told` has _first, _chosen, _rejected and _same_text of every pair."""
    groups, bounds = bounded(groups, "_scores", "pairs", chosen_min, rejected_below)
    different = ~pl.col("_same_text")
    per_group = told.group_by("_first").agg(_standing=pl.len(), _kept=different.sum())
    refused = _refusal(bounds, min_margin).fill_null("no_adjacent_pair")
    fate = (
        pl.when(pl.col("_kept") > 0)
        .then(None)
        .when(pl.col("_standing") > 0)
        .then(pl.lit("identical_text"))
        .otherwise(refused)
    )
    fates = groups.join(per_group, on="_first", how="left").select("_votes", "_kept", _reason=fate)
    positions = told.filter(different)
    sides = [positions.select(_pos="_chosen"), positions.select(_pos="_rejected")]
    used = pl.concat(sides).unique()
    by_fate, used_votes = pl.collect_all(
        [
            fates.group_by("_reason").agg(
                pl.col("_votes").sum(), pl.col("_kept").sum(), _groups=pl.len()
            ),
            candidates.join(used, on="_pos", how="semi").select(pl.col("_votes").sum()),
        ]
    )
    stood = by_fate.filter(pl.col("_reason").is_null())
    fell = by_fate.filter(pl.col("_reason").is_not_null()).select("_reason", "_votes")
    rows_used = int(used_votes.item() or 0)
    reasons = dropped(counted, candidates) | dict(fell.iter_rows())
    return PairReport(
        rows_in=rows_in(counted),
        rows_used=rows_used,
        rows_not_selected=int(stood["_votes"].sum()) - rows_used,
        dropped=dict(sorted(reasons.items())),
        groups_in=int(by_fate["_groups"].sum()),
        groups_used=int(stood["_groups"].sum()),
        pairs_out=int(stood["_kept"].sum()),
    )
