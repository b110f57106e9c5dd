"""Encoders: each takes frames of one schema, in order, into one file.

Polars encodes on all cores, Arrow as it comes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import polars as pl
import polars.selectors as cs
import pyarrow as pa
from polars.io.plugins import register_io_source

from prefmill.errors import MissingPackage
from prefmill.table.json_values import JSON_FIELD, decoded, holds, is_marked
from prefmill.table.messages import is_json_text
from prefmill.table.together import TOGETHER
from prefmill.writers.arrow import arrow_schema, arrow_tables, rows_in
from prefmill.writers.place import Packed

# A row group is what one core encodes and what memory is held for: 64 MB of text, or fewer for
# short rows.
_GROUP_ROWS, _GROUP_BYTES = 50_000, 64 << 20
_BATCH_BYTES = 64 << 20
_STATISTICS = {"min": False, "max": False, "distinct_count": False, "null_count": True}


#: Writes a lazy frame to an open file, in row groups of so many rows.
_Encode = Callable[[pl.LazyFrame, BinaryIO, int], None]


class Sink(Protocol):
    """One open file: frames in, in order. `abort` gives it up, and does nothing after `close`."""

    def write(self, frame: pl.DataFrame) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def group_bytes_in(memory_bytes: int | None, files: int = 1) -> int:
    """The text of a row group, in a process that is to hold at most so much.

    The encoder holds about eight groups at a time: of 64 MB each that was 500 MB, above all else.

    >>> group_bytes_in(None) >> 20, group_bytes_in(512_000_000) >> 20
    (64, 12)
    """
    if memory_bytes is None:
        return _GROUP_BYTES
    return min(_GROUP_BYTES, max(1 << 20, (memory_bytes - 300_000_000) // (16 * files)))


def sink_maker(
    kind: str,
    packed: Packed,
    schema: pl.Schema,
    group_bytes: int = _GROUP_BYTES,
    together: str | None = None,
) -> Callable[[Path], Sink]:
    """How to open one file of this `kind` (of `place.KINDS`, or `datasets`).

    Raises `MissingPackage` here, before any work.
    """
    narrow = arrow_schema(schema)
    json_inside = any(holds(field.type, is_marked) for field in narrow)
    if kind == "arrow":
        return lambda path: _ArrowSink(path, narrow, pa.ipc.new_file)
    if kind == "datasets":
        features = _features(narrow)
        return lambda path: _ArrowSink(path, features, pa.ipc.new_stream)
    # Polars does not write Arrow's type for JSON inside of lists.
    if kind == "parquet" and json_inside:
        import pyarrow.parquet as pq

        make = partial(pq.ParquetWriter, compression="zstd", compression_level=1)
        return lambda path: _ArrowSink(path, narrow, make)
    if kind == "jsonl" and json_inside:
        return lambda path: _JsonLinesSink(path, packed)
    sink = _polars_sink(kind, packed, schema, narrow, together)
    return lambda path: _PolarsSink(path, schema, sink, group_bytes)


def _features(schema: pa.Schema) -> pa.Schema:
    """`schema` in the types of `datasets`."""
    try:
        import datasets
    except ImportError:
        where = "write: a datasets directory"
        raise MissingPackage.for_extra(where, "datasets", "datasets") from None
    features: pa.Schema = datasets.Features.from_arrow_schema(schema).arrow_schema
    return features


def _polars_sink(
    kind: str, packed: Packed, schema: pl.Schema, narrow: pa.Schema, together: str | None
) -> _Encode:
    if kind == "jsonl":
        return lambda lazy, file, rows: lazy.sink_ndjson(
            file, compression=packed, check_extension=False
        )
    if kind in ("csv", "tsv"):
        separator = "\t" if kind == "tsv" else ","
        return lambda lazy, file, rows: lazy.select(_as_csv(schema)).sink_csv(
            file, separator=separator, compression=packed, check_extension=False
        )
    # Polars would label every text `large_string`, which `datasets` takes over as a type.
    metadata = {"ARROW:schema": base64.b64encode(narrow.serialize().to_pybytes()).decode()}
    if together is not None:
        metadata[TOGETHER] = together
    # Level 1 takes half the CPU of level 3 for 10 % more bytes, and pages of 4 MB instead of 1 save
    # 7 %. Bounds of long texts serve nobody; that there are no nulls spares a reader a
    # look at each.
    return lambda lazy, file, rows: lazy.sink_parquet(
        file,
        row_group_size=rows,
        metadata=metadata,
        compression="zstd",
        compression_level=1,
        data_page_size=4 << 20,
        statistics=_STATISTICS,
    )


def _as_csv(schema: pl.Schema) -> list[pl.Expr]:
    """The columns as CSV has them: JSON as its text, a duration in ISO's form."""
    columns: list[pl.Expr] = []
    for name, dtype in schema.items():
        column: pl.Expr = cs.by_name(name)
        if is_json_text(dtype):
            column = column.struct.field(JSON_FIELD).alias(name)
        elif isinstance(dtype, pl.Duration):
            column = column.dt.to_string("iso")
        columns.append(column)
    return columns


