"""A shape as a lazy Polars frame; nothing is collected."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import polars.selectors as cs

from prefmill.errors import BadInput
from prefmill.shapes.cells import EACH, RECORD, Inside
from prefmill.shapes.shape import REASON, Shape, Variant

_VARIANT, _PLACE = "_variant", "_place"


def records(
    shape: Shape,
    frame: pl.LazyFrame,
    joined: Sequence[pl.LazyFrame] = (),
    first: int = 0,
    number: str | None = None,
) -> pl.LazyFrame:
    """The records of `frame` with the columns that rows are made of, and why one is left out.

    The number of a record is its place from `first` on, or the whole number in its column `number`.
    """
    if number is None:
        frame = frame.with_row_index(RECORD, first).cast({RECORD: pl.Int64})
    else:
        own = _by_name(number).cast(pl.Int64).alias(RECORD)
        frame = frame.select(own, pl.all())
    for place, (join, other) in enumerate(zip(shape.joins, joined, strict=True)):
        keys = [cs.by_name(own).cast(pl.String).alias(f"_key{n}") for n, (_, own) in _pairs(join)]
        mine = [cs.by_name(ours).cast(pl.String).alias(f"_key{n}") for n, (ours, _) in _pairs(join)]
        names = [f"_key{n}" for n, _ in _pairs(join)]
        columns: list[pl.Expr] = [_by_name(name) for name in join.schema]
        if join.record:
            fields = [_by_name(name) for name in join.fields]
            columns = [pl.struct(fields).alias(join.record)]
        right = other.select(*keys, *columns, pl.lit(True).alias(f"_matched{place}"))
        frame = frame.with_columns(mine).join(right, on=names, how="left", maintain_order="left")
        matched = pl.col(f"_matched{place}").fill_null(False)
        frame = frame.with_columns(matched).drop(names)
    for stage in shape.helpers:
        frame = frame.with_columns(cell.polars().alias(name) for name, cell in stage.items())
    return frame


def _pairs(join: object) -> list[tuple[int, tuple[str, str]]]:
    return list(enumerate(join.keys))  # type: ignore[attr-defined]


def rows(shape: Shape, records: pl.LazyFrame, place: str = "row {}") -> pl.LazyFrame:
    """The rows of `records`, in order: the columns of the shape.

    Raises `BadInput` when it is collected for lists of unequal length.
    """
    there = records.filter(pl.col(REASON).is_null())
    if not any(each.lists for each in shape.variants):
        return _side_by_side(shape, there)
    if len(shape.variants) == 1:
        return _exploded(shape, there, shape.variants[0], 0).drop(_PLACE, _VARIANT)
    parts = [_exploded(shape, there, each, number) for number, each in enumerate(shape.variants)]
    order = [RECORD, _VARIANT, _PLACE]
    tall = pl.concat(parts, how="vertical_relaxed").sort(order, maintain_order=True)
    return tall.drop(_VARIANT, _PLACE, *([] if shape.own_group else [RECORD]))


def _out(shape: Shape) -> list[pl.Expr]:
    """The columns that rows keep of their record."""
    own = [pl.col(RECORD)] if shape.own_group else []
    return [*own, *(cs.by_name(name).as_expr() for name in shape.carried)]


def _side_by_side(shape: Shape, there: pl.LazyFrame) -> pl.LazyFrame:
    if len(shape.variants) == 1:
        cells = shape.variants[0].cells.items()
        own = [pl.col(RECORD)] if shape.own_group else []
        made = [cell.polars().alias(name) for name, cell in cells]
        return there.select(*own, *made, *map(_by_name, shape.carried))
    votes = [each.vote.polars() if each.vote else pl.lit(True) for each in shape.variants]
    variants = [
        pl.struct(vote.alias("_vote"), *_cells(each)).alias(f"_variant{number}")
        for number, (each, vote) in enumerate(zip(shape.variants, votes, strict=True))
    ]
    names = [f"_variant{number}" for number in range(len(variants))]
    schema = there.select(variants).collect_schema()
    wide = {name: schema[name] for name in names}
    common = _common_type(list(wide.values()))
    tall = there.select(
        *([pl.col(RECORD)] if shape.own_group else []),
        pl.concat_list([variant.cast(common) for variant in variants]).alias(_VARIANT),
        *map(_by_name, shape.carried),
    ).explode(_VARIANT)
    return tall.unnest(_VARIANT).filter("_vote").drop("_vote")


def _common_type(kinds: list[pl.DataType]) -> pl.DataType:
    empty = [pl.DataFrame(schema={"x": kind}).unnest("x") for kind in kinds]
    return pl.Struct(pl.concat(empty, how="vertical_relaxed").schema)


def _by_name(name: str) -> pl.Expr:
    return cs.by_name(name).as_expr()


def _cells(variant: Variant) -> list[pl.Expr]:
    return [cell.polars().alias(name) for name, cell in variant.cells.items()]


def _exploded(shape: Shape, there: pl.LazyFrame, variant: Variant, number: int) -> pl.LazyFrame:
    """A row for each element of the variant's lists."""
    if variant.vote:
        there = there.filter(variant.vote.polars())
    lists = [Inside(path).polars().alias(f"{EACH}{n}") for n, path in enumerate(variant.lists)]
    names = [f"{EACH}{n}" for n in range(len(lists))]
    there = there.with_columns(lists)
    if len(names) > 1:
        there = there.with_columns(_checked(names))
    size = pl.col(names[0]).list.len() if names else pl.lit(1, pl.UInt32)
    there = there.with_columns(pl.int_ranges(size.fill_null(0)).alias(_PLACE))
    tall = there.filter(pl.col(_PLACE).list.len() > 0).explode(_PLACE, *names)
    keeps = [] if shape.own_group or len(shape.variants) == 1 else [pl.col(RECORD)]
    numbered = pl.lit(number).alias(_VARIANT)
    return tall.select(
        *keeps,
        *_out(shape)[: int(shape.own_group)],
        numbered,
        _PLACE,
        *_cells(variant),
        *map(_by_name, shape.carried),
    )


