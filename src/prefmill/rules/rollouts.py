"""Step values: how often the rollouts through a step succeed; labels for process reward models.

The same rule in SQL is `sql/step_values.sql`; the formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl
import polars.selectors as cs

from prefmill.errors import BadArgument, BadInput, ColumnMissing, either
from prefmill.pools.frames import frame_of
from prefmill.rules.values import checked_tree, refuse_nested
from prefmill.table.numbers import number, rounded
from prefmill.table.roles import Inputs

Labels = Literal["soft", "hard"]


def step_values(
    data: Inputs,
    *,
    success: str = "success",
    id: str = "id",
    parent_id: str = "parent_id",
    success_min: float = 1,
) -> pl.DataFrame:
    """How many of the rollouts through each step of a tree end in success.

    Columns out: id, parent_id, rollouts, successes, value (their share), by id.
    A rollout ends in a leaf, and is a success where the column `success` (a boolean, or a number)
    is true, or at least `success_min`. A leaf where it is null is no rollout; a step without
    rollouts has a null value. Cost: one join for every level. Raises what `values` raises about ids
    and parents.

    >>> rows = [(1, None, None), (2, 1, None), (3, 1, False), (4, 2, True)]
    >>> tree = pl.DataFrame(rows, ["id", "parent_id", "success"], orient="row")
    >>> step_values(tree).select("id", "value").rows()
    [(1, 0.5), (2, 1.0), (3, 0.0), (4, 1.0)]
    """
    nodes, paths = _rollouts(
        frame_of(data, "step_values").lazy().collect(),
        {"success": success, "id": id, "parent_id": parent_id},
        success_min,
    )
    return _shares(nodes, paths)


def stepwise(
    data: Inputs,
    *,
    text: str = "text",
    success: str = "success",
    id: str = "id",
    parent_id: str = "parent_id",
    success_min: float = 1,
    labels: Labels = "soft",
    threshold: float = 0.5,
) -> pl.DataFrame:
    """Rollouts with a label for every step, in TRL's stepwise form, by leaf.

    Columns out: prompt, completions (list of text), labels (list of bool).
    The prompt is the root's text, the completions are the texts of the steps to a leaf. A step is
    labelled true where the share of its rollouts that succeed is at least `threshold` (`soft`), or
    where one does (`hard`: the step can still be followed by a success). A root without a reply is
    no rollout.

    >>> rows = [(1, None, None), (2, 1, None), (3, 1, False), (4, 2, True)]
    >>> tree = pl.DataFrame(rows, ["id", "parent_id", "success"], orient="row")
    >>> stepwise(tree.with_columns(text=pl.Series(["q", "a", "b", "c"]))).rows()
    [('q', ['b'], [False]), ('q', ['a', 'c'], [True, True])]
    """
    if labels not in get_args(Labels):
        raise BadArgument(f"stepwise: labels: got {labels!r}, expected {either(get_args(Labels))}.")
    if not 0 < threshold <= 1:
        raise BadArgument(f"stepwise: threshold must be above 0 and at most 1; got {threshold!r}.")
    frame = frame_of(data, "stepwise").lazy().collect()
    nodes, paths = _rollouts(
        frame, {"success": success, "id": id, "parent_id": parent_id, "text": text}, success_min
    )
    shares = _shares(nodes, paths)
    good = pl.col("successes") > 0 if labels == "hard" else pl.col("value") >= threshold
    labelled = (
        paths.join(shares.select("id", "parent_id", _good=good), on="id")
        .join(nodes.select("id", "text"), on="id")
        .sort("leaf", "up", descending=[False, True])
    )
    return (
        labelled.group_by("leaf", maintain_order=True)
        .agg(
            prompt=pl.col("text").first(),
            completions=pl.col("text").slice(1),
            labels=pl.col("_good").slice(1),
        )
        .filter(pl.col("completions").list.len() > 0)
        .drop("leaf")
    )


def _rollouts(
    frame: pl.DataFrame, names: dict[str, str], success_min: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The checked tree under the names of its roles, and the steps of every rollout.

    A step is leaf, won, id, up (levels above the leaf).
    """
    for role, name in names.items():
        if name not in frame.columns:
            raise ColumnMissing.for_role("step_values", role, name, frame.columns)
    if frame.height and not frame[names["parent_id"]].count():
        refuse_nested(frame.schema, "step_values")
    nodes = frame.select(cs.by_name(name).alias(role) for role, name in names.items())
    nodes = checked_tree(nodes, "step_values")
    inner = nodes.select(pl.col("parent_id").drop_nulls().unique())
    mark = number(pl.col("success"), nodes.schema["success"])
    words = nodes.filter(pl.col("success").is_not_null() & mark.is_null())
    if words.height:
        word, name = words.select("success", "id").row(0)
        raise BadInput(
            f"step_values: a success is neither true, false nor a number; got {word!r} at {name}.",
            hint="make true and false of words first.",
        )
    won = mark >= success_min
    level = nodes.join(inner, left_on="id", right_on="parent_id", how="anti").select(
        "id", "parent_id", leaf="id", won=won, up=pl.lit(0)
    )
    level = level.filter(pl.col("won").is_not_null())
    levels = [level]
    while level.height:
        above = level.filter(pl.col("parent_id").is_not_null()).select(
            "leaf", "won", "up", id="parent_id"
        )
        level = above.join(nodes.select("id", "parent_id"), on="id").select(
            "id", "parent_id", "leaf", "won", up=pl.col("up") + 1
        )
        levels.append(level)
    return nodes, pl.concat(levels).select("leaf", "won", "id", "up")


def _shares(nodes: pl.DataFrame, paths: pl.DataFrame) -> pl.DataFrame:
    counts = paths.group_by("id").agg(
        rollouts=pl.len().cast(pl.Int64), successes=pl.col("won").sum().cast(pl.Int64)
    )
    counted = (
        nodes.select("id", "parent_id")
        .join(counts, on="id", how="left")
        .with_columns(pl.col("rollouts", "successes").fill_null(0))
    )
    share = pl.when(pl.col("rollouts") > 0).then(rounded(pl.col("successes") / pl.col("rollouts")))
    return counted.with_columns(value=share).sort("id")
