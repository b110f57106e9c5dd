"""Best-of-n curves: what picking the best of n is worth on a scored pool, in closed form, with
intervals.

    rows ──▶ pools (one prompt's scores, sorted) ──weights of order statistics──▶ E[max of n] of a
    prompt ──mean, bootstrap──▶ curve

The same rule in SQL is `sql/curves/pref_curves.sql`; the formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from prefmill.engines import frames
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.forks import refuse_fork
from prefmill.plans.best_of import BestOf
from prefmill.rules.rows import check_types, drawn, dropped, numbered, rows_in, standing
from prefmill.runs.job import Reading, opened
from prefmill.table.chance import mix32_array
from prefmill.table.fits import fits_schema
from prefmill.table.numbers import plain_zero, rounded
from prefmill.table.roles import Inputs, RoleNames

Floats = npt.NDArray[np.float64]

#: n goes to the largest number of scores that a prompt has, but without `k` not beyond this.
MOST = 128
# A Poisson number with mean 1 is how many of these a random 32-bit number reaches: its distribution
# function times 2**32.
_POISSON = np.array(
    [
        1580030169,
        3160060338,
        3950075422,
        4213413784,
        4279248374,
        4292415292,
        4294609778,
        4294923277,
        4294962464,
        4294966818,
        4294967253,
        4294967293,
    ],
    dtype=np.uint64,
)
_CHUNK = 4096


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

    >>> pool = pl.DataFrame({"prompt": ["p", "p", "p"], "completion": ["a", "b", "c"], "score": [1, 2, 6]})
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
    curves = [
        _points(part, k, resamples, level)
        for part in pools.partition_by("_by", maintain_order=True)
    ]
    empty = pl.DataFrame(schema={"_by": pools.schema["_by"], **_COLUMNS})
    points = (
        pl.concat([empty, *curves]).rename({"_by": by})
        if by
        else pl.concat([empty, *curves]).drop("_by")
    )
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


_COLUMNS = {
    "n": pl.Int64,
    "prompts": pl.Int64,
    "best": pl.Float64,
    "median": pl.Float64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "kl": pl.Float64,
}


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
    if by in _COLUMNS:
        raise BadArgument(
            f"curve: a column of the curve is named {by!r} itself; expected none of {list(_COLUMNS)}.",
            hint="rename the column.",
        )


def _pools_of_frame(
    frame: pl.LazyFrame, by: str | None, seed: int | None, names: RoleNames
) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Pools (_by, _h: the prompt's hash unless `seed` is None, _scores), the rows that went in, and
    those dropped by reason.
    """
    plan, schema = BestOf(), frame.collect_schema()
    _check_by(by, schema.names())
    roles = plan.roles(names, schema.names(), where="curve", fits=fits_schema(schema))
    program = plan.program(roles)
    check_types(program.rows, schema, "curve")
    made = frames.relations(program, numbered(program.rows, frame))
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
        return pl.DataFrame(pools.to_arrow_table()), job.source.rows, counts, job.source.notes


def _points(pools: pl.DataFrame, k: int | None, resamples: int, level: float) -> pl.DataFrame:
    """The curve of pools that share one value of _by."""
    sizes = pools["_scores"].list.len().to_numpy()
    most = min(int(sizes.max()), k or MOST)
    bests, middles = np.zeros((len(sizes), most)), np.zeros((len(sizes), most))
    for m in np.unique(sizes):
        mine, ns = np.flatnonzero(sizes == m), min(int(m), most)
        scores = (
            pools["_scores"].gather(mine).explode(empty_as_null=False).to_numpy().reshape(-1, m)
        )
        high, middle = order_weights(int(m), ns)
        bests[mine, :ns], middles[mine, :ns] = scores @ high.T, scores @ middle.T
    has = sizes[:, None] >= np.arange(1, most + 1)
    prompts = has.sum(axis=0)
    averages = pools["_scores"].list.mean().to_numpy()
    n = np.arange(1, most + 1)
    low, high_end = _intervals(pools["_h"].to_numpy(), bests, has, resamples, level)
    columns = {
        "n": n,
        "prompts": prompts,
        "best": bests.sum(axis=0) / prompts,
        "median": middles.sum(axis=0) / prompts,
        "mean": (averages[:, None] * has).sum(axis=0) / prompts,
        "low": low,
        "high": high_end,
        "kl": np.log(n) - (n - 1) / n,
    }
    numbers = [name for name, dtype in _COLUMNS.items() if dtype == pl.Float64]
    made = pl.DataFrame(columns, schema=_COLUMNS).with_columns(
        plain_zero(rounded(pl.col(name).fill_nan(None))).alias(name) for name in numbers
    )
    return made.insert_column(0, pools["_by"].head(1).new_from_index(0, most))


def order_weights(m: int, k: int) -> tuple[Floats, Floats]:
    """How much the i-th smallest of `m` scores counts in the expected best, and in the expected
    median, of n drawn from them.

    n runs from 1 to k: two arrays (k, m) whose rows sum to 1.

    >>> order_weights(3, 2)[0].round(3).tolist()
    [[0.333, 0.333, 0.333], [0.0, 0.333, 0.667]]
    """
    logs = np.array([math.lgamma(x + 1) for x in range(m + 1)])
    i = np.arange(1, m + 1)

    def weights(n: int, r: int) -> Floats:
        """C(i - 1, r - 1) C(m - i, n - r) / C(m, n); in logarithms, and what those lost is the same
        factor for all i.
        """
        out: Floats = np.zeros(m)
        a, b = i[r - 1 : m - n + r] - 1, m - i[r - 1 : m - n + r]
        out[r - 1 : m - n + r] = np.exp(
            logs[a]
            - logs[r - 1]
            - logs[a - r + 1]
            + logs[b]
            - logs[n - r]
            - logs[b - n + r]
            - logs[m]
            + logs[n]
            + logs[m - n]
        )
        scaled: Floats = out / out.sum()
        return scaled

    best = np.stack([weights(n, n) for n in range(1, k + 1)])
    middle = np.stack(
        [(weights(n, (n + 1) // 2) + weights(n, n // 2 + 1)) / 2 for n in range(1, k + 1)]
    )
    return best, middle


def _intervals(
    hashes: npt.NDArray[np.uint64],
    values: Floats,
    has: npt.NDArray[np.bool_],
    resamples: int,
    level: float,
) -> tuple[Floats, Floats]:
    """Quantiles of the mean over resampled prompts; NaN without resamples."""
    if not resamples:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    sums, counts = np.zeros((resamples, values.shape[1])), np.zeros((resamples, values.shape[1]))
    numbers = np.arange(1, resamples + 1, dtype=np.uint64)
    for start in range(0, len(hashes), _CHUNK):
        part = slice(start, start + _CHUNK)
        bits = mix32_array((hashes[part, None] & np.uint64(0xFFFFFFFF)) ^ numbers)
        times = np.searchsorted(_POISSON, bits, side="right").astype(np.float64)
        sums += times.T @ values[part]
        counts += times.T @ has[part].astype(np.float64)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    ends = []
    for column in means.T:  # a resample may hold no prompt with so many scores
        there = column[~np.isnan(column)]
        ends.append(
            np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
            if len(there)
            else np.array([np.nan, np.nan])
        )
    low, high = np.array(ends).T
    return low, high
