"""Best-of-n curves: what picking the best of n is worth on a scored pool, in closed form, with
intervals.

    rows ──▶ pools (one prompt's scores, sorted) ──weights of order statistics──▶ E[max of n] of a
    prompt ──mean, bootstrap──▶ curve

The same rule in SQL is `sql/curves/pref_curves.sql`; the formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import polars as pl
import polars.selectors as cs

from prefmill.engines import frames
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.forks import refuse_fork
from prefmill.plans.best_of import BestOf
from prefmill.rules.curves import COLUMNS, curve_points
from prefmill.rules.rows import check_types, drawn, dropped, numbered, rows_in, standing
from prefmill.runs.job import Reading, opened
from prefmill.table.fits import fits_schema
from prefmill.table.roles import Inputs, RoleNames


@dataclass(frozen=True)
class Curve:
    """Best-of-n curves of a pool.

    `points`: a row for every n (and value of `by`, its first column then): n, prompts (with at
    least n scores), best (the unbiased estimate of E[max of n]), median, mean, low and high (the
    bootstrap interval of best; null without resamples), kl (of best-of-n from its policy, in nats).
    `rows_in` = `rows_used` + what `dropped` counts by reason.
    """

    points: pl.DataFrame
    by: str | None
    level: float
    rows_in: int
    rows_used: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        told = {name: getattr(self, name) for name in ("by", "level", "rows_in", "rows_used")}
        return told | {
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
            "points": self.points.to_dicts(),
        }


def curve(
    data: Inputs,
    *,
    by: str | None = None,
    k: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    roles: RoleNames | None = None,
    **reading: Unpack[Reading],
) -> Curve:
    """What best-of-n is worth on the scored pool `data` (a Polars frame, files, or whatever
    `prefmill.run` takes), for n = 1 to k.

    Args:
        by: a column; every value of it has a curve of its own (say, `temperature`).
        k: the largest n; None: the largest number of scores of a prompt, at most 128.
        resamples: of the bootstrap over prompts; 0: no intervals.
        level: of the intervals.
        seed: of the resamples; they depend on it and on the prompts alone.
        roles, reading: as in `prefmill.run`.

    Cost: one narrow pass, then prompts times k, and prompts times resamples for the intervals.
    Raises `PrefmillError`s for arguments or columns that cannot be meant.

    >>> rows = {"prompt": ["p", "p", "p"], "completion": ["a", "b", "c"], "score": [1, 2, 6]}
    >>> pool = pl.DataFrame(rows)
    >>> curve(pool, resamples=0).points.select("n", "best", "median", "kl").rows()[:2]
    [(1, 3.0, 3.0, 0.0), (2, 4.666666667, 3.0, 0.193147181)]
    """
    refuse_fork("curve")
    _check(k, resamples, level, seed)
    notes: tuple[str, ...] = ()
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        pools, rows_in, dropped = _pools_of_frame(
            data.lazy(), by, seed if resamples else None, roles or {}
        )
    else:
        pools, rows_in, dropped, notes = _pools_of_files(
            data, by, seed if resamples else None, roles or {}, reading
        )
    parts = pools.partition_by("_by", maintain_order=True)
    empty = pl.DataFrame(schema={"_by": pools.schema["_by"], **COLUMNS})
    curves = (curve_points(part, k, resamples, level) for part in parts)
    points = pl.concat([empty, *curves])
    points = points.rename({"_by": by}) if by else points.drop("_by")
    used = int(pools["_scores"].list.len().sum())
    return Curve(
        points=points,
        by=by,
        level=level,
        rows_in=rows_in,
        rows_used=used,
        dropped=dict(sorted(dropped.items())),
        notes=notes,
    )


def _check(k: int | None, resamples: int, level: float, seed: int) -> None:
    for name, value, least in (
        ("k", 1 if k is None else k, 1),
        ("resamples", resamples, 0),
        ("seed", seed, 0),
    ):
        if type(value) is not int or value < least:
            raise BadArgument(f"curve: {name} is no whole number >= {least}; got {value!r}.")
    if not 0 < level < 1:
        raise BadArgument(f"curve: level is not between 0 and 1; got {level!r}.")


def _check_by(by: str | None, columns: Sequence[str]) -> None:
    if by is None:
        return
    if by not in columns:
        raise ColumnMissing(
            f"curve: no column {by!r} to draw curves by; got {list(columns)}.",
            hint="name another column: by=COLUMN (--by COLUMN).",
        )
    if by in COLUMNS:
        raise BadArgument(
            f"curve: a column of the curve is named {by!r} itself;"
            f" expected none of {list(COLUMNS)}.",
            hint="rename the column.",
        )


def _pools_of_frame(
    frame: pl.LazyFrame, by: str | None, seed: int | None, names: RoleNames
) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Pools (_by, _h: the prompt's hash unless `seed` is None, _scores), the rows that went in, and
    those dropped by reason.
    """
    _check_by(by, frame.collect_schema().names())
    extra = [by] if by else []
    plan, rowed = frames.in_rows(BestOf(), frame, names, where="curve", extra=extra)
    frame = rowed.frame.lazy()
    schema = frame.collect_schema()
    roles = plan.roles(rowed.names, schema.names(), where="curve", fits=fits_schema(schema))
    program = plan.program(roles)
    check_types(program.read, schema, "curve")
    made = frames.relations(program, numbered(program.read, frame))
    rows = standing(made["candidates"])
    if by:
        values = frame.select(_by=cs.by_name(by)).with_row_index("_pos").cast({"_pos": pl.Int64})
        rows = rows.join(values, on="_pos", how="left")
    else:
        rows = rows.with_columns(_by=pl.lit(None, pl.String))
    pools = rows.group_by("_by", "_grp").agg(_scores=pl.col("_score").sort())
    hashed = pl.lit(0, pl.UInt64) if seed is None else drawn(pools, seed)
    pools = pools.select("_by", "_scores", _h=hashed).sort("_by", "_h", nulls_last=True)
    counted = made["counted"]
    return pools.collect(), rows_in(counted), dropped(counted, made["candidates"])


def _pools_of_files(
    inputs: Inputs, by: str | None, seed: int | None, names: RoleNames, reading: Reading
) -> tuple[pl.DataFrame, int, dict[str, int], tuple[str, ...]]:
    with opened(BestOf(), inputs, roles=names, keep=[by] if by else [], **reading) as job:
        _check_by(by, job.source.columns.names)
        job.narrow()
        rows = "SELECT *, NULL::VARCHAR AS _by FROM candidates"
        if by:
            rows = "SELECT c.*, t._keep0 AS _by FROM candidates c JOIN texts t ON t._pos = c._pos"
        hashed = "0::UBIGINT" if seed is None else f"pref_hash(_grp, {seed})"
        install_used(job.con, [hashed])
        pools = job.con.sql(
            f"SELECT _by, {hashed} AS _h, list_sort(list(_score)) AS _scores FROM ({rows})"
            " WHERE _reason IS NULL GROUP BY _by, _grp ORDER BY _by NULLS LAST, _h"
        )
        reasons = job.con.execute(
            "SELECT _reason, count(*) FROM counted WHERE _reason IS NOT NULL GROUP BY _reason"
        ).fetchall()
        counts = {str(reason): int(rows) for reason, rows in reasons}
        return pl.DataFrame(pools.to_arrow_table()), job.source.rows, counts, job.notes
