"""A plan over a table that is in parts: what runs on each part, as pure functions of Arrow tables.

    part of the input ──rows_of──▶ rows with a bucket ──engine: group by bucket──▶ one bucket
    one bucket, whole prompts ──selected──▶ rows of output       ──counted──▶ a report of its own

Buckets run the very steps that a frame runs (`prefmill.engines.frames`), so any division into
buckets gives the same rows. Which engine brings rows together is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pyarrow as pa

from prefmill.engines import frames
from prefmill.engines.buckets import bucket_of
from prefmill.engines.positions import OURS, POSITION, in_record, refuse_twice, whole
from prefmill.engines.steps import Asks, kept_names
from prefmill.errors import BadArgument, BadInput, BadScore
from prefmill.readers.staging import plain_schema
from prefmill.rules.rows import numbered, standing
from prefmill.rules.tallies import Look, settled_by, tally
from prefmill.shapes.account import Account
from prefmill.shapes.tables import Reshaping, reported
from prefmill.table.conform import NotHeld, conformed
from prefmill.table.context import CARRIED, SYSTEM, context_of
from prefmill.table.fits import fits_schema
from prefmill.table.json_values import holds, without_marks
from prefmill.table.report import PairReport
from prefmill.table.roles import NO_RECORDS, OfRecords, RoleNames, Roles, named
from prefmill.writers.arrow import arrow_schema, arrow_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The column that rows get on their way: their bucket.
BUCKET = f"{OURS}bucket"
_SLICE_BYTES = 256 << 20


class Spread(Asks, Protocol):
    """What is asked of a plan besides, where its rows are in parts."""

    @property
    def wide(self) -> str:
        """The setting that needs more than one prompt's rows, if there is one."""
        ...

    @property
    def quantiles(self) -> Mapping[str, float]:
        """The thresholds that are given as quantiles of the scores."""
        ...

    @property
    def ranks(self) -> bool:
        """Whether the order of equal scores decides what comes out."""
        ...

    @property
    def tie_break(self) -> str:
        """What orders equal scores."""
        ...

    @property
    def aggregate(self) -> str:
        """How judgements of one completion are merged."""
        ...


