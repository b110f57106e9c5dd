"""Advantages as lazy Polars expressions: how much better than the rest of its group a score is.

`advantage` is the rule, one expression; `advantages` applies it to the candidates of a plan. The
formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import polars as pl

from prefmill.errors import BadArgument
from prefmill.plans import Advantage, Method
from prefmill.rules.rows import Candidates
from prefmill.table.numbers import rounded
from prefmill.table.report import PairReport

#: Below this share of a policy the others count as absent: what is left is rounding.
NOTHING = 1e-12


def advantage(
    score: pl.Expr,
    *,
    over: str | Sequence[str],
    kind: Method = "centered",
    weight: pl.Expr | None = None,
    logprob: pl.Expr | None = None,
    epsilon: float = 1e-4,
) -> pl.Expr:
    """The advantage of each score inside its group (Float64, 9 decimals), in the order of the rows
    and under the score's name.

    Args:
        over: the columns whose equal values make a group.
        kind: `centered`, `grpo`, `rloo` or `rank`.
        weight, logprob: the policy that means are taken under: weights >= 0, or log-probabilities;
            normalised inside the group.
        epsilon: what `grpo` adds to the sample deviation.

    Equal scores, and a group of one, give 0. Null where the score is null or not finite, or its
    weight is unusable; such rows count for no other row. Raises `BadArgument` for arguments that
    cannot be meant.

    >>> pool = pl.DataFrame({"prompt": ["p", "p", "q"], "score": [1, 3, 5]})
    >>> pool.select(advantage(pl.col("score"), over="prompt"))["score"].to_list()
    [-1.0, 1.0, 0.0]
    """
    if kind not in get_args(Method):
        raise BadArgument(
            f"advantage: unknown kind; got {kind!r}, expected one of {get_args(Method)}."
        )
    if not 0 < epsilon < float("inf"):
        raise BadArgument(f"advantage: epsilon must be a finite number > 0; got {epsilon!r}.")
    if weight is not None and logprob is not None:
        raise BadArgument(
            "advantage: one policy is asked for; got weight and logprob.",
            hint="leave one of them out.",
        )
    if kind == "rank" and (weight is not None or logprob is not None):
        raise BadArgument(
            "advantage: kind 'rank' compares ranks and knows no policy; got one.",
            hint="leave it out, or use another kind.",
        )
    q = score.cast(pl.Float64)
    valid, w = q.is_finite(), pl.lit(1.0)
    if weight is not None:
        w = weight.cast(pl.Float64)
        valid = valid & w.is_finite() & (w >= 0)
    elif logprob is not None:
        w = logprob.cast(pl.Float64)
        valid = valid & w.is_finite()
    q = pl.when(valid).then(q)
    if kind == "rank":
        found = _by_rank(q).over(over)
    elif weight is None and logprob is None:
        found = _plain(q, kind, over, epsilon)
    else:
        found = _under_policy(q, pl.when(valid).then(w), kind, logprob is not None, epsilon).over(
            over
        )
    name = score.meta.output_name(raise_if_undetermined=False)
    return found if name is None else found.alias(name)


def _by_rank(q: pl.Expr) -> pl.Expr:
    """The average rank, scaled so that the worst is -1 and the best 1; equal scores share
    theirs.
    """
    n = q.count().cast(pl.Float64)
    scaled = rounded((2 * q.rank("average") - n - 1) / (n - 1)) + 0.0
    return pl.when(q.is_not_null()).then(pl.when(n > 1).then(scaled).otherwise(0.0))


def _plain(q: pl.Expr, kind: str, over: str | Sequence[str], epsilon: float) -> pl.Expr:
    """What `_under_policy` is for equal weights: one number for every group and the rest outside,
    which takes a quarter of the time.
    """
    n = q.count().over(over).cast(pl.Float64)
    gap = q - q.mean().over(over)
    result = {
        "centered": gap,
        "grpo": gap / (q.std(ddof=1).over(over) + epsilon),
        "rloo": gap * n / (n - 1),
    }[kind]
    flat = q.min().over(over) == q.max().over(over)
    return pl.when(q.is_not_null()).then(pl.when(flat).then(0.0).otherwise(rounded(result) + 0.0))


def _under_policy(q: pl.Expr, w: pl.Expr, kind: str, logs: bool, epsilon: float) -> pl.Expr:
    """q against the policy's mean of it, for one group (`over` is put around it: windows inside
    windows take twice the time).

    The largest weight is taken out first, so that no sum overflows and no exponential does.
    """
    scaled = (w - w.max()).exp() if logs else w / w.max()
    share = scaled / scaled.sum()
    gap = q - (share * q).sum()
    others = 1 - share
    result = {
        "centered": gap,
        "grpo": gap / (((share * gap * gap).sum() / (1 - (share * share).sum())).sqrt() + epsilon),
        "rloo": gap / others,
    }[kind]
    alone = {
        "centered": pl.lit(False),
        "grpo": 1 - (share * share).sum() < NOTHING,
        "rloo": others < NOTHING,
    }[kind]
    flat = q.min() == q.max()
    known = q.is_not_null() & (pl.lit(True) if logs else w.max() > 0)
    return pl.when(known).then(pl.when(flat | alone).then(0.0).otherwise(rounded(result) + 0.0))


def advantages(plan: Advantage, judged: Candidates) -> pl.LazyFrame:
    """Every candidate of `plan` in the order of positions: _grp, _pos, _score, _votes, _advantage,
    _reason (null: it has an advantage).
    """
    roles, acting = judged.roles, judged.candidates.filter(pl.col("_reason").is_null())
    policy: dict[str, pl.Expr] = {}
    if roles.weight or roles.logprob:
        weights = judged.counted.select("_pos", "_weight")
        acting = acting.join(weights, on="_pos", how="left")
        policy = {"weight" if roles.weight else "logprob": pl.col("_weight")}
    found = advantage(
        pl.col("_score"), over="_grp", kind=plan.method, epsilon=plan.epsilon, **policy
    )
    return (
        acting.with_columns(_advantage=found)
        .select(
            "_grp",
            "_pos",
            "_score",
            "_votes",
            "_advantage",
            _reason=pl.when(pl.col("_advantage").is_null()).then(pl.lit("no_weight")),
        )
        .sort("_pos")
    )


def advantage_report(judged: Candidates, found: pl.LazyFrame) -> PairReport:
    """Account for every row; `found` is the output of `advantages`."""
    told = found.select("_grp", "_votes", "_reason").collect()
    used = told.filter(pl.col("_reason").is_null())
    dropped = judged.dropped()
    if idle := int(told["_votes"].sum()) - int(used["_votes"].sum()):
        dropped["no_weight"] = idle
    return PairReport(
        rows_in=judged.rows_in(),
        rows_used=int(used["_votes"].sum()),
        rows_not_selected=0,
        dropped=dict(sorted(dropped.items())),
        groups_in=told.select(pl.col("_grp").n_unique()).item(),
        groups_used=used.select(pl.col("_grp").n_unique()).item(),
        pairs_out=used.height,
    )
