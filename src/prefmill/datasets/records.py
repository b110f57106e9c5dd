"""Records of a data set become rows: what is read of them, and a stream of the rows."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill.datasets.elsewhere import keyed_tables
from prefmill.datasets.tables import Layout, dtypes_of, info_of, package, plain_types, tables_of
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.plans.feedback import FeedbackPlan
from prefmill.pools.stream import reader_of
from prefmill.pools.stream import tables_of as tables_of_source
from prefmill.shapes.account import Account
from prefmill.shapes.paths import At, Field, Part, Slice, find, is_path
from prefmill.shapes.repeats import DUPLICATE
from prefmill.shapes.source import is_plain, plain_names, words_in
from prefmill.shapes.tables import Reshaping, long_form, rows_of
from prefmill.shapes.words import Rows, split
from prefmill.table.conform import NotHeld, conformed
from prefmill.table.context import CARRIED, SYSTEM
from prefmill.table.fits import fits_frame, fits_table
from prefmill.table.json_values import without_marks
from prefmill.table.roles import NO_RECORDS, Fits, RoleNames, Roles
from prefmill.writers.arrow import arrow_schema

#: How many of the first records are looked at where a shape is to be recognised.
HEAD = 1000
#: Why records are left out that somebody asked to leave out.
_UNWANTED = ("filtered", "disagreement", DUPLICATE)


@dataclass(frozen=True)
class Reading:
    """How a plan reads a table: columns, roles, and how records become rows (None: they are)."""

    plan: FeedbackPlan
    roles: Roles
    columns: list[str]
    how: Reshaping | None = None

    def of(self, layout: Layout) -> Layout:
        """`layout` over the rows."""
        known = self.how.shape.of_records if self.how else NO_RECORDS
        return replace(layout, plan=self.plan, of_records=known.for_layout(layout.parts))


def reading_of(
    layout: Layout,
    names: RoleNames,
    columns: Sequence[str],
    fits: Fits | None,
    head: Callable[[bool], pl.DataFrame],
) -> Reading:
    """How the plan of `layout` reads a table of these columns, by its words and those of a call.

    `head(True)` are the first records, and `head(False)` may have their types alone.
    """
    plan = layout.plan
    words = words_in(plan.rows, names)

    def attempt(names: RoleNames) -> Roles:
        return plan.roles(names, columns, where="datasets", fits=fits)

    plain = is_plain(words, columns)
    if plain:
        try:
            roles = attempt(plain_names(words))
        except ColumnMissing:
            pass  # `rows_of` raises it again, where no shape is recognised
        else:
            return Reading(plan, roles, layout.columns(roles, columns))
    wide = plan.wide_scores(words.named())
    extra = [*wide, *layout.keep]
    frame = head(plain)
    how = rows_of(
        frame,
        words,
        where="datasets",
        attempt=attempt,
        score=not wide,
        extra=extra,
        renamed=True,
    ).how
    assert how is not None
    inside, votes = how.shape.own_group, how.shape.votes
    plan = plan.over_records(inside=inside, votes=votes, where="datasets")
    context = [name for name in (*SYSTEM, *CARRIED) if name in columns and layout.trainer]
    context += how.shape.of_records.for_layout(layout.parts).parts
    read = how.columns(frame.schema, [*extra, *context])
    how = how.keeping([*extra, *context, *how.shape.roles.get("group", ())])
    plan = replace(plan, rows=None)
    there = schema_of_rows(how, frame.select(read).schema).names()
    return Reading(plan, plan.roles(how.names, there, where="datasets"), read, how)


def schema_of_rows(how: Reshaping, records: pl.Schema) -> pl.Schema:
    """The columns of the rows that records of these types become."""
    return how.rows(pl.DataFrame(schema=records)).frame.lazy().collect_schema()


def tell(account: Account) -> None:
    """Warn of records that gave no row, but for those that nobody wants."""
    unused = [name for name in account.dropped if name not in _UNWANTED]
    if unused or account.lost_votes:
        warnings.warn(f"datasets: {account.line()}.", stacklevel=2)


def identity(how: Reshaping) -> list[object]:
    """What decides which rows `how` makes of a table, for a fingerprint."""
    words = how.shape.words.named()
    return [words, how.shape.carried, how.shape.own_group, *map(_digest, how.joined)]


def _digest(frame: pl.DataFrame) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for table in frame.iter_slices(10_000):
        digest.update(table.write_ipc(None).getbuffer())
    return digest.hexdigest()


# Streams


@dataclass
class RowStream:
    """The rows of a stream of records; it can be pickled, and read any number of times."""

    ds: Any
    how: Reshaping
    schema: pa.Schema  #: of the records
    features: Any  #: of the rows
    read_rows: int  #: records at a time
    long: bool  #: rows for people
    account: Account | None = field(default=None, init=False)  #: of the last pass, when it is over

    @classmethod
    def over(
        cls, ds: Any, how: Reshaping, schema: pa.Schema, read_rows: int, *, long: bool = False
    ) -> RowStream:
        """The rows of `ds`, of whose columns those of `schema` are read."""
        rowed = how.rows(pl.DataFrame(schema=dtypes_of(schema)))
        frame = rowed.long() if long else rowed.frame.lazy()
        features = package().Features.from_arrow_schema(arrow_schema(frame.collect_schema()))
        return cls(ds.select_columns(schema.names), how, schema, features, read_rows, long)

    def dataset(self) -> Any:
        """As an `IterableDataset`."""
        from datasets.iterable_dataset import ArrowExamplesIterable

        examples = ArrowExamplesIterable(self.tables, {})
        info = info_of(self.features, self.ds.info)
        return package().IterableDataset(examples, info=info, split=self.ds.split)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Keys and tables, as `ArrowExamplesIterable` wants them."""
        return keyed_tables(self)

    def made(self) -> Iterator[pa.Table]:
        """Tables of the features, anew. The number of a record counts on from table to table."""
        total = Account(0, 0)
        for table in self._records():
            rowed = self.how.rows(pl.DataFrame(pl.from_arrow(table)), total.records)
            frame = rowed.long() if self.long else rowed.frame.lazy()
            rows = frame.collect(engine="in-memory")
            yield from tables_of(rows, self.features.arrow_schema)
            total = total.and_more(rowed.account())
        self.account = total
        tell(total)

    def _records(self) -> Iterator[pa.Table]:
        try:
            for table in tables_of_source(self.ds, rows=self.read_rows):
                yield conformed(without_marks(table), self.schema)
        except NotHeld as error:
            raise other_types(error, self.schema) from None