def _checked(names: Sequence[str]) -> pl.Expr:
    """The first list, after a check that all have its length."""

    def check(lists: pl.Series) -> pl.Series:
        frame = lists.struct.unnest()
        lengths = [frame[name].list.len().fill_null(0) for name in names]
        for other in lengths[1:]:
            unequal = lengths[0] != other
            if unequal.any():
                record = frame[RECORD].filter(unequal)[0]
                sizes = [int(each.filter(unequal)[0]) for each in lengths]
                raise BadInput(
                    f"rows: the lists of row {record} have different lengths; got {sizes}.",
                    hint="make them equal in the file, or name one of them only.",
                )
        return frame[names[0]]

    first = pl.struct(RECORD, *names)
    dtype = pl.col(names[0])
    return (
        first.map_batches(check, is_elementwise=True).alias(names[0])
        if dtype is not None
        else first
    )


def reasons(shape: Shape, records: pl.LazyFrame) -> pl.LazyFrame:
    """How many records each reason leaves out (null: used), how many rows the others give, and
    their answers in votes without a verdict, and pairs that scores contradict.
    """
    sizes = [_size(each) for each in shape.variants]
    total = pl.sum_horizontal(sizes)
    empty = pl.when(total == 0).then(pl.lit("no_answers"))
    reason = pl.coalesce(REASON, empty).alias("reason")
    votes = [each.vote.polars() for each in shape.variants if each.vote]
    lost = pl.sum_horizontal(~vote for vote in votes) if votes else pl.lit(0)
    against = shape.contradicted[1].polars() if shape.contradicted else pl.lit(False)
    made = records.select(reason, rows=total, lost=lost.cast(pl.Int64), against=against)
    sums = pl.col("rows", "lost", "against").sum()
    return made.group_by("reason").agg(pl.len().alias("records"), sums)


def _size(variant: Variant) -> pl.Expr:
    size = pl.lit(1, pl.Int64)
    if variant.lists:
        size = Inside(variant.lists[0]).polars().list.len().fill_null(0).cast(pl.Int64)
    return size * variant.vote.polars().cast(pl.Int64) if variant.vote else size
