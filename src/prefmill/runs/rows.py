"""Records become rows in a file: what `prefmill rows` runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Unpack

import polars as pl
import pyarrow as pa

from prefmill.connection import connect, literal, quote, share_of
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.progress import Progress, peak_rss_mb
from prefmill.readers import Source
from prefmill.runs.job.opening import Reading, opened_source
from prefmill.runs.records.commands import recorded
from prefmill.shapes import sql
from prefmill.shapes.cells import RECORD
from prefmill.shapes.shape import NUMBER
from prefmill.shapes.source import Rowed, columns_of, record_told, reshaped, spelled, stem, words_in
from prefmill.shapes.words import Rows
from prefmill.table.fits import fits_files
from prefmill.table.roles import REQUIRED, Inputs, RoleNames, Roles
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

_FRAME_ROWS = 20_000


@dataclass(frozen=True)
class RowsReport(Showing):
    """How records were read (`read_as`), and what became of them.

    `records_in` is `rows_out` for a table in long form. `dropped` are records that gave no row, by
    reason; `group` is the column to group by where only rows of one record compare.
    """

    records_in: int
    rows_out: int
    dropped: Mapping[str, int]
    read_as: str
    columns: tuple[str, ...]
    group: str | None
    rows_rejected: int
    seconds: float
    peak_rss_mb: float
    output: str | None
    notes: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return {**asdict(self), "columns": list(self.columns), "notes": list(self.notes)}


@watched("rows")
def rows(
    inputs: Inputs,
    output: str | Path | None,
    *,
    rows: Rows | None = None,
    keep: Sequence[str] | None = None,
    overwrite: bool = False,
    allow_empty: bool = False,
    spreadsheet_safe: bool = False,
    progress: Progress | None = None,
    words: RoleNames | None = None,
    **reading: Unpack[Reading],
) -> RowsReport:
    """Write the rows that records become: prompt, completion, score, and what else has a role.

    Args:
        inputs, output, overwrite, allow_empty, spreadsheet_safe, progress: as `prefmill.run` takes
            them; `output` None only reports.
        rows, words: how records become rows (`prefmill.Rows`), and further words on top.
        keep: further columns; None: all that are not in the rows anyway.

    Where only rows of one record compare (verdicts, answers side by side, ranks) the column
    `record` has its number: `--group record` keeps them apart later. A score that no column holds
    is left out. Cost: one pass. Raises what `prefmill.run` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asked = pl.DataFrame({"prompt": ["p"], "answers": [["a", "b"]], "scores": [[5, 1]]})
    ...     done = rows(asked, f"{folder}/rows.jsonl", rows=Rows(each="answers,scores"))
    ...     Path(f"{folder}/rows.jsonl").read_text().splitlines()
    ['{"prompt":"p","completion":"a","score":5}', '{"prompt":"p","completion":"b","score":1}']
    """
    started = time.perf_counter()
    named = words_in(rows, words or {})
    kept = None if keep is None else list(keep)
    recording = recorded(
        "rows",
        inputs,
        output,
        reading,
        overwrite=overwrite,
        spreadsheet_safe=spreadsheet_safe,
        words=named.named(),
        keep=kept,
    )
    with recording as record:
        if record.done:
            return record.restored(RowsReport)
        with opened_rows(inputs, named, keep, progress, reading) as (rowed, home):
            names = columns_out(rowed, keep)

            def report(written: writers.Written | None) -> RowsReport:
                source, account = rowed.source, rowed.account
                return RowsReport(
                    records_in=account.records if account else source.rows,
                    rows_out=source.rows,
                    dropped=dict(account.dropped) if account else {},
                    read_as=rowed.shape.words.options() if rowed.shape else "",
                    columns=tuple(names.values()),
                    group=NUMBER if rowed.inside_records else None,
                    rows_rejected=source.rejected,
                    seconds=round(time.perf_counter() - started, 3),
                    peak_rss_mb=peak_rss_mb(),
                    output=written.paths.get("") if written else None,
                    notes=[*source.notes, *(written.notes if written else ())],
                )

            if output is None:
                return report(None)
            records = rowed.records or rowed.source
            record.read(records.inputs)
            writers.write(
                _frames(rowed, names, home, reading),
                _schema(rowed, names),
                output,
                format="pool",
                overwrite=record.overwrites,
                publish_empty=allow_empty,
                memory_bytes=reading.get("memory_bytes"),
                spreadsheet_safe=spreadsheet_safe,
                publish=record.publisher(report),
            )
            return record.made or report(None)


@contextmanager
def opened_rows(
    inputs: Inputs,
    words: Rows,
    keep: Sequence[str] | None,
    progress: Progress | None,
    reading: Reading,
) -> Iterator[tuple[Rowed, Path]]:
    """The rows of `inputs`, and a temporary folder that goes when the context ends."""

    def needs(columns: Sequence[str]) -> Sequence[str]:
        return columns_of(words, columns)

    opening = opened_source(
        "rows",
        inputs,
        needs=needs,
        named=spelled(words),
        apart=bool(words.file_as),
        progress=progress,
        **reading,
    )
    with opening as (source, home):
        rowed = _rowed_somehow(source, words, keep, home, reading)
        with record_told(rowed.source, rowed.shape, home, "rows"):
            yield rowed, home


def _rowed_somehow(
    source: Source, words: Rows, keep: Sequence[str] | None, home: Path, reading: Reading
) -> Rowed:
    """The rows with a score, or without one where no column holds it."""
    try:
        return _rowed(source, words, keep, home, reading, score=True)
    except ColumnMissing as problem:
        if words.score is not None or "'score'" not in problem.message:
            raise
    return _rowed(source, words, keep, home, reading, score=False)


def _rowed(
    source: Source,
    words: Rows,
    keep: Sequence[str] | None,
    home: Path,
    reading: Reading,
    *,
    score: bool,
) -> Rowed:
    required = REQUIRED if score else REQUIRED[:2]
    fits = fits_files(source.files)
    columns = source.columns.names

    def attempt(names: RoleNames) -> Roles:
        return Roles.resolve(columns, names, required=required, where="rows", fits=fits)

    return reshaped(
        source,
        words,
        home=home,
        where="rows",
        attempt=attempt,
        score=score,
        extra=keep or (),
        renamed=True,
        memory_bytes=reading.get("memory_bytes"),
        threads=reading.get("threads"),
    )


def columns_out(rowed: Rowed, keep: Sequence[str] | None) -> dict[str, str]:
    """The columns that are written, and what they are called: roles first, then the others."""
    there = rowed.source.columns.names
    shape = rowed.shape
    if shape is None:
        return {name: name for name in there if keep is None or name in keep or name in REQUIRED}
    own = [name for name in shape.variants[0].cells if name not in (keep or ())]
    more = [name for name in shape.carried if name not in shape.consumed]
    names = dict.fromkeys([*own, *(more if keep is None else keep)])
    columns = {name: name for name in names}
    if rowed.inside_records:
        columns[RECORD] = NUMBER
    return columns


def _schema(rowed: Rowed, names: Mapping[str, str]) -> pl.Schema:
    types = rowed.source.columns
    empty = pa.schema([(names[name], types.field(name).type) for name in names])
    return pl.DataFrame(pa.Table.from_batches([], schema=empty)).schema


def _frames(
    rowed: Rowed, names: Mapping[str, str], home: Path, reading: Reading
) -> Iterator[pl.DataFrame]:
    """The rows in order, some at a time."""
    memory = reading.get("memory_bytes")
    share = share_of(memory) if memory else None
    columns = ", ".join(f"{quote(name)} AS {quote(new)}" for name, new in names.items())
    order = f" ORDER BY {sql.POSITION}" if rowed.shape and rowed.shape.joins else ""
    query = f"SELECT {columns} FROM {rowed.source.relation}{order}"
    options = {"memory_bytes": share, "threads": reading.get("threads")}
    source = rowed.source
    with connect(
        temp_dir=home, reads=source.reads, remote=source.remote, ordered=True, **options
    ) as con:
        for batch in con.sql(query).to_arrow_reader(_FRAME_ROWS):
            yield pl.DataFrame(pa.Table.from_batches([batch]))


def select(inputs: Sequence[str], words: Rows, **reading: Unpack[Reading]) -> str:
    """The SELECT that makes the rows of one file, or of the view `feedback`, for any DuckDB."""
    with opened_rows(list(inputs), words, (), None, reading) as (rowed, _):
        if rowed.shape is None:
            raise BadArgument(
                "rows: the file's records are rows as they are; there is nothing to select.",
                hint="leave --sql out.",
            )
        table = literal(inputs[0]) if len(inputs) == 1 else "feedback"
        shape = replace(rowed.shape, carried=())
        joined = [literal(join.file) for join in shape.joins]
        names = [stem(each) for each in inputs]
        records = sql.records(shape, table, joined=joined, file_names=names)
        return f"{sql.rows(shape, records)};"