@dataclass(frozen=True)
class Kernel:
    """A plan with all that is known of its input; every method is pure, and it can be pickled.

    plan      whose thresholds are numbers, once `settled`
    roles     the column of each role in `rows`
    records   the columns that are read, in the types that parts are brought to
    rows      the columns that are brought together: those of the plan, `BUCKET`, and `POSITION`
    out       the columns of output, and those that order it, where they were asked for
    order     the names of these
    """

    plan: Any
    roles: Roles
    records: pa.Schema
    rows: pa.Schema
    out: pa.Schema
    buckets: int
    keep: tuple[str, ...] = ()
    position: str | None = None
    how: Reshaping | None = None
    order: tuple[str, ...] = ()
    large: bool = False

    # Each part of the input

    def rows_of(self, part: pa.Table) -> pa.Table:
        """The rows of a part of the input (columns `records`), with their bucket."""
        if self.how is None:
            return self._numbered(self._read(part))
        with _no_row_named(self.position is None):
            rows = self._reshaped(part).frame.lazy().collect(engine="in-memory")
        if self.position is not None:
            rows = rows.with_columns(in_record(rows, self.position))
        rows = rows.with_columns(bucket_of(rows, self.roles, self.buckets).alias(BUCKET))
        return self._typed(rows.select(self.rows.names), self.rows)

    def account(self, part: pa.Table) -> Account:
        """What became of the records of a part of the input."""
        account: Account = self._reshaped(part).account()
        return account

    # Each bucket, or several

    def selected(self, bucket: pa.Table) -> pa.Table:
        """The rows of output that the prompts of a bucket give, in the order of the plan.

        Without positions that is the order of `bucket`. Raises `BadInput` for positions that are
        there twice, and for equal scores that nothing tells apart.
        """
        frame = self._frame(bucket)
        with self._no_row_named():
            rows = frames.apply(
                self.plan,
                frame.lazy(),  # a look at the scores of one bucket would warn of nothing
                keep=self.keep,
                position=self._position,
                order=self.order,
                of_records=self._of_records,
                **named(self.roles),
            ).collect(engine="in-memory")
        return self._typed(rows, self.out)

    def counted(self, bucket: pa.Table) -> PairReport:
        """What becomes of the rows of a bucket; the reports of all buckets add up."""
        frame = self._frame(bucket)
        with self._no_row_named():
            return frames.report(
                self.plan, frame.lazy(), position=self._position, **named(self.roles)
            )

    # Thresholds

    @property
    def scores_stand(self) -> bool:
        """Whether the scores of any part of the rows are scores of candidates: nothing merges."""
        return bool(self.plan.aggregate == "none")

    def tallied(self, rows: pa.Table, look: Look) -> pl.DataFrame:
        """The tally of the scores in `rows`: whole buckets, or any where `scores_stand`."""
        frame = pl.DataFrame(pl.from_arrow(rows))
        with self._no_row_named():
            scores = frames.scores_of(
                self.plan, frame, position=self._position, **named(self.roles)
            )
        return tally(scores, look)

    def settled(self, count: Callable[[Look], pl.DataFrame]) -> Kernel:
        """This with numbers for thresholds that wait for the scores.

        `count` gives the tally of all rows, for each look. Raises `ThresholdsUnfit`.
        """
        if not self.plan.waits:
            return self
        return replace(self, plan=settled_by(self.plan, count))

    # Inside

    @property
    def _position(self) -> str | None:
        return None if self.position is None else POSITION

    def _no_row_named(self) -> AbstractContextManager[None]:
        return _no_row_named(self.position is None or self.how is not None)

    @property
    def _of_records(self) -> OfRecords:
        return NO_RECORDS if self.how is None else self.how.shape.of_records.for_layout(False)

    def _read(self, part: pa.Table) -> pa.Table:
        table = without_marks(part.select(self.records.names))
        try:
            return conformed(table, self.records)
        except NotHeld as error:
            raise BadInput(
                f"parts: a part of the input does not have the types of the whole; {error}.",
                hint="say what the types are where it is read, or cast the column.",
            ) from None

    def _reshaped(self, part: pa.Table) -> Any:
        assert self.how is not None
        frame = pl.DataFrame(pl.from_arrow(self._read(part)))
        if self.position is not None:
            refuse_twice(frame[self.position], self.position)
        return self.how.rows(frame, number=self.position)

    def _numbered(self, rows: pa.Table) -> pa.Table:
        """The same columns, which are not copied, and ours."""
        names = self.roles.group or (self.roles.prompt,)
        keys = pl.DataFrame(pl.from_arrow(rows.select(list(dict.fromkeys(names)))))
        ours = {BUCKET: bucket_of(keys, self.roles, self.buckets)}
        if self.position is not None:
            number = pl.Series(self.position, pl.from_arrow(rows[self.position]))
            ours[POSITION] = whole(number, self.position)
        columns = {name: rows[name] for name in self.rows.names if name not in ours}
        columns |= {name: series.to_arrow() for name, series in ours.items()}
        return pa.table(columns).select(self.rows.names).cast(self.rows)

    def _frame(self, bucket: pa.Table) -> pl.DataFrame:
        frame = pl.DataFrame(pl.from_arrow(bucket))
        if self.position is not None:
            refuse_twice(frame[POSITION], self.position)
        elif self.plan.ranks:
            self._refuse_equal(frame)
        return frame

    def _refuse_equal(self, frame: pl.DataFrame) -> None:
        """Refuse answers that only their place in the table would order: it has none here."""
        program = self.plan.program(self.roles)
        relations = frames.relations(program, numbered(program.read, frame.lazy()))
        same = standing(relations["candidates"]).group_by("_grp", "_score", "_id").len()
        twice = same.filter(pl.col("len") > 1).head(1).collect(engine="in-memory")
        if twice.height:
            raise BadInput(
                f"parts: answers of one prompt have one score and one id; got id"
                f" {twice['_id'].item()!r}, and nothing else orders them.",
                hint="position='COLUMN' names a column of row numbers, which orders them.",
            )

    def _typed(self, rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
        if not rows.height:
            return pa.Table.from_batches([], schema=schema)
        if self.large:
            return rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
        return pa.concat_tables(arrow_tables(rows, schema, _SLICE_BYTES))


def kernel_of(
    plan: Spread,
    schema: pa.Schema,
    names: RoleNames,
    *,
    where: str,
    buckets: int,
    keep: Sequence[str] = (),
    position: str | None = None,
    ordered: bool = False,
    large: bool = False,
) -> Kernel:
    """The kernel of `plan` over a table of these columns.

    Args:
        where: who asks, for messages.
        position: a column of whole numbers, all different: the order of rows.
        ordered: what orders the rows of output comes along, as further columns.
        large: texts and lists have 64-bit offsets, as Polars has them.

    Raises what a plan raises over a frame, and `BadArgument` for one that has to see all rows at
    once, or needs an order of rows where there is none.
    """
    _check(schema, buckets, position, ordered, where)
    given, schema = schema, _plain(schema, large)
    columns = _dtypes(schema)
    plan, how, roles, read = _reading(plan, columns, names, keep, position, where)
    _refuse_wide(plan, how, where)
    rows = columns if how is None else how.rows(pl.DataFrame(schema=columns)).frame.lazy()
    there = rows if isinstance(rows, pl.Schema) else rows.collect_schema()
    keep = kept_names(keep, there.names(), where=where)
    output = plan.program(roles).output
    context = context_of(there, roles, keep).values() if output.for_trainer else ()
    if position is None:
        _refuse_unordered(plan, how, [*keep, *context], where)
    used = [*plan.program(roles).read.columns().values(), *keep, *context]
    _refuse_maps(pa.schema([given.field(name) for name in read]), where)
    wanted: dict[str, pl.DataType] = {name: there[name] for name in dict.fromkeys(used)}
    ours: dict[str, pl.DataType] = {BUCKET: pl.Int64()}
    if position is not None:
        ours[POSITION] = pl.Int64()
    order = tuple(f"{OURS}{name.removeprefix('-')}" for name in output.order) if ordered else ()
    kernel = Kernel(
        plan,
        roles,
        pa.schema([schema.field(name) for name in read]),
        _arrow(pl.Schema(wanted | ours), large),
        pa.schema([]),
        buckets,
        tuple(keep),
        position,
        how,
        order,
        large,
    )
    out = frames.apply(
        plan,
        pl.LazyFrame(schema=wanted | ours),
        keep=keep,
        position=kernel._position,
        order=order,
        of_records=kernel._of_records,
        **named(roles),
    )
    return replace(kernel, out=_arrow(out.collect_schema(), large))


def descending(kernel: Kernel) -> list[bool]:
    """Of the columns that order the rows of output: whether each one descends."""
    output = kernel.plan.program(kernel.roles).output
    return [name[0] == "-" for name in output.order]


def report_of(
    kernel: Kernel, reports: Iterable[PairReport], accounts: Iterable[Account]
) -> PairReport:
    """The report of the whole: those of buckets, and of parts of the records, add up."""
    # An empty bucket has the form of every report: labels, say, of a plan that makes them.
    empty = kernel.counted(pa.Table.from_batches([], schema=kernel.rows))
    total = PairReport.total([empty, *reports])
    if kernel.how is None:
        return total
    records = Account(0, 0)
    for account in accounts:
        records = records.and_more(account)
    return replace(total, records=reported(kernel.how.shape, records))


def _reading(
    plan: Any,
    columns: pl.Schema,
    names: RoleNames,
    keep: Sequence[str],
    position: str | None,
    where: str,
) -> tuple[Any, Reshaping | None, Roles, list[str]]:
    """The plan over rows, how records become these, the roles, and the columns that are read."""
    frame = pl.LazyFrame(schema=columns)
    own = [] if position is None else [position]
    extra = [*plan.wide_scores(names), *keep, *own]
    plan, rowed = frames.in_rows(plan, frame, names, where=where, extra=extra)
    plan = replace(plan, rows=None)
    how = rowed.how
    there = columns
    if how is not None:
        context = [name for name in (*SYSTEM, *CARRIED) if name in columns]
        wanted = [*extra, *context]
        read = how.columns(columns, wanted)
        how = how.keeping([*wanted, *how.shape.roles.get("group", ())])
        there = how.rows(pl.DataFrame(schema=columns)).frame.lazy().collect_schema()
        roles = plan.roles(how.names, there.names(), where=where)
        return plan, how, roles, read
    roles = plan.roles(rowed.names, there.names(), where=where, fits=fits_schema(there))
    output = plan.program(roles).output
    more = context_of(there, roles, keep).values() if output.for_trainer else ()
    used = [*plan.program(roles).read.columns().values(), *keep, *more, *own]
    missing = [name for name in used if name not in there]
    if missing:  # `apply` says it better
        used = [name for name in used if name in there]
    return plan, None, roles, list(dict.fromkeys(used))


def _check(
    schema: pa.Schema, buckets: int, position: str | None, ordered: bool, where: str
) -> None:
    if type(buckets) is not int or buckets < 1:
        raise BadArgument(f"{where}: buckets must be a whole number >= 1; got {buckets!r}.")
    if taken := [name for name in schema.names if name.startswith(OURS)]:
        raise BadArgument(
            f"{where}: the column name {taken[0]!r} begins as ours do.", hint="rename that column."
        )
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise BadArgument(
            f"{where}: duplicate column names {twice}; got {schema.names}.",
            hint="rename one of them.",
        )
    if position is None:
        if ordered:
            raise BadArgument(
                f"{where}: ordered needs an order of rows; got no position.",
                hint="position='COLUMN' names a column of row numbers.",
            )
        return
    if position not in schema.names:
        raise BadArgument(
            f"{where}: position is no column of the input; got {position!r}, expected one of"
            f" {schema.names}."
        )
    kind = schema.field(position).type
    if not pa.types.is_integer(kind):
        raise BadArgument(
            f"{where}: position {position!r} must be whole numbers; got {kind}.",
            hint="name a column that numbers the rows.",
        )


def _refuse_maps(schema: pa.Schema, where: str) -> None:
    """Refuse columns of maps: Polars has lists of their entries, which go back to no map."""
    for field in schema:
        if holds(field.type, pa.types.is_map):
            raise BadArgument(
                f"{where}: the column {field.name!r} holds maps; got {field.type}.",
                hint="leave it out, or make columns, or JSON text, of what it holds.",
            )


def _refuse_wide(plan: Any, how: Reshaping | None, where: str) -> None:
    """Refuse what has to see the rows of several prompts at once, but for quantiles."""
    if plan.quantiles:
        plan = replace(plan, **dict.fromkeys(plan.quantiles))
    setting = plan.wide
    if how is not None and how.shape.words.repeats == "drop":
        setting = "repeats 'drop'"
    if setting:
        raise BadArgument(
            f"{where}: {setting} looks at the rows of all prompts at once; here each bucket of"
            " prompts is by itself.",
            hint="write the rows to files: prefmill.run(plan, FILES, OUTPUT) looks at all of them.",
        )


def _refuse_unordered(plan: Any, how: Reshaping | None, carried: Sequence[str], where: str) -> None:
    """Refuse a plan whose rows depend on the order of the input, which has none here."""
    why = ""
    if how is not None and how.shape.own_group:
        why = "only answers of one record compare, and records have no number"
    elif plan.ranks and plan.tie_break == "position":
        why = "the later one of equal scores wins (tie_break 'position')"
    elif plan.aggregate != "none" and carried:
        why = f"the first judgement of an answer gives {carried[0]!r}"
    if not why:
        return
    hint = "position='COLUMN' names a column of whole numbers that orders the rows"
    if "tie_break" in why:
        hint += "; or tie_break='id' orders equal scores by the role id (id='COLUMN')"
    raise BadArgument(f"{where}: {why}, and rows have no order here.", hint=f"{hint}.")


@contextmanager
def _no_row_named(unknown: bool) -> Iterator[None]:
    """With `unknown` errors name no row: its place in a bucket is not its place in the table."""
    try:
        yield
    except BadInput as error:
        told = re.sub(r"\brow \d+\b", "a row", error.message)
        if not unknown or told == error.message:
            raise
        kind = BadScore if isinstance(error, BadScore) else BadInput
        raise kind(told, hint=error.hint) from None


def _plain(schema: pa.Schema, large: bool) -> pa.Schema:
    """The columns in plain types; one of nothing but nulls is text."""
    empty = without_marks(pa.Table.from_batches([], schema=schema.remove_metadata()))
    plain = plain_schema(empty.schema)
    for place, field in enumerate(plain):
        if pa.types.is_null(field.type):
            plain = plain.set(place, pa.field(field.name, pa.string()))
    return _arrow(_dtypes(plain), large) if large else plain


def _dtypes(schema: pa.Schema) -> pl.Schema:
    return pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema


def _arrow(schema: pl.Schema, large: bool) -> pa.Schema:
    if not large:
        return arrow_schema(schema)
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
