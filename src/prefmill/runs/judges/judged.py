"""Judged files as numbers: what an audit reads of texts, scores and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Unpack

import numpy as np
import polars as pl

from prefmill.connection import literal
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.plans.expect import SOURCE
from prefmill.progress import Progress
from prefmill.rules.audits.effects import Bools
from prefmill.rules.audits.texts import FORMATS, measures, text_of
from prefmill.rules.audits.twice import Shown
from prefmill.rules.votes import Ints
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.judges.ballots import Ballots
from prefmill.scoring.judging.answers import parse_verdict
from prefmill.scoring.judging.wording import Mark
from prefmill.table.roles import Inputs, RoleNames, Roles, named

_FRAME_ROWS, _VERDICT_ROWS = 20_000, 2_000
_HASHES = ("prompt", "group", "judge", "text")
#: What the first answer shown wins by a letter.
_POINTS = {"A": 0.5, "B": -0.5, "C": 0.0}
#: What the verdicts of MT-Bench and Prometheus end in.
_MARKS: tuple[Mark, ...] = ("brackets", "result")
_MATCHES = '[{"against": "BIGINT", "as_a": "VARCHAR", "as_b": "VARCHAR"}]'


@dataclass(frozen=True)
class Judged:
    """The usable rows of some files, in order.

    `rows` has `position`, hashes (`prompt`, `group`, `judge`, `text`), `score`, `reference` (NaN:
    none), `length`, the formats, `source`, `annotator` and `by` (text or null), `file`. `both` are
    verdicts of our own pairwise judge (`position`, `as_a`, `as_b`), each match once. `dropped`
    counts the other rows by reason, `null` those of them that a judge said why of.
    """

    rows: pl.DataFrame
    both: pl.DataFrame
    ordered: bool
    copies: int
    rows_in: int
    rejected: int
    dropped: Mapping[str, int]
    null: Mapping[str, int]
    roles: Roles
    records: Mapping[str, Any] | None
    notes: tuple[str, ...]


def judged(
    inputs: Inputs,
    *,
    human: str | Sequence[str] | None,
    roles: RoleNames | None,
    by: str | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Judged:
    """Read judged rows: texts once, a part at a time, and numbers of them.

    `human` is read as the score or the verdict is, by the same words.
    """
    with _opened(inputs, roles, progress, reading) as job:
        rows = _narrow(job, by)
        both = _verdicts(job, rows)
        rows, copies = _without_copies(job, rows)
        dropped, null = _reasons(job)
        words = _words(job)
        told: dict[str, Any] = {
            "both": both,
            # What makes a place of an answer: a verdict over two that stand side by side.
            "ordered": _has_order(job, words),
            "copies": copies,
            "rows_in": job.source.rows,
            "rejected": job.source.rejected,
            "dropped": dropped,
            "null": null,
            "roles": job.roles,
            "records": job.rowed.report(),
            "notes": job.source.notes,
        }
        inside = job.rowed.inside_records
    if human:
        role = "winner" if words.get("winner") else "score"
        said = {**words, role: human}
        try:
            values = _reference(inputs, said, inside, rows, progress, reading)
        except ColumnMissing as error:
            raise ColumnMissing(
                f"audit: the reference cannot be read; {error.message}",
                hint=f"name a column that is read as the {role} is: human=COLUMN (--human COLUMN).",
            ) from error
        if values.is_nan().all():
            raise BadInput(
                f"audit: the reference {human!r} has no value for a row that can be used.",
                hint=f"it is read as the {role} is; --values WORD=NUMBER,... says what words mean.",
            )
        rows = rows.with_columns(reference=pl.Series(values, dtype=pl.Float64))
    else:
        rows = rows.with_columns(reference=pl.lit(np.nan, pl.Float64))
    return Judged(rows=rows, **told)


def _opened(
    inputs: Inputs, roles: Any, progress: Progress | None, reading: Any
) -> Any:  # a context manager of a Job
    return opened(
        Ballots(),
        inputs,
        roles=roles,
        engine="duckdb",
        whole_rows=True,
        each_vote=True,
        progress=progress,
        **reading,
    )


def _words(job: Job) -> dict[str, Any]:
    """The words by which the rows were read, recognised ones as well."""
    shape = job.rowed.shape
    return shape.words.named() if shape else dict(named(job.roles))


def _has_order(job: Job, words: Mapping[str, Any]) -> bool:
    shape = job.rowed.shape
    return bool(shape and job.rowed.inside_records and words.get("winner") and shape.answers == 2)


def _kept(job: Job, name: str) -> str | None:
    """Our name for a column of the input in the view `texts`."""
    return f"_keep{job.keep.index(name)}" if name in job.keep else None


def _part(job: Job, by: str) -> str:
    """Our name for the column that rows are told apart by."""
    # Rows of records have the annotator and the source under the names of these roles.
    role = next((role for role in ("annotator", SOURCE) if _words(job).get(role) == by), by)
    name = _kept(job, by) or _kept(job, role)
    if name is None:
        raise ColumnMissing(
            f"audit: no column {by!r} to audit by; got {job.keep}.",
            hint="name another column: by=COLUMN (--by COLUMN).",
        )
    return name


def _beside(job: Job, name: str) -> str | None:
    """Our name for what a judge of ours wrote next to the score: its verdict, its reason."""
    score = str(_words(job).get("score") or job.roles.score).removeprefix("-")
    # A criterion's score (score_helpful) stands next to the verdict of the whole.
    return _kept(job, f"{score}_{name}") or _kept(job, f"score_{name}")


def _narrow(job: Job, by: str | None) -> pl.DataFrame:
    """A row of numbers for each row that has a score."""
    job.narrow()
    source, part = _kept(job, SOURCE), None if by is None else _part(job, by)
    query = (
        "SELECT c._pos AS position, hash(t._prompt) AS prompt, hash(c._grp) AS group,"
        " hash(c._annotator) AS judge, c._annotator::VARCHAR AS annotator, c._value AS score,"
        f" hash(t._completion) AS text, {source or 'NULL'}::VARCHAR AS source,"
        f" {part or 'NULL'}::VARCHAR AS by,"
        " t._completion AS completion"
        " FROM counted c JOIN texts t ON t._pos = c._pos WHERE c._reason IS NULL"
    )
    parts = []
    for batch in job.con.sql(query).to_arrow_reader(_FRAME_ROWS):
        frame = pl.DataFrame(batch)
        text = text_of("completion", frame.schema["completion"])
        frame = frame.with_columns(completion=text)
        parts.append(frame.with_columns(**measures(pl.col("completion"))).drop("completion"))
    if not parts:
        raise BadInput(
            "audit: no row has a prompt, a completion and a score.",
            hint="prefmill check says which rows cannot be used.",
        )
    ends = np.cumsum([count for _, count in job.source.inputs])
    starts = np.concatenate([[0], ends])[:-1] * job.source.width
    rows = pl.concat(parts, how="vertical_relaxed").sort("position")
    file = np.searchsorted(starts, rows["position"].to_numpy(), side="right") - 1
    return rows.with_columns(
        pl.Series("file", file),
        pl.col("score").cast(pl.Float64),
        *(pl.col(name).cast(pl.UInt64) for name in _HASHES),
        *(pl.col(name).fill_null(False) for name in FORMATS),
        pl.col("length").fill_null(0),
    )


def _reasons(job: Job) -> tuple[dict[str, int], dict[str, int]]:
    """Rows that cannot be used, by reason; and what a judge said of those without a score."""
    query = "SELECT _reason, count(*) FROM counted WHERE _reason IS NOT NULL GROUP BY 1 ORDER BY 1"
    dropped = {str(reason): int(rows) for reason, rows in job.con.execute(query).fetchall()}
    reason = _beside(job, "reason")
    if reason is None:
        return dropped, {}
    query = (
        f"SELECT t.{reason}::VARCHAR, count(*) FROM counted c JOIN texts t ON t._pos = c._pos"
        f" WHERE c._reason IS NOT NULL AND t.{reason} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return dropped, {str(why): int(rows) for why, rows in job.con.execute(query).fetchall()}


def _without_copies(job: Job, rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows without those whose verdict our own judge copied from an equal answer."""
    if _beside(job, "verdict") is None:
        return rows, 0
    first = rows.unique(["file", "group", "judge", "text"], keep="first", maintain_order=True)
    return first, rows.height - first.height