def other_types(error: NotHeld, schema: pa.Schema) -> BadInput:
    """The error of a row that does not have the types of the first ones."""
    return BadInput(
        f"datasets: a row does not have the types of the first ones; {error}; "
        f"expected {schema.to_string()!r}.",
        hint="say what the types are: ds.cast(Features(...)), "
        "or Features where the dataset is made.",
    )


@dataclass(frozen=True)
class Records:
    """A stream of records before it is read: its columns, and their types once they are needed."""

    ds: Any
    columns: list[str]
    read_rows: int
    schema: pa.Schema | None = None

    @classmethod
    def of(cls, ds: Any, read_rows: int) -> Records:
        """Without features the first rows say what the columns are."""
        if ds.features:
            schema = plain_types(ds.features.arrow_schema)
            return cls(ds, list(ds.column_names), read_rows, schema)
        columns = ds.column_names or reader_of(ds, rows=read_rows).schema.names
        return cls(ds, list(columns), read_rows)

    @property
    def fits(self) -> Fits:
        """Which columns can hold a role: by features, or by the first records without them.

        Whether a text is a score, or a word such as `up`, only the first records say.
        """
        if not self.ds.features:
            return fits_frame(self.head(values=True))
        by_types = fits_table(pa.Table.from_batches([], self.ds.features.arrow_schema))
        by_values = functools.cache(lambda: fits_frame(self.head(values=True)))

        def fits(role: str, name: str) -> bool | None:
            answer = by_types(role, name)
            if answer is None and role == "score":
                return by_values()(role, name)
            return answer

        return fits

    def head(self, values: bool) -> pl.DataFrame:
        """The first records in plain types; without `values` maybe their types alone."""
        if self.schema is not None and not values:
            return pl.DataFrame(schema=dtypes_of(self.schema))
        table = without_marks(next(tables_of_source(self.ds.take(HEAD), rows=HEAD)))
        types = self.schema or plain_types(table.schema)
        return pl.DataFrame(pl.from_arrow(conformed(table, types)))

    def with_known_types(self, words: Rows) -> Records:
        """The same, whose types are known: those of the first rows, and scores are floats."""
        first = self.schema or plain_types(reader_of(self.ds, rows=self.read_rows).schema)
        return replace(self, schema=with_float_scores(first, words))

    def stream(self, how: Reshaping, columns: Sequence[str], *, long: bool = False) -> RowStream:
        """The rows that `how` makes of these columns, whose types are known."""
        assert self.schema is not None
        if how.shape.words.repeats == "drop":
            raise BadArgument(
                "datasets: repeats 'drop' looks at all records; got a stream of them.",
                hint="leave repeats out, or load the data set whole (streaming=False).",
            )
        schema = pa.schema([self.schema.field(name) for name in columns])
        return RowStream.over(self.ds, how, schema, self.read_rows, long=long)


