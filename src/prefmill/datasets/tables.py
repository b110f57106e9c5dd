"""A `Dataset` as a frame over the same memory, and how a plan's rows are laid out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill.engines.frames import apply
from prefmill.errors import MissingPackage
from prefmill.plans.feedback import FeedbackPlan
from prefmill.readers.json_lines import decoded_table
from prefmill.readers.staging import plain_schema
from prefmill.table.conform import conformed
from prefmill.table.context import CARRIED, SYSTEM
from prefmill.table.json_values import holds, is_marked, without_marks
from prefmill.table.roles import NO_RECORDS, OfRecords, Roles, named
from prefmill.writers.arrow import arrow_schema, arrow_tables
from prefmill.writers.formats import Format, in_parts
from prefmill.writers.layouts import convert

_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Layout:
    """A plan and how its rows are laid out; picks take the names that `convert` knows them by."""

    plan: FeedbackPlan
    format: Format
    chat: bool
    margin_scale: float | None
    keep: tuple[str, ...] = ()
    #: what is known of the records that the rows were made of
    of_records: OfRecords = NO_RECORDS

    @property
    def parts(self) -> bool:
        """Whether the rows have the two columns that a prompt was joined of."""
        return in_parts(self.format) and not self.chat

    @property
    def trainer(self) -> bool:
        """Whether rows are laid out for a trainer, and not as rows of a pool."""
        return self.format != "pool" or self.plan.layout != "pool"

    def columns(self, roles: Roles, there: Sequence[str]) -> list[str]:
        """Those of the columns `there` that are read."""
        context = [name for name in (*SYSTEM, *CARRIED) if name in there and self.trainer]
        read = self.plan.program(roles).read.columns().values()
        return list(dict.fromkeys([*read, *self.keep, *context, *self.of_records.parts]))

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if not self.trainer:
            return rows
        if self.plan.layout == "pool":
            rows = rows.rename({"score": "_score", "rank": "_rank"}, strict=False)
            rows = rows.drop("adjusted_score", strict=False)
        return convert(rows, format=self.format, chat=self.chat, margin_scale=self.margin_scale)

    def features(self, dtypes: pl.Schema, roles: Roles) -> Any:
        """The features of what comes out of columns of these types."""
        rows = self.lazily(self.plan, pl.LazyFrame(schema=dtypes), roles).collect_schema()
        laid_out = arrow_schema(self(pl.DataFrame(schema=rows)).schema)
        return package().Features.from_arrow_schema(laid_out)

    def lazily(
        self, plan: FeedbackPlan, frame: pl.LazyFrame | pl.DataFrame, roles: Roles, first: int = 0
    ) -> pl.LazyFrame:
        """The rows of `plan`, which is this one or settled, over `frame`."""
        return apply(
            plan,
            frame,
            keep=self.keep,
            trainer=self.trainer,
            first=first,
            of_records=self.of_records,
            **named(roles),
        )


def package() -> Any:
    """The package `datasets`, or `MissingPackage`."""
    try:
        import datasets
    except ImportError:
        raise MissingPackage.for_extra("datasets", "datasets", "datasets") from None
    return datasets


def tables_of(rows: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.Table]:
    """`rows` in the Arrow types of `schema`, in slices whose texts a 32-bit offset can reach."""
    yield from arrow_tables(rows, schema, _BATCH_BYTES)


def info_of(features: Any, of: Any) -> Any:
    """What is known of the data besides its features: description and license of the source."""
    about = {name: getattr(of, name) for name in ("description", "citation", "homepage", "license")}
    return package().DatasetInfo(features=features, **about)


def used_table(ds: Any, columns: list[str]) -> pa.Table:
    """These columns of `ds` as they lie in memory; those of Arrow's type for JSON decoded."""
    table = ds.data.table.select(columns)
    marked = any(holds(field.type, is_marked) for field in table.schema)
    return decoded_table(table, "datasets") if marked else table


def plain_types(schema: pa.Schema) -> pa.Schema:
    """Arrow types without views and dictionaries; a column of nothing but nulls is text."""
    fields = []
    for field in plain_schema(schema):
        text = pa.types.is_null(field.type)
        fields.append((field.name, pa.string() if text else field.type))
    return pa.schema(fields)


def record_table(ds: Any, columns: list[str]) -> pa.Table:
    """These columns of `ds` in plain types: lists have no fixed length, and the like."""
    table = without_marks(used_table(ds, columns))
    # Not `cast`: of lists of nulls Arrow's makes lists that reach beyond their end.
    return conformed(table, plain_types(table.schema))


def dtypes_of(schema: pa.Schema) -> pl.Schema:
    """The columns of `schema`, as Polars has them."""
    return pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema


def frame_of(ds: Any, table: pa.Table, most: int | None = None) -> pl.DataFrame:
    """The rows of `ds` in `table`, which has some of its columns; the first `most` of them.

    An indices mapping picks rows without touching their texts.
    """
    frame = pl.DataFrame(pl.from_arrow(without_marks(table), rechunk=False))
    frame = frame.cast({pl.Null: pl.String})
    if ds._indices is None:  # the one private name: `ds[:]` would copy all texts
        return frame.head(most) if most else frame
    places = pl.Series(ds._indices.column(0))
    if most:
        return frame[places.head(most)]
    # In one chunk: from several, Polars gathers by copying the texts.
    return frame.rechunk()[places]