# Both orders


def _verdicts(job: Job, rows: pl.DataFrame) -> pl.DataFrame:
    """What our own pairwise judge said: points of the first shown, by the row that it is about."""
    verdict = _beside(job, "verdict")
    points_of = {"position": pl.Int64, "as_a": pl.Float64, "as_b": pl.Float64}
    empty = pl.DataFrame(schema=points_of)
    if verdict is None:
        return empty
    # Places are counted over numbers: with the verdicts in it a window would hold all of them.
    matches = f"unnest(from_json(TRY_CAST(t.{verdict}::VARCHAR AS JSON), {literal(_MATCHES)}))"
    query = (
        "WITH places AS (SELECT _pos, row_number() OVER (PARTITION BY _grp ORDER BY _pos) - 1"
        " AS place FROM counted WHERE _has_completion)"
        " SELECT position, m.as_a AS as_a, m.as_b AS as_b FROM ("
        f"SELECT p._pos AS position, place, {matches} AS m"
        f" FROM places p JOIN texts t ON t._pos = p._pos"
        f""" WHERE t.{verdict}::VARCHAR LIKE '[{{%"as_a"%')"""
        # A match stands in the rows of both its answers.
        " WHERE place < m.against AND m.as_a IS NOT NULL AND m.as_b IS NOT NULL"
    )
    points = _Points()
    parts = []
    for batch in job.con.sql(query).to_arrow_reader(_VERDICT_ROWS):
        frame = pl.DataFrame(batch)
        sides = {name: points.of(frame[name]) for name in ("as_a", "as_b")}
        parts.append(frame.select("position").with_columns(**sides))
    if not parts:
        return empty
    first = rows.unique(["file", "group", "judge", "text"], keep="first", maintain_order=True)
    told = pl.concat(parts).drop_nulls()
    return told.filter(pl.col("position").is_in(first["position"].implode())).sort(
        "position", maintain_order=True
    )


