"""Scores without what length explains of them, under the names of the macros.

candidates, numbered ──measured──▶ measured ──length_fit──▶ fit
measured, fit ──adjusted──▶ candidates by their residual ──pools, picks──▶ ranked ──given──▶ picks
"""

from __future__ import annotations

import polars as pl

from prefmill.rules.rows import standing
from prefmill.table.chance import message_keys
from prefmill.table.numbers import plain_zero, rounded


def characters(completion: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The length of a completion in Unicode code points; of messages, that of their contents."""
    if not isinstance(dtype, pl.List):
        return completion.cast(pl.String).str.len_chars().cast(pl.Int64)
    _, content = message_keys(dtype, "completion")
    text = pl.element().struct.field(content).cast(pl.String)
    return completion.list.eval(text.str.len_chars()).list.sum().cast(pl.Int64)


def measured(candidates: pl.LazyFrame, numbered: pl.LazyFrame) -> pl.LazyFrame:
    """The candidates that stand, with _length."""
    dtype = numbered.collect_schema()["_completion"]
    lengths = numbered.select("_pos", _length=characters(pl.col("_completion"), dtype))
    return standing(candidates).join(lengths, on="_pos", how="left")


def length_fit(measured: pl.LazyFrame) -> pl.LazyFrame:
    """One row: slope, correlation, mean; what they are is in the macro's file."""
    score, length = pl.col("_score"), pl.col("_length").cast(pl.Float64)
    up, along = score - score.mean(), length - length.mean()
    sums = measured.group_by("_grp").agg(
        _xx=(along * along).sum(),
        _xy=(along * up).sum(),
        _yy=(up * up).sum(),
        _total=pl.col("_length").sum(),
        _n=pl.len(),
        _varies=score.min() < score.max(),
    )
    # Equal scores have a mean that may differ from them in the last bit: that is no spread.
    xy, yy = (pl.when("_varies").then(name).otherwise(0.0).sum() for name in ("_xy", "_yy"))
    # Summed first, and a step of its own: where `when` holds nowhere, and its sums are shared with
    # another column, Polars 2.0 gives a row for every group.
    whole = sums.select(pl.col("_xx", "_total", "_n").sum(), _xy=xy, _yy=yy)
    xx, xy, yy = pl.col("_xx"), pl.col("_xy"), pl.col("_yy")
    correlation = pl.when(xx > 0, yy > 0).then(xy / xx.sqrt() / yy.sqrt())
    return whole.select(
        slope=_finite(pl.when(xx > 0).then(1000 * xy / xx)).fill_null(0.0),
        correlation=_finite(correlation),
        mean=_finite(pl.col("_total").cast(pl.Float64) / pl.col("_n")),
    )


def adjusted(
    measured: pl.LazyFrame, fit: pl.LazyFrame, *, min_score: float | None = None
) -> pl.LazyFrame:
    """The candidates at or above `min_score`, each with its residual after length as _score."""
    gap = (pl.col("_length").cast(pl.Float64) - pl.col("mean")) * pl.col("slope") * 0.001
    residual = plain_zero(rounded(pl.col("_score") - gap))
    rows = measured.join(fit, how="cross")
    if min_score is not None:
        rows = rows.filter(pl.col("_score") >= min_score)
    return rows.with_columns(_score=residual)


def given(ranked: pl.LazyFrame, candidates: pl.LazyFrame) -> pl.LazyFrame:
    """Picks by adjusted scores: _score as it was, and _adjusted_score."""
    scores = standing(candidates).select("_pos", _given="_score")
    return ranked.join(scores, on="_pos", how="left").select(
        pl.all().exclude("_given", "_score"), _score="_given", _adjusted_score="_score"
    )


def _finite(value: pl.Expr) -> pl.Expr:
    """As the macro `pref_finite`."""
    return pl.when(value.is_finite()).then(rounded(value))
