"""Best-of-n curves: what picking the best of n is worth on a scored pool, in closed form, with
intervals.

    rows ──▶ pools (one prompt's scores, sorted) ──weights of order statistics──▶ E[max of n] of a
    prompt ──mean, bootstrap──▶ curve

The same rule in SQL is `sql/curves/pref_curves.sql`; the formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import polars as pl
import polars.selectors as cs

from prefmill.engines import frames
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.forks import refuse_fork
from prefmill.plans.best_of import BestOf
from prefmill.rules.checked import WAYS, checked_columns
from prefmill.rules.curves import COLUMNS, curve_points, largest_n
from prefmill.rules.rows import check_types, drawn, dropped, numbered, rows_in, standing
from prefmill.runs.cluster.where import Looking, Spreading, parted
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.job.together import NotTogether, score_pools, stand_together
from prefmill.runs.looks.curve_drawn import picture
from prefmill.shown import shown
from prefmill.table.fits import fits_schema
from prefmill.table.numbers import number
from prefmill.table.roles import Inputs, RoleNames
from prefmill.table.showing import Showing, as_html
from prefmill.telemetry.watch import watched


@dataclass(frozen=True)
class Curve(Showing):
    """Best-of-n curves of a pool.

    `points`: a row for every n (and value of `by`, its first column then): n, prompts (with at
    least n scores), best (the unbiased estimate of E[max of n]), median, mean, low and high (the
    bootstrap interval of best; null without resamples), kl (of best-of-n from its policy, in nats).
    With `check` also the expected check of three ways to choose one of n, each with `_low` and
    `_high`: passed (the best check among them: pass@n), picked (that of the highest score) and,
    with `conclusion`, majority (that of the answer which most of n come to).
    `rows_in` = `rows_used` + what `dropped` counts by reason.
    """

    points: pl.DataFrame
    by: str | None
    level: float
    rows_in: int
    rows_used: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    check: str | None = None

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        told = {
            name: getattr(self, name) for name in ("by", "check", "level", "rows_in", "rows_used")
        }
        return told | {
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
            "points": self.points.to_dicts(),
        }

    def _repr_html_(self) -> str:
        rest = {name: value for name, value in self.as_json().items() if name != "points"}
        told = as_html({"curve": f"{self.points.height} points", **rest})
        return picture(self.points, self.by) + told

    def __str__(self) -> str:
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True):
            return shown(str(self.points))

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Curve:
        """The curves that `as_json` told."""
        points = pl.DataFrame(told["points"], infer_schema_length=None)
        unknown = [name for name, kind in points.schema.items() if kind == pl.Null]
        points = points.with_columns(pl.col(unknown).cast(pl.Float64))
        return cls(**{**told, "points": points, "notes": tuple(told["notes"])})


@watched("curve")
def curve(
    data: Inputs,
    *,
    by: str | None = None,
    check: str | None = None,
    conclusion: str | None = None,
    k: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    roles: RoleNames | None = None,
    engine: Literal["auto", "ray"] = "auto",
    **looking: Unpack[Looking],
) -> Curve:
    """What best-of-n is worth on the scored pool `data` (a Polars frame, files, or whatever
    `prefmill.run` takes), for n = 1 to k.

    Args:
        by: a column; every value of it has a curve of its own (say, `temperature`).
        check: a column that says which answers are right: 1 or 0, true or false, or any number.
        conclusion: with check, the column of the answer that a completion comes to (text, null for
            none), for majority votes.
        k: the largest n; None: the largest number of scores of a prompt, at most 128.
        resamples: of the bootstrap over prompts; 0: no intervals.
        level: of the intervals.
        seed: of the resamples; they depend on it and on the prompts alone.
        engine: `ray` brings each prompt's scores together on a cluster.
        roles, looking: as in `prefmill.run`; with `ray` also `address`, `work` and `shuffle`.

    Cost: one narrow pass, then prompts times k, and prompts times resamples for the intervals.
    Raises `PrefmillError`s for arguments or columns that cannot be meant.

    >>> rows = {"prompt": ["p", "p", "p"], "completion": ["a", "b", "c"], "score": [1, 2, 6]}
    >>> pool = pl.DataFrame(rows)
    >>> curve(pool, resamples=0).points.select("n", "best", "median", "kl").rows()[:2]
    [(1, 3.0, 3.0, 0.0), (2, 4.666666667, 3.0, 0.193147181)]
    """
    refuse_fork("curve")
    if engine not in ("auto", "ray"):
        raise BadArgument(f"curve: no engine {engine!r}; expected 'auto' or 'ray'.")
    spreading, reading = parted("curve", engine, looking)
    _check(k, resamples, level, seed)
    if conclusion is not None and check is None:
        raise BadArgument(
            "curve: conclusion is for majority votes of checked answers; got no check.",
            hint="name the column that says which are right: check=COLUMN (--check COLUMN).",
        )
    asked = Asked(by, check, conclusion, seed if resamples else None)
    notes: tuple[str, ...] = ()
    if engine == "ray":
        pools, rows_in, dropped, notes = _pools_of_buckets(
            data, asked, roles or {}, spreading, reading
        )
    elif isinstance(data, pl.LazyFrame | pl.DataFrame):
        pools, rows_in, dropped = _pools_of_frame(data.lazy(), asked, roles or {})
    else:
        pools, rows_in, dropped, notes = _pools_of_files(data, asked, roles or {}, reading)
    parts = pools.partition_by("_by", maintain_order=True)
    columns = COLUMNS | dict.fromkeys(asked.columns, pl.Float64)
    empty = pl.DataFrame(schema={"_by": pools.schema["_by"], **columns})
    curves = []
    for part in parts:
        made = curve_points(part, k, resamples, level)
        if check is not None:
            made = made.hstack(checked_columns(part, largest_n(part, k), resamples, level))
        curves.append(made)
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
        check=check,
    )


@dataclass(frozen=True)
class Asked:
    """The columns that a curve is asked for, and the seed of its resamples (None: none)."""

    by: str | None
    check: str | None
    conclusion: str | None
    seed: int | None

    @property
    def extra(self) -> dict[str, str]:
        """The columns besides those of roles, by our name."""
        named = {"_by": self.by, "_check": self.check, "_said": self.conclusion}
        return {ours: name for ours, name in named.items() if name is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of points that a check adds."""
        if self.check is None:
            return ()
        ways = WAYS if self.conclusion is not None else WAYS[:2]
        return tuple(f"{way}{end}" for way in ways for end in ("", "_low", "_high"))

    def refuse(self, columns: Sequence[str]) -> None:
        """Raise for a column that is not there, or that points have themselves."""
        for ours, name in self.extra.items():
            word = {"_by": "by", "_check": "check", "_said": "conclusion"}[ours]
            if name not in columns:
                what = "to draw curves by" if word == "by" else f"for {word}"
                raise ColumnMissing(
                    f"curve: no column {name!r} {what}; got {list(columns)}.",
                    hint=f"name another column: {word}=COLUMN (--{word} COLUMN).",
                )
        if self.by in {*COLUMNS, *self.columns}:
            raise BadArgument(
                f"curve: a column of the curve is named {self.by!r} itself;"
                f" expected none of {[*COLUMNS, *self.columns]}.",
                hint="rename the column.",
            )

    def query(self, texts: str) -> str:
        """The pools of candidates as SQL, or with a check the candidates themselves.

        `texts` is a relation of the rows with the columns `extra`, as `_keep0`, `_keep1` ...
        """
        extra, columns = self.extra, list(dict.fromkeys(self.extra.values()))
        kept = {ours: f"t._keep{columns.index(name)}" for ours, name in extra.items()}
        listed = "".join(f", {cell} AS {ours}" for ours, cell in kept.items())
        if self.by is None:
            listed += ", NULL::VARCHAR AS _by"
        joined = f" JOIN {texts} t ON t._pos = c._pos" if extra else ""
        rows = f"SELECT c.*{listed} FROM candidates c{joined} WHERE c._reason IS NULL"
        hashed = "0::UBIGINT" if self.seed is None else f"pref_hash(_grp, {self.seed})"
        if self.check is None:
            return (
                f"SELECT _by, {hashed} AS _h, list_sort(list(_score)) AS _scores FROM ({rows})"
                " GROUP BY _by, _grp"
            )
        cells = ", ".join(each for each in extra if each != "_by")
        numbers = "dense_rank() OVER (ORDER BY _grp) AS _grp"
        return f"SELECT _by, {hashed} AS _h, {numbers}, _score, _pos, {cells} FROM ({rows})"

    def pools(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """Rows (_by, _h, _score, _pos, _check, _said) of prompts as pools, and those dropped."""
        check = number(pl.col("_check"), rows.schema["_check"])
        rows = rows.with_columns(_check=check)
        usable = pl.col("_check").is_finite().fill_null(False)
        dropped = rows.select((~usable).sum()).item()
        lists = {"_scores": "_score", "_checks": "_check"}
        if self.conclusion is not None:
            lists["_said"] = "_said"
            rows = rows.with_columns(pl.col("_said").cast(pl.String).replace("", None))
        ordered = rows.filter(usable).sort("_score", "_pos")
        pools = ordered.group_by("_by", "_grp", maintain_order=True).agg(
            pl.col("_h").first(), **{ours: pl.col(name) for ours, name in lists.items()}
        )
        pools = pools.drop("_grp").sort("_by", "_h", nulls_last=True)
        return pools, {"bad_check": dropped} if dropped else {}


_DROPPED = (
    "SELECT _reason, count(*) AS rows FROM counted WHERE _reason IS NOT NULL GROUP BY _reason"
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


def _pools_of_frame(
    frame: pl.LazyFrame, asked: Asked, names: RoleNames
) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Pools (_by, _h: the prompt's hash unless the seed is None, _scores), the rows that went in,
    and those dropped by reason.
    """
    extra = asked.extra
    asked.refuse(frame.collect_schema().names())
    plan, rowed = frames.in_rows(
        BestOf(), frame, names, where="curve", extra=list(dict.fromkeys(extra.values()))
    )
    frame = rowed.frame.lazy()
    schema = frame.collect_schema()
    roles = plan.roles(rowed.names, schema.names(), where="curve", fits=fits_schema(schema))
    program = plan.program(roles)
    check_types(program.read, schema, "curve")
    made = frames.relations(program, numbered(program.read, frame))
    rows = standing(made["candidates"])
    if extra:
        named = {ours: cs.by_name(name) for ours, name in extra.items()}
        values = frame.select(**named).with_row_index("_pos").cast({"_pos": pl.Int64})
        rows = rows.join(values, on="_pos", how="left")
    if asked.by is None:
        rows = rows.with_columns(_by=pl.lit(None, pl.String))
    counted = made["counted"]
    told = dropped(counted, made["candidates"])
    if asked.check is not None:
        hashed = pl.lit(0, pl.UInt64) if asked.seed is None else drawn(rows, asked.seed)
        kept = ("_by", "_grp", "_score", "_pos", *(each for each in extra if each != "_by"))
        pools_, more = asked.pools(rows.select(*kept, _h=hashed).collect())
        return pools_, rows_in(counted), told | more
    pools = rows.group_by("_by", "_grp").agg(_scores=pl.col("_score").sort())
    hashed = pl.lit(0, pl.UInt64) if asked.seed is None else drawn(pools, asked.seed)
    pools = pools.select("_by", "_scores", _h=hashed).sort("_by", "_h", nulls_last=True)
    return pools.collect(), rows_in(counted), told


def _pools_of_files(
    inputs: Inputs, asked: Asked, names: RoleNames, reading: Reading
) -> tuple[pl.DataFrame, int, dict[str, int], tuple[str, ...]]:
    extra = asked.extra
    columns = list(dict.fromkeys(extra.values()))
    with opened(BestOf(), inputs, roles=names, keep=columns, **reading) as job:
        asked.refuse(job.source.columns.names)
        if not extra and stand_together(job):
            with suppress(NotTogether):
                pools, dropped_rows = score_pools(job, asked.seed)
                return _in_order(pools), job.source.rows, dropped_rows, job.notes
        job.narrow()
        query = asked.query("texts")
        install_used(job.con, [query])
        counts = {
            str(reason): int(number) for reason, number in job.con.execute(_DROPPED).fetchall()
        }
        found = pl.DataFrame(job.con.sql(query).to_arrow_table())
        pools, more = asked.pools(found) if asked.check is not None else (_in_order(found), {})
        return pools, job.source.rows, counts | more, job.notes


def _pools_of_buckets(
    inputs: Inputs, asked: Asked, names: RoleNames, where: Spreading, reading: Reading
) -> tuple[pl.DataFrame, int, dict[str, int], tuple[str, ...]]:
    """As `_pools_of_files`, of prompts that are brought together on a cluster."""
    from prefmill.runs.cluster.spread import looked_at

    columns = list(dict.fromkeys(asked.extra.values()))
    with looked_at(BestOf(), inputs, where, reading, roles=names, keep=columns) as spread:
        job = spread.job
        asked.refuse(job.source.columns.names)
        found = spread.ask(asked.query("numbered"), until="candidates")
        dropped_rows = spread.ask(_DROPPED, until="candidates")
        sums = dropped_rows.group_by("_reason").agg(pl.col("rows").sum())
        counts = {str(reason): int(rows) for reason, rows in sums.sort("_reason").iter_rows()}
        if asked.check is None:
            return _in_order(found.drop("_bucket")), job.source.rows, counts, job.notes
        # Groups are numbered in each bucket.
        together = pl.col("_grp") * spread.cut.buckets + pl.col("_bucket")
        pools, more = asked.pools(found.with_columns(_grp=together).drop("_bucket"))
        return pools, job.source.rows, counts | more, job.notes


def _in_order(pools: pl.DataFrame) -> pl.DataFrame:
    return pools.sort("_by", "_h", nulls_last=True)
