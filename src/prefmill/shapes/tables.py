"""Frames whose records become rows. Nothing is collected, but by the account."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import polars.selectors as cs

from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.readers import open_source
from prefmill.shapes import frames, recognise
from prefmill.shapes.account import Account
from prefmill.shapes.cells import RECORD
from prefmill.shapes.making import shape_of
from prefmill.shapes.paths import base_of
from prefmill.shapes.shape import NUMBER, Join, Shape
from prefmill.shapes.source import columns_of, is_plain, join_of, parsed_join, plain_names
from prefmill.shapes.words import Rows
from prefmill.table.fits import fits_frame, fits_schema
from prefmill.table.roles import REQUIRED, Fits, OfRecords, RoleNames, Roles

_HEAD = 1000


@dataclass(frozen=True)
class Reshaping:
    """How records become rows: a shape, and the tables of its joins. It can be pickled."""

    shape: Shape
    joined: tuple[pl.DataFrame, ...] = ()

    @property
    def names(self) -> RoleNames:
        """The columns of the rows by role."""
        names: RoleNames = dict(self.shape.roles)  # type: ignore[assignment]
        return names

    def rows(
        self, frame: pl.LazyFrame | pl.DataFrame, first: int = 0, number: str | None = None
    ) -> RowedFrame:
        """The rows of the records in `frame`, of which `first` is the number of the first.

        `number` is a column that numbers them instead.
        """
        joined = [other.lazy() for other in self.joined]
        records = frames.records(self.shape, frame.lazy(), joined, first, number)
        return RowedFrame(frames.rows(self.shape, records), self.names, self, records)

    def columns(self, there: pl.Schema, extra: Iterable[str] = ()) -> list[str]:
        """Those of the columns `there` of records that rows are made of, and of `extra` paths."""
        keys = [ours for join in self.shape.joins for ours, _ in join.keys]
        bases = [base_of(text, there) for text in (*keys, *extra)]
        used = {*columns_of(self.shape.words, there.names()), *bases}
        return [name for name in there if name in used]

    def keeping(self, names: Iterable[str]) -> Reshaping:
        """The same; of the columns of records rows have these only, besides those of roles."""
        wanted = set(names)
        carried = tuple(name for name in self.shape.carried if name in wanted)
        return replace(self, shape=replace(self.shape, carried=carried))

    def without_consumed(self) -> Reshaping:
        """The same; rows do not have the columns of records whose values are in them."""
        return self.keeping(set(self.shape.carried) - self.shape.consumed)


@dataclass(frozen=True)
class RowedFrame:
    """A frame of rows, the names of its roles, and how its records became rows (None: as is)."""

    frame: pl.LazyFrame | pl.DataFrame
    names: RoleNames
    how: Reshaping | None = None
    records: pl.LazyFrame | None = None

    @property
    def shape(self) -> Shape | None:
        """The shape of the records."""
        return self.how.shape if self.how else None

    @property
    def inside_records(self) -> bool:
        """Whether only rows of one record compare."""
        return self.shape is not None and self.shape.own_group

    def long(self) -> pl.LazyFrame:
        """The rows for people; the number of the record is the last column, `record`."""
        frame = self.frame.lazy()
        if not self.inside_records:
            return frame
        return frame.select(cs.exclude(RECORD), pl.col(RECORD).alias(NUMBER))

    @property
    def of_records(self) -> OfRecords | None:
        """What rows know of their records."""
        return self.shape.of_records if self.shape else None

    def report(self) -> dict[str, object] | None:
        """What became of the records, for reports; collects."""
        if self.shape is None:
            return None
        return reported(self.shape, self.account())

    def account(self) -> Account:
        """What became of the records; collects."""
        assert self.shape is not None
        assert self.records is not None
        counts = frames.reasons(self.shape, self.records).collect().rows()
        dropped = {reason: count for reason, count, *_ in counts if reason is not None}
        used = [tuple(sums) for reason, _, *sums in counts if reason is None]
        rows, lost, against = used[0] if used else (0, 0, 0)
        total = sum(count for _, count, *_ in counts)
        votes = lost // self.shape.answers
        dropped = dict(sorted(dropped.items()))
        told = self.shape.told_of_scores(against)
        return Account(total, rows, dropped, votes, contradicted=told)


def reported(shape: Shape, account: Account) -> dict[str, object]:
    """How records were read, and what became of them, for reports."""
    return {"read_as": shape.words.options(), **account.as_mapping()}


def rows_of(
    frame: pl.LazyFrame | pl.DataFrame,
    rows: Rows,
    *,
    where: str,
    attempt: Callable[[RoleNames], object],
    score: bool = True,
    completion: bool = True,
    extra: Sequence[str] = (),
    first: int = 0,
    renamed: bool = False,
) -> RowedFrame:
    """`frame` as rows of roles, lazily; the arguments are those of `prefmill.shapes.source`.

    `first` is the number of the first record, for messages. With `renamed` rows that are in long
    form have the names of roles as well.
    """
    schema = frame.lazy().collect_schema()

    def head() -> pl.DataFrame | None:
        if isinstance(frame, pl.DataFrame) and not rows.join:
            return frame.head(_HEAD)
        return None

    plain = is_plain(rows, schema.names())
    if plain:
        names = plain_names(rows)
        try:
            attempt(names)
        except ColumnMissing as problem:
            _, rows = recognise.settled(
                rows, schema, head, problem, where=where, score=score, completion=completion
            )
        else:
            if not renamed:
                return RowedFrame(frame, names)
    if rows.file_as:
        raise BadArgument(
            f"{where}: file_as needs files; got a frame.",
            hint='pl.scan_parquet(..., include_file_paths="model") has their paths.',
        )
    joins: list[Join] = []
    joined: list[pl.DataFrame] = []
    wide = dict(schema)
    for text in rows.join or ():
        join, other = _joined(text, wide, where)
        joins.append(join)
        joined.append(other)
        wide |= join.schema
    if not plain:
        _, rows = recognise.completed(
            rows, pl.Schema(wide), head, where=where, score=score, completion=completion
        )
    shape = shape_of(
        rows,
        pl.Schema(wide),
        where=where,
        joins=joins,
        score=score,
        completion=completion,
        extra=extra,
    )
    return Reshaping(shape, tuple(joined)).rows(frame, first)


def long_form(frame: pl.LazyFrame | pl.DataFrame, rows: Rows, *, where: str) -> Reshaping:
    """How `frame` becomes rows under the roles' own names, without what these are made of.

    A score that no column holds is left out.
    """

    def reshaping(required: Sequence[str]) -> Reshaping:
        def attempt(names: RoleNames) -> object:
            columns = frame.lazy().collect_schema().names()
            fits = fits_of(frame)
            return Roles.resolve(columns, names, required=required, where=where, fits=fits)

        score = "score" in required
        rowed = rows_of(frame, rows, where=where, attempt=attempt, score=score, renamed=True)
        assert rowed.how is not None
        how = rowed.how.without_consumed()
        if how.shape.own_group and NUMBER in how.shape.columns:
            raise BadArgument(
                f"{where}: the records have a column {NUMBER!r}, which rows need themselves.",
                hint="rename it first.",
            )
        return how

    try:
        return reshaping(REQUIRED)
    except ColumnMissing as problem:
        if rows.score is not None or "'score'" not in problem.message:
            raise
    return reshaping(REQUIRED[:2])


def fits_of(frame: pl.LazyFrame | pl.DataFrame) -> Fits:
    """Which columns of `frame` can hold a role."""
    if isinstance(frame, pl.DataFrame):
        return fits_frame(frame)
    return fits_schema(frame.collect_schema())


def _joined(text: str, taken: Mapping[str, Any], where: str) -> tuple[Join, pl.DataFrame]:
    """The other table of a join, read at once, after a look that no key is there twice."""
    name, file, keys = parsed_join(text, where)
    with temporary() as home:
        source = open_source([file], temp_dir=home)
        parts = [pl.read_parquet(each, glob=False) for each in source.files]
    other = pl.concat(parts, how="diagonal_relaxed")
    join = join_of(name, file, keys, other.schema, taken, where)
    own = [key for _, key in join.keys]
    known = other.select(own).drop_nulls()
    if known.is_duplicated().any():
        twice = known.filter(known.is_duplicated()).row(0)
        raise BadInput(
            f"{where}: join: the key {list(twice)} is twice in {file}.",
            hint="name more keys: --join FILE:KEY,KEY.",
        )
    return join, other
