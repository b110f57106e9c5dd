"""The rows of votes as numbers, and scores of numbers as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prefmill.connection import quote
from prefmill.errors import AccountingError, BadArgument, ColumnMissing
from prefmill.plans.best_of import BestOf
from prefmill.plans.expect import SOURCE
from prefmill.rules.judges import Agreed
from prefmill.rules.ratings import JUDGED, Fitted, Over, Settings
from prefmill.rules.votes import Ints, Judged, met
from prefmill.runs.job.gather import Fetch
from prefmill.runs.job.job import Job
from prefmill.table.context import context_of
from prefmill.table.numbers import plain_zero, rounded
from prefmill.table.roles import Fits, RoleNames, Roles

RATED: dict[str, pl.DataType] = {
    "score": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "votes": pl.Int64(),
    "component": pl.Int64(),
}
_PART_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class Ballots(BestOf):
    """How rows are read: a column `annotator` is one wherever it is there."""

    def roles(
        self,
        names: RoleNames,
        columns: Sequence[str] | None,
        *,
        where: str,
        fits: Fits | None = None,
    ) -> Roles:
        """The roles of `BestOf`, and the annotator."""
        if "annotator" in (columns or ()):
            names = {"annotator": "annotator", **names}
        return super().roles(names, columns, where=where, fits=fits)


def source_of(job: Job, over: Over) -> str | None:
    """The column of the source, if there is one; raises `ColumnMissing` where it is needed."""
    if SOURCE in job.source.columns.names:
        return SOURCE
    if over == "source":
        raise ColumnMissing(
            f"votes: over source, and no column is the source; got {job.source.columns.names}.",
            hint="name the column: source=COLUMN (--source COLUMN).",
        )
    return None


class Table:
    """The rows of a job as numbers, and scores as rows with their texts."""

    def __init__(
        self, job: Job, settings: Settings, source: str | None, keep: Sequence[str]
    ) -> None:
        self.job, self.settings, self.source = job, settings, source
        if settings.method in JUDGED and not job.roles.annotator:
            raise ColumnMissing(
                f"votes: {settings.method} weighs annotators, and no column is the annotator;"
                f" got {job.source.columns.names}.",
                hint="name the column: annotator=COLUMN (--annotator COLUMN).",
            )
        self.more = self._more(keep)
        job.narrow()
        self._count()
        self._number()

    def _more(self, keep: Sequence[str]) -> dict[str, str]:
        """Columns that come along, by our names for them in the view `texts`."""
        job = self.job
        names = [self.source] if self.source else []
        if self.settings.over == "prompt":
            names += [*context_of(job.dtypes, job.roles, keep).values(), *keep]
        elif keep:
            raise BadArgument("votes: keep has no meaning over source.")
        names = [name for name in dict.fromkeys(names) if name in job.keep]
        if taken := [name for name in names if name in ("prompt", "completion", *RATED)]:
            raise BadArgument(
                f"votes: the output has a column {taken[0]!r} of its own.", hint="leave it out."
            )
        return {name: f"_keep{job.keep.index(name)}" for name in names}

    def _count(self) -> None:
        """Make the view `said`: rows, and why one does not count."""
        source = self.more[self.source] if self.source else "NULL"
        reasons = ["_reason IS NOT NULL THEN _reason"]
        if self.settings.method in JUDGED:
            reasons.append("_annotator IS NULL THEN 'null_annotator'")
        if self.settings.over == "source":
            reasons.append("_source IS NULL THEN 'null_source'")
        self.job.con.execute(
            f"CREATE VIEW said AS SELECT *, CASE WHEN {' WHEN '.join(reasons)} END AS _why FROM ("
            f"SELECT c._pos, c._grp, c._annotator, c._value, c._reason, t._prompt, t._completion,"
            f" {source} AS _source FROM counted c JOIN texts t ON t._pos = c._pos)"
        )

    def _number(self) -> None:
        """Make numbers of all texts, each group of equal ones by its first position."""
        run, over_source = self.job.con.execute, self.settings.over == "source"
        # Texts are grouped once, and only numbers are joined.
        of_source = ", _source" if over_source else ""
        run(
            "CREATE TEMP TABLE answers AS SELECT _prompt, min(_pos) AS a, list(_pos) AS rows"
            f" FROM said WHERE _why IS NULL GROUP BY _prompt, _completion{of_source}"
        )
        run(
            "CREATE TEMP TABLE numbers AS SELECT p, x.a AS a, unnest(x.rows) AS _pos FROM"
            " (SELECT p, unnest(xs) AS x FROM (SELECT min(a) AS p,"
            " list({'a': a, 'rows': rows}) AS xs FROM answers GROUP BY _prompt))"
        )
        for name, keys in (
            ("ballots", "_grp, _annotator"),
            ("annotators", "_annotator"),
            ("sources", "_source"),
        ):
            run(
                f"CREATE TEMP TABLE {name} AS SELECT min(x) AS n, unnest(list(x)) AS _pos FROM"
                f" (SELECT _pos AS x, {keys} FROM said WHERE _why IS NULL) GROUP BY {keys}"
            )
        columns = run(
            "SELECT _pos, p, a, b.n AS b, j.n AS j, s.n AS s, c._value AS v FROM numbers"
            " JOIN ballots b USING (_pos) JOIN annotators j USING (_pos)"
            " JOIN sources s USING (_pos) JOIN (SELECT _pos, _value FROM counted) c USING (_pos)"
            " ORDER BY _pos"
        ).fetchnumpy()
        self._firsts: dict[str, Ints] = {}
        numbers: dict[str, Ints] = {}
        for name in ("p", "a", "b", "j", "s"):
            firsts, numbers[name] = np.unique(columns[name], return_inverse=True)
            self._firsts[name] = np.asarray(firsts, dtype=np.int64)
        self.prompt = numbers["p"]
        self.judged = Judged(
            side=numbers["s"] if over_source else numbers["a"],
            answer=numbers["a"],
            ballot=numbers["b"],
            unit=numbers["p"] if over_source else numbers["b"],
            annotator=numbers["j"],
            value=np.asarray(columns["v"], dtype=np.float64),
        )

    def rated(self, fitted: Fitted) -> pl.DataFrame:
        """The numbers of each row out, in order, with `_pos`, the first row of its side."""
        over_source = self.settings.over == "source"
        firsts = self._firsts["s" if over_source else "a"]
        columns = {"_pos": firsts, "score": fitted.score, "low": fitted.low, "high": fitted.high}
        columns |= {"votes": fitted.votes, "component": fitted.part}
        frame = pl.DataFrame(columns, schema={"_pos": pl.Int64(), **RATED})
        ends = [
            plain_zero(rounded(pl.col(name).fill_nan(None))).alias(name)
            for name in ("score", "low", "high")
        ]
        frame = frame.with_columns(ends)
        if not over_source:
            return frame
        # Scores compare inside a part: the largest part first, and in it the best.
        size = pl.len().over("component").cast(pl.Int64)
        order = [-size, pl.col("component"), -pl.col("score"), pl.col("_pos")]
        return frame.sort(order, nulls_last=True)

    @property
    def schema(self) -> pl.Schema:
        """Columns and types of `frames`."""
        job = self.job
        own: dict[str, pl.DataType] = {}
        more = {name: job.dtypes[name] for name in self.more}
        if self.settings.over == "source":
            return pl.Schema({**more, **RATED})
        own["prompt"] = job.dtypes[job.roles.prompt]
        own["completion"] = job.dtypes[job.roles.completion]
        return pl.Schema({**own, **RATED, **more})

    def frames(self, rated: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Rows out with their texts, some at a time."""
        job, schema = self.job, self.schema
        texts = [] if self.settings.over == "source" else ["_prompt", "_completion"]
        names = [*texts, *self.more.values()]
        job.con.register("rated", rated.select("_pos").with_row_index("slot").to_arrow())
        fetch = Fetch(
            con=job.con,
            source="texts",
            columns=names,
            wanted="rated",
            sides=("_pos",),
            slots=rated.height,
            rows=job.source.positions,
            text_bytes=rated.height * self._row_bytes(names),
            part_bytes=256 * 2**20,
            spill=job.home / "texts.arrow",
        )
        for first, last, rows, where in fetch.parts():
            for start in range(first, last, _PART_ROWS):
                part = rated.slice(start, min(_PART_ROWS, last - start))
                places = pl.Series(where(part["_pos"].to_numpy()))
                taken = {name: rows[name].gather(places) for name in names}
                frame = part.drop("_pos").with_columns(**taken)
                ordered = [*texts, *RATED, *self.more.values()]
                if not texts:
                    ordered = [*self.more.values(), *RATED]
                renamed = frame.select(ordered)
                renamed.columns = list(schema)
                yield renamed.cast(dict(schema))  # type: ignore[arg-type]

    def _row_bytes(self, names: Sequence[str]) -> int:
        """The mean size of a row's texts, from the first 20,000 rows."""
        sizes = ", ".join(f"coalesce(strlen({quote(name)}::VARCHAR), 0)" for name in names)
        ((width,),) = self.job.con.execute(
            f"SELECT avg(list_sum([{sizes}]::BIGINT[])) FROM (SELECT * FROM texts LIMIT 20000)"
        ).fetchall()
        return int(width or 0) + 32

    def counts(self, fitted: Fitted) -> dict[str, Any]:
        """The account of every row, ballot, comparison and side."""
        rows, job = self.judged, self.job
        reasons = job.con.execute(
            "SELECT _why, count(*) FROM said WHERE _why IS NOT NULL GROUP BY _why ORDER BY _why"
        ).fetchall()
        dropped = {str(reason): int(count) for reason, count in reasons}
        used = len(rows.side)
        if used + sum(dropped.values()) != job.source.rows:
            raise AccountingError(
                f"votes: rows used ({used:,}) and dropped ({dropped}) are not all"
                f" {job.source.rows:,} rows."
            )
        sizes = np.bincount(rows.ballot, minlength=rows.ballots)
        _, comparisons, itself = met(rows)
        members = np.bincount(fitted.part)
        cells = np.unique(self.prompt * max(rows.sides, 1) + fitted.part[rows.side])
        in_parts = np.bincount(cells // max(rows.sides, 1)) if len(cells) else np.zeros(0)
        return {
            "rows_in": job.source.rows,
            "rows_used": used,
            "dropped": dropped,
            "ballots": rows.ballots,
            "single": int((sizes == 1).sum()),
            "comparisons": comparisons,
            "ties": fitted.ties,
            "itself": itself,
            "prompts": len(self._firsts["p"]),
            "rows_out": rows.sides,
            "parts": int((members > 1).sum()),
            "lone": int((members == 1).sum()),
            "split_prompts": 0 if self.settings.over == "source" else int((in_parts > 1).sum()),
        }

    def annotators(self, agreed: Agreed) -> dict[str, tuple[int, float]]:
        """By name, in order of first vote: comparisons judged, and how far to rely on it."""
        rows = self.job.con.execute(
            "SELECT min(_pos) AS n, _annotator::VARCHAR FROM said WHERE _why IS NULL"
            " GROUP BY _annotator ORDER BY n"
        ).fetchall()
        counts, shares = agreed.votes, agreed.reliability
        # Annotators after the last one that compared anything have no entry.
        return {
            name: (int(counts[place]), round(float(shares[place]), 9))
            for place, (_, name) in enumerate(rows)
            if place < len(counts) and counts[place]
        }
