"""Excel workbooks: one sheet as Parquet, through the engine `calamine` of Polars' reader.

A sheet has at most a million rows, and is held in memory while it is staged.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from prefmill.errors import BadInput, MissingPackage, PrefmillError, nearest
from prefmill.readers.columnar import stage_tables
from prefmill.readers.find import Input
from prefmill.readers.json_lines import JsonFile
from prefmill.readers.staging import Context, Part, first_line

if TYPE_CHECKING:
    import fastexcel

#: Whole numbers up to here have no neighbour that a cell cannot tell from them.
_MOST_WHOLE = 1 << 53
#: The day of a time of day: Excel counts days from the last one of 1899.
_DAYS_OF_TIMES = (dt.date(1899, 12, 30), dt.date(1899, 12, 31))


def stage_excel(item: Input, context: Context) -> Part | JsonFile:
    """One sheet of a workbook as Parquet; its first row that is not empty names the columns.

    Numbers are whole (int64) where all of a column are, dates where none has a time. A column of
    several kinds is text. An empty cell is null, and so is one whose formula failed, which a note
    counts. Rows without a value are skipped.

    Raises `MissingPackage` without the extra `excel`, and `BadInput` for a workbook that cannot be
    read, for several sheets with data of which none is chosen, and for a sheet without data.
    """
    try:
        import fastexcel
    except ImportError:
        raise MissingPackage.for_extra(item.label, "fastexcel", "excel") from None
    if os.path.getsize(item.path) == 0:
        raise BadInput(f"{item.label}: the file is empty.")
    with _as_bad_input(item.label), _without_warnings():
        book = fastexcel.read_excel(item.path)
        name = _sheet_of(book, item)
        names = _header(book, name)
        frame = _values(book, name, item, context)
    labels = []
    for number, (column, title) in enumerate(zip(frame.columns, names, strict=True), start=1):
        if not title and frame[column].null_count() == frame.height:
            frame = frame.drop(column)
        else:
            labels.append(title or f"column_{number}")
    columns = frame.to_arrow().columns
    # Polars' text is large text, which a schema of other files need not have.
    columns = [
        column.cast(pa.string()) if pa.types.is_large_string(column.type) else column
        for column in columns
    ]
    table = pa.table(columns, names=labels)
    return stage_tables(item, context, table.schema, lambda: iter([table]))


def _sheet_of(book: fastexcel.ExcelReader, item: Input) -> str:
    """The sheet that was chosen, or the only one with data."""
    if item.select is not None:
        if item.select not in book.sheet_names:
            near = nearest(item.select, book.sheet_names)
            raise BadInput(
                f"{item.label}: no sheet {item.select!r}; got {book.sheet_names}.",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
        return item.select
    sheets = [
        book.load_sheet(name, header_row=None, n_rows=2, dtypes="string")
        for name in book.sheet_names
    ]
    filled = [sheet for sheet in sheets if sheet.height > 1]
    # What a workbook hides are lists of choices and the like.
    shown = [sheet.name for sheet in filled if sheet.visible == "visible"]
    names = shown or [sheet.name for sheet in filled or sheets if sheet.height]
    if not names:
        raise BadInput(f"{item.label}: the file is empty; got no sheet with a header.")
    if len(names) > 1:
        raise BadInput(
            f"{item.label}: several sheets have data, and which one is meant cannot be told; got"
            f" {names}, expected one.",
            hint=f"name it: '{item.label}#{names[0]}'.",
        )
    return names[0]


def _header(book: fastexcel.ExcelReader, name: str) -> list[str | None]:
    rows = book.load_sheet(name, header_row=None, n_rows=1, dtypes="string").to_arrow()
    return [column[0].as_py() if len(column) else None for column in rows.columns]


def _values(book: fastexcel.ExcelReader, name: str, item: Input, context: Context) -> pl.DataFrame:
    """The rows below the header, in types that hold them."""
    batch, errors = book.load_sheet(
        name, header_row=0, schema_sample_rows=None
    ).to_arrow_with_errors()
    if errors is not None and errors.errors:
        row, column = errors.errors[0].position
        context.notes.append(
            f"{item.label}: {len(errors.errors):,} cells hold no value of their column (the first"
            f" is row {row + 1}, column {column + 1}: {errors.errors[0].detail}); they are null."
        )
    frame = pl.DataFrame(batch)
    frame = frame.filter(pl.any_horizontal(pl.all().is_not_null())) if frame.width else frame
    return frame.with_columns(_narrowed(frame[column]) for column in frame.columns)


def _narrowed(column: pl.Series) -> pl.Series:
    """Whole numbers as such, dates without a time, and times of day without a date."""
    values = column.drop_nulls()
    if not len(values):
        return column
    if column.dtype.is_float():
        whole = (values == values.floor()) & (values.abs() <= _MOST_WHOLE)
        return column.cast(pl.Int64) if whole.all() else column
    if isinstance(column.dtype, pl.Datetime):
        if values.dt.date().is_in(_DAYS_OF_TIMES).all():
            return column.dt.time()
        if (values.dt.time() == dt.time()).all():
            return column.dt.date()
    return column


@contextlib.contextmanager
def _as_bad_input(label: str) -> Iterator[None]:
    import fastexcel

    try:
        yield
    except PrefmillError:
        raise
    except (fastexcel.FastExcelError, pa.ArrowException, OSError, ValueError) as error:
        # Which column it is about stands in a further line.
        message = " ".join(str(error).split())
        raise BadInput(f"{label}: not a readable Excel file; {message}.") from error
    except BaseException as error:
        # A damaged file may end the reader in a panic of its own, which is no `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise BadInput(f"{label}: not a readable Excel file; {first_line(error)}.") from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """No line on stderr for each column without values."""
    logger = logging.getLogger("fastexcel")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
