"""Advantages as lazy Polars expressions: how much better than the rest of its group a score is.

    candidates ──alike, weighted──▶ acting ──advantages──▶ advantages ──▶ advantage_report

`advantage` is the rule, one expression. The formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import polars as pl

from prefmill.errors import BadArgument, either
from prefmill.rules.rows import dropped, rows_in, standing
from prefmill.table.numbers import number, plain_zero, rounded
from prefmill.table.report import PairReport

Method = Literal["centered", "grpo", "rloo", "rank"]

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
    _check(kind, epsilon, weight is not None, logprob is not None)
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
        result = _by_rank(q).over(over)
    elif weight is None and logprob is None:
        result = _plain(q, kind, over, epsilon)
    else:
        usable = pl.when(valid).then(w)
        result = _under_policy(q, usable, kind, logprob is not None, epsilon).over(over)
    name = score.meta.output_name(raise_if_undetermined=False)
    return result if name is None else result.alias(name)


def _check(kind: str, epsilon: float, weighted: bool, by_logprob: bool) -> None:
    if kind not in get_args(Method):
        raise BadArgument(
            f"advantage: unknown kind; got {kind!r}, expected {either(get_args(Method))}."
        )
    if not 0 < epsilon < float("inf"):
        raise BadArgument(f"advantage: epsilon must be a finite number > 0; got {epsilon!r}.")
    if weighted and by_logprob:
        raise BadArgument(
            "advantage: one policy is asked for; got weight and logprob.",
            hint="leave one of them out.",
        )
    if kind == "rank" and (weighted or by_logprob):
        raise BadArgument(
            "advantage: kind 'rank' compares ranks and knows no policy; got one.",
            hint="leave it out, or use another kind.",
        )


def _by_rank(q: pl.Expr) -> pl.Expr:
    """The average rank, scaled so that the worst is -1 and the best 1; equal scores share it."""
    n = q.count().cast(pl.Float64)
    scaled = plain_zero(rounded((2 * q.rank("average") - n - 1) / (n - 1)))
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
    return pl.when(q.is_not_null()).then(
        pl.when(flat).then(0.0).otherwise(plain_zero(rounded(result)))
    )


def _under_policy(q: pl.Expr, w: pl.Expr, kind: str, logs: bool, epsilon: float) -> pl.Expr:
    """q against the policy's mean of it, for one group: `over` goes around it, since windows inside
    windows take twice the time.

    The largest weight is taken out first, so that no sum overflows and no exponential does.
    """
    scaled = (w - w.max()).exp() if logs else w / w.max()
    share = scaled / scaled.sum()
    gap = q - (share * q).sum()
    others, spare = 1 - share, 1 - (share * share).sum()
    deviation = ((share * gap * gap).sum() / spare).sqrt()
    result = {
        "centered": gap,
        "grpo": gap / (deviation + epsilon),
        "rloo": gap / others,
    }[kind]
    alone = {
        "centered": pl.lit(False),
        "grpo": spare < NOTHING,
        "rloo": others < NOTHING,
    }[kind]
    flat = q.min() == q.max()
    known = q.is_not_null() & (pl.lit(True) if logs else w.max() > 0)
    return pl.when(known).then(
        pl.when(flat | alone).then(0.0).otherwise(plain_zero(rounded(result)))
    )


def alike(candidates: pl.LazyFrame) -> pl.LazyFrame:
    """Candidates under a policy that takes all alike."""
    return standing(candidates)


def weighted(
    candidates: pl.LazyFrame, numbered: pl.LazyFrame, *, logs: bool = False
) -> pl.LazyFrame:
    """Candidates with what their policy gives them: _weight, or with `logs` _logprob."""
    weight = number(pl.col("_weight"), numbered.collect_schema()["_weight"])
    weights = numbered.select("_pos", weight.alias("_logprob" if logs else "_weight"))
    return standing(candidates).join(weights, on="_pos", how="left")


def advantages(
    acting: pl.LazyFrame, *, kind: Method = "centered", epsilon: float = 1e-4
) -> pl.LazyFrame:
    """Every candidate: _grp, _pos, _score, _votes, _advantage, and _reason (null: it has one).

    `acting` is the output of `alike` or `weighted`.
    """
    names = acting.collect_schema().names()
    policy = {role: pl.col(f"_{role}") for role in ("weight", "logprob") if f"_{role}" in names}
    result = advantage(pl.col("_score"), over="_grp", kind=kind, epsilon=epsilon, **policy)
    return acting.with_columns(_advantage=result).select(
        "_grp",
        "_pos",
        "_score",
        "_votes",
        "_advantage",
        _reason=pl.when(pl.col("_advantage").is_null()).then(pl.lit("no_weight")),
    )


def advantage_report(
    counted: pl.LazyFrame, candidates: pl.LazyFrame, advantages: pl.LazyFrame
) -> PairReport:
    """Account for every row; a group is used when its rows got an advantage."""
    rows = advantages.select("_grp", "_votes", "_reason").collect()
    used = rows.filter(pl.col("_reason").is_null())
    reasons, rows_used = dropped(counted, candidates), int(used["_votes"].sum())
    if idle := int(rows["_votes"].sum()) - rows_used:
        reasons["no_weight"] = idle
    return PairReport(
        rows_in=rows_in(counted),
        rows_used=rows_used,
        rows_not_selected=0,
        dropped=dict(sorted(reasons.items())),
        groups_in=rows.select(pl.col("_grp").n_unique()).item(),
        groups_used=used.select(pl.col("_grp").n_unique()).item(),
        pairs_out=used.height,
    )
