"""When an engine fails over files that looked good: which file it is, and where in it.

Nothing is read twice while all goes well. After an error each file is read once more in a process
of its own, since what an engine trips over may end the process that reads it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.ending import is_full
from prefmill.errors import BadInput, PrefmillError
from prefmill.readers.source import Source
from prefmill.readers.staging import first_line

_POLARS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
#: Of room and of Ctrl-C: no file has to be read again for these, which may take minutes.
_NOT_THEIRS = (duckdb.OutOfMemoryException, duckdb.InterruptException)
#: Of a query of ours: it names the file, and no copy of it would help.
_OF_QUERIES = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.ParserException,
)
_ENGINES = (duckdb.Error, *_POLARS, pa.ArrowException, OSError, UnicodeDecodeError)


@contextmanager
def blamed_on(source: Source) -> Iterator[None]:
    """The one place where an engine's error over the files of `source` becomes a `BadInput`.

    An error that is not the files' fault goes on as it is, but for those that have no type of their
    own.
    """
    try:
        yield
    except (PrefmillError, *_NOT_THEIRS):
        raise
    except _ENGINES as error:
        if is_full(error):
            raise
        fault = fault_of(source)
        if fault is None and _unread(error, source):
            engine = "Polars" if isinstance(error, _POLARS) else "DuckDB"
            fault = f"{_blamed(error, source)}: {engine} cannot read it; {first_line(error)}."
        if fault is not None:
            raise BadInput(
                fault, hint="copy the file again from where it came, or leave it out."
            ) from error
        raise


def _unread(error: Exception, source: Source) -> bool:
    """Whether the error is of a reader of Parquet; what those raise has no type of its own."""
    if isinstance(error, _OF_QUERIES):
        return False
    if isinstance(error, duckdb.Error):
        untyped = type(error) is duckdb.Error or isinstance(error, duckdb.SerializationException)
        # A query that is told is cut, so the name of a file may not be there.
        named = any(path in str(error) for path in source.files)
        return untyped or named or "parquet" in str(error).lower()
    if isinstance(error, pl.exceptions.PanicException):
        return True
    return isinstance(error, pl.exceptions.ComputeError) and "parquet" in str(error)


def _blamed(error: Exception, source: Source) -> str:
    """The files that the error names, or all: labels, with commas between."""
    pairs = list(zip(source.files, source.labels, strict=True))
    named = [label for path, label in pairs if path in str(error)]
    return ", ".join(dict.fromkeys(named or source.labels))


def fault_of(source: Source) -> str | None:
    """The first file of `source` that cannot be read, and where; None where all can."""
    if source.remote:
        return None
    for path, label in zip(source.files, source.labels, strict=True):
        code = "import sys; from prefmill.readers.blame import look; look(sys.argv[1])"
        paths = os.pathsep.join(path for path in sys.path if path)
        # What an engine trips over may end the process that reads it.
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": paths},
        )
        if done.returncode < 0:
            fault = f"reading it ends the process with signal {-done.returncode}"
        elif done.returncode:
            fault = done.stdout.strip() or "it cannot be opened"
        else:
            continue
        return f"{label}: not a readable Parquet file; {fault}."
    return None


def look(path: str) -> None:
    """Read a Parquet file as a whole; exits with 1, and says where, if that fails."""
    where = "its footer"
    try:
        with pq.ParquetFile(path) as file:
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for name in file.schema_arrow.names:
                    where = f"column {name!r} in rows {first} to {first + rows - 1}"
                    file.read_row_group(group, columns=[name]).validate(full=True)
                first += rows
    # Whatever it is: who asks wants to know where it is.
    except Exception as error:
        print(f"{where}: {first_line(error)}")
        sys.exit(1)
