"""Labels of single completions as lazy Polars expressions, under the names of the macros."""

from __future__ import annotations

import polars as pl

from prefmill.rules.limits import bounded
from prefmill.rules.rows import dropped, rows_in, standing
from prefmill.table.report import PairReport
from prefmill.table.thresholds import Bound


def labels(candidates: pl.LazyFrame, *, chosen_min: Bound, rejected_below: Bound) -> pl.LazyFrame:
    """Candidates with _label (null between the thresholds), and _turn, _first that order them:
    no two neighbours share a prompt as long as others have answers left.
    """
    rows, bounds = bounded(standing(candidates), "_score", "unpaired", chosen_min, rejected_below)
    score, position = pl.col("_score"), pl.col("_pos")
    return rows.select(
        "_grp",
        "_pos",
        "_score",
        "_votes",
        _label=pl.when(score >= bounds.high).then(True).when(score < bounds.low).then(False),
        _first=position.min().over("_grp"),
        _turn=position.rank("ordinal").over("_grp"),
    )


def label_report(
    counted: pl.LazyFrame, candidates: pl.LazyFrame, labels: pl.LazyFrame
) -> PairReport:
    """Account for every row; a group is used when one of its candidates got a label."""
    labelled = labels.select("_first", "_votes", "_label").collect()
    used = labelled.filter(pl.col("_label").is_not_null())
    reasons, rows_used = dropped(counted, candidates), int(used["_votes"].sum())
    if between := int(labelled["_votes"].sum()) - rows_used:
        reasons["between_thresholds"] = between
    return PairReport(
        rows_in=rows_in(counted),
        rows_used=rows_used,
        rows_not_selected=0,
        dropped=dict(sorted(reasons.items())),
        groups_in=labelled["_first"].n_unique(),
        groups_used=used["_first"].n_unique(),
        pairs_out=used.height,
        labels={"true": int(used["_label"].sum()), "false": int((~used["_label"]).sum())},
    )