def long_stream(ds: Any, words: Rows, read_rows: int) -> Any:
    """The rows that the records of the `IterableDataset` `ds` become, as another one."""
    records = Records.of(ds, read_rows)
    how = long_form(records.head(values=True), words, where="datasets")
    if not ds.features:
        records = records.with_known_types(how.shape.words)
        how = long_form(records.head(values=False), how.shape.words, where="datasets")
    assert records.schema is not None
    columns = how.columns(dtypes_of(records.schema), how.shape.carried)
    return records.stream(how, columns, long=True).dataset()


def with_float_scores(schema: pa.Schema, words: Rows) -> pa.Schema:
    """`schema` with floats where scores are whole numbers: fractions may come later.

    >>> kind = pa.struct([("text", pa.string()), ("score", pa.int64())])
    >>> answers = pa.schema([("answers", pa.list_(kind))])
    >>> with_float_scores(answers, Rows(score="answers.score")).field(0).type.value_type.field(1)
    pyarrow.Field<score: double>
    """
    dtypes = dtypes_of(schema)
    texts = [words.score] if isinstance(words.score, str) else list(words.score or ())
    for text in [text for each in texts if isinstance(each, str) for text in split(each)]:
        name = text if text in dtypes else text.removeprefix("-")
        every = name.endswith(".*") and name not in dtypes
        name = name.removesuffix(".*") if every else name
        if is_path(name, dtypes):
            path = find(name, dtypes)
            place = schema.get_field_index(path.column)
            kind = _floated(schema.field(place).type, path.parts, every)
            schema = schema.set(place, pa.field(path.column, kind))
    return schema


def _floated(kind: pa.DataType, parts: Sequence[Part], every: bool) -> pa.DataType:
    """`kind` with floats where `parts` lead to whole numbers, or with `every` to their record."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        is_element = bool(parts) and isinstance(parts[0], At | Slice)
        return pa.list_(_floated(kind.value_type, parts[1:] if is_element else parts, every))
    if pa.types.is_struct(kind):
        names = [parts[0].name] if parts and isinstance(parts[0], Field) else []
        fields = []
        for each in kind:
            wanted = each.name in names or (every and not parts)
            inner = _floated(each.type, parts[1:], every) if wanted else each.type
            fields.append(pa.field(each.name, inner))
        return pa.struct(fields)
    return pa.float64() if pa.types.is_integer(kind) and not parts else kind