class _Points:
    """What was said, as points of the answer shown first; short texts are read once."""

    def __init__(self) -> None:
        self._known: dict[str, float | None] = {}

    def of(self, said: pl.Series) -> pl.Series:
        """A number for each text, null where it is no verdict."""
        return pl.Series([self._one(text) for text in said], dtype=pl.Float64)

    def _one(self, text: str) -> float | None:
        if text not in self._known:
            letter = parse_verdict(text)
            # Reasons before a mark name both answers; whether it was asked for is not told here.
            for mark in _MARKS if letter == "contradictory" else ():
                marked = parse_verdict(text, mark=mark)
                letter = marked if marked in _POINTS else letter
            point = _POINTS.get(letter)
            if len(text) > 100:
                return point
            self._known[text] = point
        return self._known[text]


# The reference


def _reference(
    inputs: Inputs,
    words: Mapping[str, Any],
    inside: bool,
    rows: pl.DataFrame,
    progress: Progress | None,
    reading: Any,
) -> pl.Series:
    """The human's scores for `rows`, the mean where there are several."""
    with _opened(inputs, words, progress, reading) as job:
        job.narrow()
        value = "CASE WHEN _reason IS NULL THEN _value END"
        if not inside:
            query = f"SELECT _pos AS position, {value} AS reference FROM counted"
            said = job.con.sql(query).pl()
            return rows.join(said, on="position", how="left", maintain_order="left")[
                "reference"
            ].fill_null(np.nan)
        # A record may have a verdict of one and none of the other: then positions differ.
        query = (
            f"SELECT hash(_grp)::UBIGINT AS group, side, avg({value}) AS reference FROM (SELECT *,"
            " row_number() OVER (PARTITION BY _grp, _annotator ORDER BY _pos) - 1 AS side"
            " FROM counted) GROUP BY 1, 2"
        )
        said = job.con.sql(query).pl()
    side = pl.col("position").rank("ordinal").over("group", "judge").cast(pl.Int64) - 1
    return (
        rows.with_columns(side=side)
        .join(said, on=["group", "side"], how="left", maintain_order="left")["reference"]
        .fill_null(np.nan)
    )


# What is whose


def own_answers(rows: pl.DataFrame, names: Sequence[str]) -> Bools | None:
    """Which rows are answers of their judge; None where nothing says so.

    `names` are patterns of sources. Without them a source is its judge where both have one name.
    """
    source = rows["source"]
    if not names:
        same = (rows["source"] == rows["annotator"]).fill_null(False).to_numpy()
        return same if same.any() else None
    if source.null_count() == len(source):
        raise BadArgument(
            "audit: judge_name is given, and no column says which model an answer is of.",
            hint="name the column: source=COLUMN (--source COLUMN).",
        )
    known = source.drop_nulls().unique(maintain_order=True).to_list()
    own = {name for name in known if any(fnmatchcase(name, each) for each in names)}
    if not own or len(own) == len(known):
        what = "no source is" if not own else "every source is"
        raise BadArgument(
            f"audit: {what} one of {list(names)}; got {_some(known)}.",
            hint="name the judge's own models as the sources have them; * stands for anything.",
        )
    mine: Bools = source.is_in(list(own)).fill_null(False).to_numpy()
    return mine


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown} and {len(names) - 8:,} more" if len(names) > 8 else shown


def numbers(*columns: pl.Series) -> Ints:
    """Rows of columns as numbers from 0 without gaps, equal rows as one, by first row."""
    frame = pl.DataFrame([column.alias(str(place)) for place, column in enumerate(columns)])
    known = frame.unique(maintain_order=True).with_row_index("number")
    found = frame.join(known, on=frame.columns, how="left", maintain_order="left", nulls_equal=True)
    out: Ints = found["number"].cast(pl.Int64).to_numpy()
    return out


def both_orders(read: Judged, rows: pl.DataFrame, number: Ints) -> Shown:
    """Verdicts in both orders about some of the rows; `number` are the numbers of their prompts."""
    table = rows.select("position", "run").with_columns(number=pl.Series(number))
    told = read.both.join(table.filter(run=0), on="position", how="inner", maintain_order="left")
    return Shown(told["number"].to_numpy(), told["as_a"].to_numpy(), told["as_b"].to_numpy())
