"""What every format needs to become a Parquet file, and the rules for names and types of columns.

Files are written in row groups of 100,000 rows or 64 MB; that, and some blocks of text in work at a
time, is all that is held in memory.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import folded
from prefmill.errors import BadArgument, BadInput, PrefmillError
from prefmill.readers import utf8
from prefmill.readers.find import Input
from prefmill.readers.json_engine import JsonEngine
from prefmill.readers.rejects import Rejects
from prefmill.room import room_of
from prefmill.table.json_values import is_encoded, value_type

_In = TypeVar("_In")
_Out = TypeVar("_Out")
ROWS_A_GROUP = 100_000
_BYTES_A_GROUP = 64 << 20


@dataclass(frozen=True)
class Version:
    """A Parquet object that stays where it is, in the version whose footer was read."""

    url: str
    tag: str | None
    size: int
    group_rows: int  #: rows of its first group of rows
    partition: tuple[tuple[str, str], ...] = ()  #: as in `Part`


@dataclass(frozen=True)
class Part:
    """One Parquet file that is ready."""

    file: str
    label: str  #: how the caller would name its input
    schema: pa.Schema  #: of the wanted columns, in plain types
    rows: int
    nulls: frozenset[str]  #: columns that may hold nulls
    partition: tuple[tuple[str, str], ...] = ()  #: keys and values of the folders above
    remote: bool = False  #: the file is a URL
    stays: Version | None = None  #: the file is a sample of this object, with all its columns
    together: str | None = None  #: the column whose equal values stand together, as the file says
    #: of a file that many became: each as its caller names it, and its rows
    inside: tuple[tuple[str, int], ...] = ()

    @property
    def inputs(self) -> tuple[tuple[str, int], ...]:
        """The inputs that are in it, as their owner names them, each with its rows."""
        return self.inside or ((self.label, self.rows),)


@dataclass
class Context:
    """What every stager needs."""

    folder: Path
    rejects: Rejects
    json: JsonEngine
    encoding: str | None = None
    delimiter: str | None = None
    memory: int | None = None
    workers: int = 1
    columns: frozenset[str] | None = None
    progress: Callable[[str], None] = lambda text: None
    #: of a file's columns those that a row must have; None where nobody knows yet
    needs: Callable[[Sequence[str]], Collection[str] | None] = frozenset
    #: columns, or paths into them, that somebody spelled
    named: Collection[str] = ()
    #: what people should know of how files were read
    notes: list[str] = field(default_factory=list)
    made: int = 0
    #: Parquet objects stay where they are; so many rows of them are in samples, of these columns
    stay: bool = False
    #: every file stays a file of its own, however many there are
    apart: bool = False
    sampled: int = 0
    met: set[str] = field(default_factory=set)

    def new_path(self, partition: tuple[tuple[str, str], ...], name: str = "part.parquet") -> Path:
        """A fresh path with the partition's folders above it."""
        self.made += 1
        return path_in(self.folder / str(self.made), partition, name)

    @property
    def block(self) -> int:
        """Bytes of text in one block.

        Some are in work at a time, each several times over while it is parsed.
        """
        limit = 8 << 20
        if self.memory is not None:
            limit = min(limit, self.memory // 64)
        return max(1 << 20, limit)

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that the caller asked for."""
        return [name for name in names if self.columns is None or name in self.columns]

    def kept(self, names: Sequence[str]) -> list[str]:
        """The wanted ones to stage, or the first: rows need a column to be counted by."""
        return self.wanted(names) or list(names[:1])


def path_in(folder: Path, partition: tuple[tuple[str, str], ...], name: str) -> Path:
    """A path in a new `folder`, with the partition's folders above it."""
    for key, value in partition:
        folder /= f"{escaped(key)}={escaped(value)}"
    folder.mkdir(parents=True)
    return folder / name


class Writer:
    """One staged Parquet file, in large row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = 0
        self._nulls: set[str] = set()
        self._tables: list[pa.Table] = []
        self._held = self._bytes = self._on_disk = 0
        # Nearly all texts are different: a dictionary would be built to be thrown away.
        self._file = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=1, use_dictionary=False
        )

    def add(self, table: pa.Table) -> None:
        """Append; memory is bounded by the size of a row group."""
        self._tables.append(table)
        self._held += table.num_rows
        self._bytes += table.nbytes
        columns = zip(table.column_names, table.columns, strict=True)
        self._nulls.update(name for name, column in columns if column.null_count)
        if self._held >= ROWS_A_GROUP or self._bytes >= _BYTES_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(pa.concat_tables(self._tables), row_group_size=1 << 20)
            self.rows += self._held
            if room := room_of(self.path):
                size = os.path.getsize(self.path)
                room.take(size - self._on_disk)
                self._on_disk = size
        self._tables, self._held, self._bytes = [], 0, 0

    def close(self, item: Input | Part) -> Part:
        """Finish the file."""
        self._flush()
        self._file.close()
        path, nulls = str(self.path), frozenset(self._nulls)
        return Part(path, item.label, self.schema, self.rows, nulls, item.partition)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file after an error too; its folder is removed by who made it."""
        with contextlib.suppress(Exception):
            self._file.close()


def in_order(work: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """`map` in threads that keeps the order and never holds more than a few items."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prefmill-read") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                # A few blocks in work at a time, or memory would hold the file.
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def utf8_pieces(item: Input, context: Context) -> Iterator[bytes]:
    """The text of a file in UTF-8, from its first byte."""
    return utf8.utf8_blocks(
        Path(item.path),
        item.label,
        compression=item.compression,
        encoding=context.encoding,
        size=context.block,
    )


def check_names(names: Sequence[str], label: str) -> None:
    """Column names that no later step could tell apart are refused here."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise BadArgument(
            f"{label}: duplicate column names {twice}; got {list(names)}.",
            hint="rename one of them.",
        )
    if any("\0" in name for name in names):
        raise BadInput(f"{label}: a column name holds a NUL character; got {list(names)}.")
    lower: dict[str, str] = {}
    for name in names:
        other = lower.setdefault(folded(name), name)
        if other != name:
            raise BadArgument(
                f"{label}: the column names {other!r} and {name!r} differ only in case.",
                hint="rename one of them.",
            )


def escaped(text: str) -> str:
    """A part of a `key=value` folder as all engines read it back.

    They cut at some characters, and decode `%XX` once.

    >>> escaped("meta-llama/Llama-3")
    'meta-llama%2FLlama-3'
    """
    plain = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """What a column holds, not how: no dictionaries, views, extensions, names of list elements."""
    if isinstance(kind, pa.BaseExtensionType):
        if is_encoded(kind):
            return value_type(kind)
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_duration(kind) and kind.unit == "s":
        return pa.duration("ms")
    if pa.types.is_decimal256(kind):
        return pa.string()
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def is_misread(kind: pa.DataType) -> bool:
    """Whether an engine would take the stored form of this type for its value.

    Files with such a column are staged in `plain_type`. DuckDB reads all durations of Parquet as
    plain numbers, which are milliseconds, or finer, by our own schema; Polars has no decimals of
    more than 38 digits.
    """
    seconds = pa.types.is_duration(kind) and kind.unit == "s"
    return seconds or pa.types.is_decimal256(kind) or is_encoded(kind)


def plain_schema(schema: pa.Schema, names: Sequence[str] | None = None) -> pa.Schema:
    """The columns `names` (all by default) in plain types."""
    wanted = schema.names if names is None else names
    return pa.schema([(name, plain_type(schema.field(name).type)) for name in wanted])


@contextlib.contextmanager
def as_bad_input(label: str, kind: str) -> Iterator[None]:
    """The one place where what Arrow says of a broken file becomes an error that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, PrefmillError):
            raise
        raise BadInput(f"{label}: not a readable {kind} file; {first_line(error)}.") from error


def first_line(error: BaseException) -> str:
    """The first line of what another library says of its error."""
    return str(error).partition("\n")[0]