class _GaveUp(Exception):
    pass


def frames_source(schema: pl.Schema, pull: Callable[[], pl.DataFrame | None]) -> pl.LazyFrame:
    """The frames that `pull` returns one by one, until None, as a LazyFrame.

    Each is asked for when the engine has room for it. Order is kept; `pull` runs on a thread of the
    engine, and what it raises comes out of the sink as it is. This is the one use of the unstable
    `register_io_source`.

    >>> feed = iter([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]}), None])
    >>> frames_source(pl.Schema({"a": pl.Int64}), lambda: next(feed)).collect()["a"].to_list()
    [1, 2]
    """

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        while (frame := pull()) is not None:
            yield frame

    return register_io_source(source, schema=schema, explain_name="PREFMILL")


class _PolarsSink:
    """A Polars `sink_*` on a thread of its own, fed through a queue of one frame.

    So making and encoding frames overlap, and the frames' maker stays on the caller's thread, where
    its exceptions (and Ctrl-C) need no passing on.
    """

    def __init__(
        self, path: Path, schema: pl.Schema, sink: _Encode, group_bytes: int = _GROUP_BYTES
    ) -> None:
        # Given a path, an engine that was stopped early may create the file after its removal.
        self._file = path.open("wb")
        self._schema = schema
        self._sink, self._group_bytes = sink, group_bytes
        self._frames: queue.Queue[pl.DataFrame | None] = queue.Queue(1)
        self._gave_up = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(self, frame: pl.DataFrame) -> None:
        self._put(frame, frame)

    def close(self) -> None:
        self._put(None, pl.DataFrame(schema=self._schema))
        assert self._thread is not None
        self._thread.join()
        self._file.close()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        self._gave_up = True
        if self._thread is not None:
            # If it is full, the thread takes the frame that is there, and then sees the flag.
            with contextlib.suppress(queue.Full):
                self._frames.put_nowait(None)
            self._thread.join()
        self._file.close()

    def _put(self, frame: pl.DataFrame | None, sample: pl.DataFrame) -> None:
        # The first frame tells how long the texts are.
        if self._thread is None:
            rows = _GROUP_ROWS
            if sample.height:
                rows = min(rows, rows_in(self._group_bytes, sample))
            name = "prefmill-sink"
            self._thread = threading.Thread(target=self._run, args=(rows,), name=name, daemon=True)
            self._thread.start()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=0.2)
                return
        raise self._error or RuntimeError("the writing thread ended before its frames did")

    def _pull(self) -> pl.DataFrame | None:
        frame = self._frames.get()
        if self._gave_up:
            raise _GaveUp
        return frame

    def _run(self, group_rows: int) -> None:
        try:
            self._sink(frames_source(self._schema, self._pull), self._file, group_rows)
        except BaseException as error:  # raised where the caller sees it
            self._error = _of_system(error)


def _of_system(error: BaseException) -> BaseException:
    """An error of the operating system as an `OSError` with its number.

    Polars wraps a full disk as an error of the file's format.
    """
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or (isinstance(error, OSError) and error.errno is not None):
        return error
    return OSError(int(number[1]), os.strerror(int(number[1])))


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """What the system refuses in here, with the name of the target: the file's own is hidden."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(target)
        raise


class _ArrowSink:
    """Arrow IPC, a file or the stream that `datasets` maps, or Parquet by Arrow; no thread."""

    def __init__(
        self, path: Path, schema: pa.Schema, make: Callable[[BinaryIO, pa.Schema], Any]
    ) -> None:
        self._schema = schema
        self._file = path.open("wb")
        self._writer = make(self._file, schema)
        self._closed = False

    def write(self, frame: pl.DataFrame) -> None:
        for table in arrow_tables(frame, self._schema, _BATCH_BYTES):
            self._writer.write_table(table)

    def close(self) -> None:
        self._closed = True
        self._writer.close()
        self._file.close()

    def abort(self) -> None:
        if not self._closed:
            # What it cannot finish is removed.
            with contextlib.suppress(Exception):
                self._writer.close()
            self._file.close()


class _JsonLinesSink:
    """JSON Lines with the values of JSON texts: each line is read and written once more."""

    def __init__(self, path: Path, packed: Packed) -> None:
        self._file = path.open("wb")
        kind = {"gzip": "gzip", "zstd": "zstd"}.get(packed)
        self._out: Any = pa.CompressedOutputStream(self._file, kind) if kind else self._file

    def write(self, frame: pl.DataFrame) -> None:
        for line in frame.write_ndjson().splitlines():
            value = json.dumps(decoded(json.loads(line)), ensure_ascii=False, separators=(",", ":"))
            self._out.write(value.encode() + b"\n")

    def close(self) -> None:
        self._out.close()
        self._file.close()

    def abort(self) -> None:
        self._file.close()
