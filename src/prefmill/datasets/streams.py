"""A plan over an `IterableDataset`: a stream of whole prompts, or a file ranked out of core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.datasets.elsewhere import keyed_tables
from prefmill.datasets.records import Reading, Records, RowStream, other_types, reading_of
from prefmill.datasets.tables import (
    Layout,
    dtypes_of,
    info_of,
    package,
    plain_types,
    tables_of,
)
from prefmill.disk.hidden import temporary
from prefmill.engines.frames import scores_of
from prefmill.engines.steps import kept_names
from prefmill.errors import BadArgument, BadInput, ThresholdsUnfit
from prefmill.plans.feedback import FeedbackPlan
from prefmill.pools.stream import reader_of, starts_of_groups, whole_groups
from prefmill.pools.stream import tables_of as tables_of_source
from prefmill.rules.limits import scale_of, scores_in
from prefmill.shapes.tables import reported
from prefmill.table.conform import NotHeld, conformed
from prefmill.table.json_values import without_marks
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames, Roles, named
from prefmill.table.thresholds import unfit

CHUNK_ROWS = 4096
_READ_ROWS, _PEEK_ROWS = 8192, 1000
# Where its thresholds wait for the scores, a clustered stream shows so many rows first.
_HELD_ROWS = 10_000


def streamed(ds: Any, layout: Layout, names: RoleNames, clustered: bool, chunk_rows: int) -> Any:
    """What `layout`'s plan makes of the `IterableDataset` `ds`, as another one.

    Nothing is read, but the first rows where types are unknown.
    """
    from datasets.iterable_dataset import ArrowExamplesIterable

    stream = Stream.over(ds, layout, names, clustered, chunk_rows)
    info = info_of(stream.features, ds.info)
    examples = ArrowExamplesIterable(stream.tables, {})
    return package().IterableDataset(examples, info=info, split=ds.split)


@dataclass(frozen=True)
class Stream:
    """What an `IterableDataset` of ours reads from.

    It can be pickled, and read any number of times.
    """

    ds: Any
    layout: Layout
    roles: Roles
    schema: pa.Schema
    features: Any
    clustered: bool
    chunk_rows: int
    read_rows: int  # at a time
    records: RowStream | None = None  # where `ds` are rows that were made of records

    @classmethod
    def over(
        cls, ds: Any, layout: Layout, names: RoleNames, clustered: bool, chunk_rows: int
    ) -> Stream:
        plan = layout.plan
        if clustered and (wide := plan.wide):
            raise BadArgument(
                f"datasets: {wide} looks at all rows; got clustered, "
                "which sees one prompt at a time.",
                hint="leave clustered out.",
            )
        if type(chunk_rows) is not int or chunk_rows < 1:
            raise BadArgument(
                f"datasets: chunk_rows must be a whole number >= 1; got {chunk_rows!r}."
            )
        # Without features the first rows say what the types are, here and whenever it is read.
        read_rows = read_rows_of(ds)
        reading, records = reading_of_stream(ds, layout, names)
        roles, columns = reading.roles, records.columns
        layout = reading.of(layout)
        made = None
        if reading.how is not None:
            made = records.stream(reading.how, reading.columns)
            ds = made.dataset()
            columns = ds.column_names
        plan = layout.plan
        kept_names(layout.keep, columns, where="datasets")
        used = layout.columns(roles, columns)
        narrow = ds.select_columns(used)
        if ds.features:
            schema = ds.features.arrow_schema
        else:
            schema = reader_of(narrow, rows=read_rows).schema
        schema = plain_types(pa.schema([schema.field(name) for name in used]))
        if not ds.features:  # whole numbers at first, and fractions later
            for name in _numbers(plan, roles):
                if pa.types.is_primitive(schema.field(name).type):
                    place = schema.get_field_index(name)
                    schema = schema.set(place, pa.field(name, pa.float64()))
        features = layout.features(dtypes_of(schema), roles)
        return cls(narrow, layout, roles, schema, features, clustered, chunk_rows, read_rows, made)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Keys and tables, as `ArrowExamplesIterable` wants them."""
        return keyed_tables(self)

    def made(self) -> Iterator[pa.Table]:
        """Tables of the features, anew."""
        frames = self._clustered() if self.clustered else self._clustering()
        for rows in frames:
            yield from tables_of(self.layout(rows), self.features.arrow_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in tables_of_source(self.ds, rows=self.read_rows):
                numbered = self._with_float_scores(without_marks(table))
                yield from conformed(numbered, self.schema).to_batches()
        except NotHeld as error:
            raise other_types(error, self.schema) from None

    def _with_float_scores(self, table: pa.Table) -> pa.Table:
        """Scores as the float64 that they are to every plan, also beyond its 53 bits."""
        for name in _numbers(self.layout.plan, self.roles):
            wanted = pa.types.is_float64(self.schema.field(name).type)
            if not wanted or name not in table.column_names:
                continue
            column = table[name]
            if pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
                place = table.column_names.index(name)
                floats = column.cast(pa.float64(), safe=False)
                table = table.set_column(place, name, floats)
        return table

    def _clustered(self) -> Iterator[pl.DataFrame]:
        key = list(self.roles.group) or [self.roles.prompt]
        seen, first = _Seen(key), 0
        groups = whole_groups(self._batches(), prompt=key, rows=self.chunk_rows, largest=None)
        for plan, chunk in self._decided(groups):
            seen.refuse_return(chunk, first)
            frame = pl.DataFrame(pl.from_arrow(chunk))
            rows = self.layout.lazily(plan, frame, self.roles, first)
            yield rows.collect(engine="in-memory")
            first += chunk.num_rows

    def _decided(self, chunks: Iterator[pa.Table]) -> Iterator[tuple[FeedbackPlan, pa.Table]]:
        """Chunks, each with its plan: the first rows decide thresholds that wait for the scores."""
        plan = self.layout.plan
        if not plan.waits:
            yield from ((plan, chunk) for chunk in chunks)
            return
        held: list[pa.Table] = []
        scores = pl.Series("score", dtype=pl.Float64)
        for chunk in chunks:
            held.append(chunk)
            scores = self._few(scores, chunk)
            full = sum(table.num_rows for table in held) >= _HELD_ROWS
            decided = self._decide(scores, strict=full)
            if decided is None:
                continue
            yield from ((decided, table) for table in held)
            yield from ((decided, self._still(scores, table)) for table in chunks)
            return
        if held:
            decided = plan.settled(scores_in(scores))
            yield from ((decided, table) for table in held)

    def _few(self, scores: pl.Series, chunk: pa.Table) -> pl.Series:
        """The extremes of `scores` and those of `chunk`, and some between: more decide nothing."""
        new = scores_of(self.layout.plan, pl.DataFrame(pl.from_arrow(chunk)), **named(self.roles))
        distinct = pl.concat([scores, new]).unique().sort()
        # Four scores are neither labels nor verdicts, however many more there are.
        if distinct.len() > 4:
            distinct = pl.concat([distinct.head(3), distinct.tail(1)])
        return distinct

    def _decide(self, scores: pl.Series, *, strict: bool) -> FeedbackPlan | None:
        """The plan that the first rows' `scores` decide.

        Where they do not it is None, or with `strict` an error.
        """
        plan, scale = self.layout.plan, scale_of(scores)
        if not strict and not scale.around_usual:
            return None
        if strict and scale.low == scale.high:
            limits = plan.thresholds
            raise unfit(plan.kind, limits["chosen_min"], limits["rejected_below"], scale)
        try:
            return plan.settled(scores_in(scores))
        except ThresholdsUnfit:
            if strict:
                raise
            return None

    def _still(self, scores: pl.Series, chunk: pa.Table) -> pa.Table:
        """`chunk`, unless the first rows were taken for labels and it has another score."""
        if scale_of(scores).around_usual:
            return chunk
        now = self._few(scores, chunk)
        if now.len() > scores.len():
            seen = " and ".join(f"{score:g}" for score in scores)
            raise BadInput(
                f"datasets: the first rows have the scores {seen} only, taken for labels;"
                f" got scores from {now[0]:g} to {now[-1]:g}, with another one.",
                hint="name chosen_min and rejected_below, or leave clustered out.",
            )
        return chunk

    def _clustering(self) -> Iterator[pl.DataFrame]:
        with temporary() as home, self.job(home) as job:
            names = {column.ours: column.name for column in job.output.columns}
            names |= self._of_row()
            for frame in job.frames():
                yield frame.rename(names, strict=False)

    def report(self) -> PairReport:
        """What the plan uses and why it drops the rest; reads all rows."""
        # A stream gives its rows once, so a report needs them in a file as well.
        with temporary() as home, self.job(home) as job:
            done: PairReport = job.report()
        if self.records is None or self.records.account is None:
            return done
        return replace(done, records=reported(self.records.how.shape, self.records.account))

    def _of_row(self) -> dict[str, str]:
        """Columns of the input that are columns of the output, with their names there."""
        program = self.layout.plan.program(self.roles)
        read = program.read.columns()
        return {read[c.ours]: c.name for c in program.output.columns if c.of_row}

    def job(self, home: Path) -> Any:
        """The run over a file of all rows that are read."""
        import pyarrow.parquet as pq

        from prefmill.runs.job.opening import opened

        path = home / "rows.parquet"
        with pq.ParquetWriter(path, self.schema, compression="zstd") as file:
            for batch in self._batches():
                file.write_batch(batch)
        keep = [*self._of_row(), *self.layout.keep]
        return opened(
            self.layout.plan,
            path,
            roles=named(self.roles),
            engine="duckdb",
            keep=keep,
            trainer=self.layout.trainer,
            of_records=self.layout.of_records,
            parts=self.layout.parts,
            temp_dir=home,
        )


def reading_of_stream(ds: Any, layout: Layout, names: RoleNames) -> tuple[Reading, Records]:
    """How the plan of `layout` reads the `IterableDataset` `ds`, and its records."""
    records = Records.of(ds, read_rows_of(ds))
    reading = reading_of(layout, names, records.columns, records.fits, records.head)
    if reading.how is None or ds.features:
        return reading, records
    # The rows are made once more of what was found, now that types are known.
    words = reading.how.shape.words
    records = records.with_known_types(words)
    plan = replace(layout.plan, rows=words)
    return reading_of(replace(layout, plan=plan), {}, records.columns, None, records.head), records


def read_rows_of(ds: Any) -> int:
    """How many rows of `ds` are read at a time; the first ones say what types are not known."""
    return _READ_ROWS if ds.features else _PEEK_ROWS


def _numbers(plan: FeedbackPlan, roles: Roles) -> list[str]:
    """The columns of numbers that a plan reads as float64."""
    rows = plan.program(roles).read
    return [*rows.scores, *([rows.policy] if rows.policy else [])]


class _Seen:
    """Which prompts went by, as 64-bit hashes (8 bytes each).

    They decide nothing but an error, which names what to do.
    """

    def __init__(self, key: list[str]) -> None:
        self.key = key
        self.old: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.new: list[npt.NDArray[np.uint64]] = []

    def refuse_return(self, chunk: pa.Table, first: int) -> None:
        """Raise for a prompt of `chunk`, at the position `first`, that had its rows before."""
        starts = [starts_of_groups(chunk[name].combine_chunks()) for name in self.key]
        heads = np.logical_or.reduce(starts)
        keys = (
            pl.DataFrame(pl.from_arrow(chunk.select(self.key)))
            .with_row_index("_row")
            .filter(pl.Series(heads))
            .drop_nulls(self.key)
        )
        hashes = keys.select(self.key).hash_rows().to_numpy()
        again = np.ones(len(hashes), bool)
        again[np.unique(hashes, return_index=True)[1]] = False  # the first of each in this chunk
        for known in [self.old, *self.new]:
            if len(known):
                at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                again |= known[at] == hashes
        if again.any():
            row = first + int(keys["_row"][int(np.flatnonzero(again)[0])])
            raise BadInput(
                f"datasets: the prompt of row {row} comes back after other prompts; "
                "got clustered, expected its rows side by side.",
                hint="leave clustered out: the rows are then put together first.",
            )
        self.new.append(np.sort(hashes))
        if sum(map(len, self.new)) > len(self.old) // 8 + 65_536:
            self.old, self.new = np.sort(np.concatenate([self.old, *self.new])), []
