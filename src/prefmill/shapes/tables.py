"""Frames whose records become rows. Nothing is collected, but by the account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.readers import open_source
from prefmill.shapes import frames, recognise
from prefmill.shapes.account import Account
from prefmill.shapes.shape import Join, Shape, shape_of
from prefmill.shapes.source import is_plain, join_of, parsed_join, plain_names
from prefmill.shapes.words import Rows
from prefmill.table.roles import RoleNames

_HEAD = 1000


@dataclass(frozen=True)
class RowedFrame:
    """A frame of rows, the names of its roles, and how its records became rows (None: as is)."""

    frame: pl.LazyFrame | pl.DataFrame
    names: RoleNames
    shape: Shape | None = None
    records: pl.LazyFrame | None = None

    @property
    def inside_records(self) -> bool:
        """Whether only rows of one record compare."""
        return self.shape is not None and self.shape.own_group

    def report(self) -> dict[str, object] | None:
        """What became of the records, for reports; collects."""
        if self.shape is None:
            return None
        return {"read_as": self.shape.words.options(), **self.account().as_mapping()}

    def account(self) -> Account:
        """What became of the records; collects."""
        assert self.shape is not None
        assert self.records is not None
        counts = frames.reasons(self.shape, self.records).collect().rows()
        dropped = {reason: count for reason, count, _ in counts if reason is not None}
        rows = sum(made for reason, _, made in counts if reason is None)
        total = sum(count for _, count, _ in counts)
        return Account(total, rows, dict(sorted(dropped.items())))


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
) -> RowedFrame:
    """`frame` as rows of roles, lazily; the arguments are those of `prefmill.shapes.source`.

    `first` is the number of the first record, for messages.
    """
    schema = frame.lazy().collect_schema()
    if is_plain(rows, schema.names()):
        names = plain_names(rows)
        try:
            attempt(names)
        except ColumnMissing as problem:
            head = frame.head(_HEAD) if isinstance(frame, pl.DataFrame) else None
            readings = recognise.recognised(schema, head, rows, score=score, completion=completion)
            if not readings:
                raise
            if len(readings) > 1:
                raise recognise.choose(readings, where) from problem
            rows = readings[0][1]
        else:
            return RowedFrame(frame, names)
    if rows.file_as:
        raise BadArgument(
            f"{where}: file_as needs files; got a frame.",
            hint='pl.scan_parquet(..., include_file_paths="model") has their paths.',
        )
    joins: list[Join] = []
    joined: list[pl.LazyFrame] = []
    wide = dict(schema)
    for text in rows.join or ():
        join, other = _joined(text, wide, where)
        joins.append(join)
        joined.append(other)
        wide |= join.schema
    shape = shape_of(
        rows,
        pl.Schema(wide),
        where=where,
        joins=joins,
        score=score,
        completion=completion,
        extra=extra,
    )
    records = frames.records(shape, frame.lazy(), joined, first)
    names: RoleNames = dict(shape.roles)  # type: ignore[no-redef]
    return RowedFrame(frames.rows(shape, records), names, shape, records)


def _joined(text: str, taken: dict[str, pl.DataType], where: str) -> tuple[Join, pl.LazyFrame]:
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
    return join, other.lazy()
