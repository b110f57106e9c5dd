"""Inputs: whatever is named becomes Parquet files. Parquet is used in place; all else is staged to Parquet once, streaming.

CSV is split by Arrow's parser and JSON by DuckDB's, block by block; which bytes make up a record, and whether it may be read at all, is
decided here, so that a malformed row has its line in every format and reading can go on behind it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as paipc
import pyarrow.parquet as pq

from prefmill import _text
from prefmill._engine import connect, literal, quote
from prefmill._text import Bad, Block, Positions
from prefmill.errors import BadArgument, BadInput, nearest

_In = TypeVar("_In")
_Out = TypeVar("_Out")

#: Format of each ending. The text forms may be followed by .gz or .zst.
FORMATS: Mapping[str, str] = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "ipc", ".ipc": "ipc", ".feather": "ipc",
}  # fmt: skip
_SCHEMES = ("s3", "hf", "https", "http", "gs", "gcs", "r2", "az", "abfss")
_STDIN = "<stdin>"
_ROWS_A_GROUP = 100_000
_BYTES_A_GROUP = 64 << 20
_SAFE_PATH = re.compile(r"[\w/.\-+@ ,=:~()\\]*")  # both engines take any other character for a pattern, a query or an escape
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """Parquet files that together are one table.

    Hive partition columns are text, whatever they look like: read with `hive_types_autocast = false` in DuckDB, and without
    `hive_partitioning` where `hive` is false, since a folder may be named `a=b` by chance.
    """

    files: tuple[str, ...]  #: Parquet paths or URLs, in the order of positions
    columns: pa.Schema  #: of the union by name of all files, with hive partition columns; one of nulls only is text
    rows: int  #: in all files; rejected rows are not among them
    file_rows: tuple[int, ...]  #: rows of each file
    nulls: frozenset[str]  #: columns that may hold nulls
    rejected: int  #: malformed rows that went to the rejects file
    remote: bool  #: some file is a URL
    hive: bool  #: partition columns are read from the paths


@dataclass(frozen=True)
class _Input:
    """One file as it was found."""

    path: str  # a path or a URL
    label: str  # how the caller would name it
    format: str
    compression: str | None = None
    partition: tuple[tuple[str, str], ...] = ()
    tab: bool = False
    url: bool = False


@dataclass(frozen=True)
class _Part:
    """One Parquet file that is ready."""

    file: str
    label: str
    schema: pa.Schema
    rows: int
    nulls: frozenset[str]
    partition: tuple[tuple[str, str], ...] = ()


@dataclass
class _Context:
    """What every stager needs."""

    folder: Path
    rejects: _Rejects
    encoding: str | None
    delimiter: str | None
    memory: int | None
    workers: int
    columns: frozenset[str] | None
    progress: Callable[[str], None]
    made: int = 0

    def new_path(self, partition: tuple[tuple[str, str], ...], name: str = "part.parquet") -> Path:
        """A fresh path with the partition's folders above it."""
        self.made += 1
        folder = self.folder / str(self.made)
        for key, value in partition:
            folder /= f"{key}={value}"
        folder.mkdir(parents=True)
        return folder / name

    @property
    def block(self) -> int:
        """Bytes of text in one block: some are in work at a time, each several times over while it is parsed."""
        limit = 8 << 20 if self.memory is None else self.memory // 64
        return max(1 << 20, min(8 << 20, limit))

    def wants(self, column: str) -> bool:
        return self.columns is None or column in self.columns


def open_source(
    inputs: Sequence[str],
    *,
    temp_dir: Path,
    encoding: str | None = None,
    rejects: Path | None = None,
    delimiter: str | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    columns: Iterable[str] | None = None,
) -> Source:
    """Find, check and (where they are not Parquet) stage all `inputs`; the result reads as one table.

    inputs      paths, globs, folders (searched for files of known formats, sorted; `key=value` folders become columns), URLs for DuckDB,
                or `-` for JSON Lines on stdin. A path that exists is itself, whatever characters it holds.
    temp_dir    folder for staged files; who passes it removes it.
    encoding    of text files, a Python codec; by default UTF-8, or UTF-16/32 with a byte order mark.
    rejects     a JSON Lines file for malformed rows (file, line, reason, raw). Without it the first malformed row is an error.
    delimiter   of CSV; by default a comma, in .tsv a tab.
    memory_bytes, threads   smaller blocks for less memory; how many blocks are parsed at a time.
    progress    called with a line of text now and then.
    columns     stage only these columns; names that a file lacks are ignored. By default all.

    CSV columns are text: an empty field is null, a quoted empty field the empty string; a column without a name is `column_N`. Blank lines
    are skipped. JSON types are unified over the whole file: integers (int64) and other numbers are double together, and so are integers
    beyond int64; values of different kinds are text, strings as they are and all else as its JSON; an object that no struct can hold (no
    keys, keys that differ only in case, over 1000 keys) is its JSON; of a key that is twice in an object the first counts. A list of
    messages stays a list of structs.

    A line, in messages and rejects, ends in LF (in CR where the header of a CSV does); a record is named by the line in which it starts.

    Costs one pass over a CSV file, two over JSON (types, then values), none over Parquet (only the footers are read).

    Raises `BadArgument` (an unknown ending, encoding or delimiter, duplicate column names) and `BadInput` (missing, empty or broken files,
    text in another encoding with the byte's offset, malformed rows with their line, files whose types do not fit together).

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.csv").write_text("prompt,score\\nhi,007\\n")
    >>> source = open_source([str(folder / "a.csv")], temp_dir=folder)
    >>> source.rows, pq.read_table(source.files[0]).to_pylist()
    (1, [{'prompt': 'hi', 'score': '007'}])
    """
    where = "inputs"
    if isinstance(inputs, str) or not inputs:
        raise BadArgument(f"{where}: got {inputs!r}, expected one or more paths.")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            raise BadArgument(f"delimiter: got {delimiter!r}, expected one ASCII character that is no quote and no line end.")
    if encoding is not None:
        encoding = _text.check_encoding(encoding, "encoding")
    found = [item for given in inputs for item in _find(given)]
    _check_partitions(found)
    Path(temp_dir).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="source-", dir=os.path.abspath(temp_dir)))
    workers = max(1, min(8, threads if threads is not None else os.cpu_count() or 1))
    with _Rejects(rejects) as bad:
        context = _Context(
            folder, bad, encoding, delimiter, memory_bytes, workers,
            None if columns is None else frozenset(columns), progress or (lambda text: None),
        )  # fmt: skip
        parts = [part for item in found for part in _open(item, context)]
        if not parts:
            raise BadInput(f"{where}: no rows and no columns in {[item.label for item in found]}.")
        schema, nulls = _unite(parts)
        return Source(
            files=tuple(part.file for part in parts),
            columns=schema,
            rows=sum(part.rows for part in parts),
            file_rows=tuple(part.rows for part in parts),
            nulls=nulls,
            rejected=bad.count,
            remote=any(is_url(part.file) for part in parts),
            hive=any(part.partition for part in parts),
        )


def _open(item: _Input, context: _Context) -> Iterator[_Part]:
    context.progress(f"reading {item.label}")
    if item.format == "parquet":
        yield from _remote_parquet(item, context) if item.url else [_local_parquet(item, context)]
        return
    if item.url:
        part = _stage_url(item, context)
    else:
        part = {"csv": _stage_csv, "json": _stage_json, "jsonl": _stage_json, "ipc": _stage_ipc}[item.format](item, context)
    if part is not None:
        yield part


# --- finding files --------------------------------------------------------------------------------------------------------------------


def is_url(text: str) -> bool:
    """Whether DuckDB is to fetch `text`.

    >>> is_url("hf://datasets/a/b/c.parquet"), is_url("./s3:/x")
    (True, False)
    """
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() in _SCHEMES


def _kind(name: str) -> tuple[str, str | None, bool] | None:
    """Format, compression, and whether fields are separated by tabs, by the ending of a file name."""
    stem, ending = os.path.splitext(name.lower())
    compression = None
    if ending in (".gz", ".zst"):
        compression = ending[1:]
        ending = os.path.splitext(stem)[1]
    kind = FORMATS.get(ending)
    if kind is None or (compression and kind not in ("csv", "json", "jsonl")):
        return None
    return kind, compression, ending == ".tsv"


def _unknown(label: str) -> BadArgument:
    return BadArgument(
        f"{label}: the ending names no known format; expected one of {', '.join(sorted(FORMATS))}, text also with .gz or .zst.",
        hint="rename the file, or name the files to read one by one.",
    )


def _hidden(name: str) -> bool:
    return name.startswith(("_", ".")) and "=" not in name


def _find(given: str) -> list[_Input]:
    """The files that one input names, in order."""
    if given == "-":
        return [_Input("-", _STDIN, "jsonl")]
    if is_url(given):
        kind = _kind(urlsplit(given).path)
        if kind is None or kind[0] == "ipc":
            raise _unknown(given)
        return [_Input(given, given, *kind[:2], tab=kind[2], url=True)]
    if "\0" in given or not given:
        raise BadArgument(f"inputs: {given!r} is no path.")
    if os.path.isdir(given):
        return _walk(given)
    if os.path.exists(given):
        return [_file(given)]
    if glob.has_magic(given):
        matches = sorted(glob.glob(given, recursive=True))
        said = set(given.split(os.sep))  # a hidden name is meant where the pattern spells it
        matches = [
            m for m in matches if not any(_hidden(part) and part not in said and part not in ("", ".", "..") for part in m.split(os.sep))
        ]
        files = [m for m in matches if not os.path.isdir(m)]
        # `data/*` also matches folders; `data/**` matches each file once more through its folder, so then only the files count
        folders = [m for m in matches if os.path.isdir(m)] if "**" not in given else []
        found = [item for match in sorted(files + folders) for item in (_walk(match) if match in folders else [_file(match)])]
        if found:
            return found
        raise BadInput(f"{given}: no file matches.", hint="is the pattern right, and quoted for the shell?")
    parent = os.path.dirname(given) or "."
    near = nearest(os.path.basename(given), os.listdir(parent)) if os.path.isdir(parent) else []
    raise BadInput(f"{given}: no such file.", hint=f"did you mean {os.path.join(os.path.dirname(given), near[0])}?" if near else None)


def _file(path: str) -> _Input:
    kind = _kind(os.path.basename(path))
    if kind is None:
        raise _unknown(path)
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path}: cannot be read; permission denied.")
    return _Input(os.path.abspath(path), path, *kind[:2], tab=kind[2])


def _walk(top: str) -> list[_Input]:
    paths: list[str] = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not _hidden(name)]
        paths += (os.path.join(folder, name) for name in names if not _hidden(name))
    found: list[_Input] = []
    for path in sorted(paths):
        inner = os.path.dirname(os.path.relpath(path, top)).split(os.sep)
        item = _file(path)
        keys = [part.partition("=") for part in inner if "=" in part]
        partition = tuple((key, unquote(value)) for key, _, value in keys if key)
        found.append(_Input(item.path, item.label, item.format, item.compression, partition, item.tab))
    if not found:
        raise BadInput(f"{top}: the folder holds no file of a known format.", hint=f"expected {', '.join(sorted(FORMATS))}.")
    return found


def _check_partitions(found: Sequence[_Input]) -> None:
    """Engines read partition columns of all files or of none."""
    with_keys = [item for item in found if item.partition]
    if not with_keys:
        return
    first = with_keys[0]
    keys = {key for key, _ in first.partition}
    for item in found:
        if {key for key, _ in item.partition} != keys or len(item.partition) != len(keys):
            raise BadInput(
                f"{item.label}: partition columns {[key for key, _ in item.partition]} differ from those of {first.label}: {sorted(keys)}.",
                hint="every file needs the same key=value folders.",
            )


# --- malformed rows -------------------------------------------------------------------------------------------------------------------


class _Rejects:
    """Where malformed rows go: into a file that appears complete or not at all, or, without one, into an error."""

    def __init__(self, path: Path | None) -> None:
        self.path = None if path is None else Path(path)
        self.count = 0
        self._file: IO[str] | None = None
        self._temporary = ""

    def __enter__(self) -> _Rejects:
        if self.path is not None:
            try:
                handle, self._temporary = tempfile.mkstemp(prefix=f".{self.path.name[:100]}.", suffix=".tmp", dir=self.path.parent)
            except OSError as error:
                raise BadArgument(f"rejects: {self.path} cannot be written; {error.strerror}.") from error
            self._file = os.fdopen(handle, "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._file is None or self.path is None:
            return
        self._file.close()
        if kind is None:
            with contextlib.suppress(OSError):  # mkstemp is private to its user; files that are kept follow the usual mask
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(self._temporary, 0o666 & ~mask)
            os.replace(self._temporary, self.path)
        else:
            os.unlink(self._temporary)

    def add(self, label: str, bad: Bad) -> None:
        """Write one malformed row, or raise `BadInput` for it."""
        if self._file is None or bad.fatal:
            hint = "nothing behind this line can be read." if bad.fatal else "--rejects PATH sets malformed rows aside and goes on."
            raise BadInput(f"{label}: line {bad.line}: {bad.reason}.", hint=hint)
        self._file.write(json.dumps({"file": label, "line": bad.line, "reason": bad.reason, "raw": bad.raw}, ensure_ascii=False) + "\n")
        self.count += 1


# --- staging --------------------------------------------------------------------------------------------------------------------------


class _Writer:
    """One staged Parquet file, in large row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = 0
        self._nulls: set[str] = set()
        self._tables: list[pa.Table] = []
        self._held = self._bytes = 0
        # Texts of prompts and completions are nearly all different: a dictionary would only be built to be thrown away.
        self._file = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, use_dictionary=False)

    def add(self, table: pa.Table) -> None:
        """Append; memory is bounded by the size of a row group."""
        self._tables.append(table)
        self._held += table.num_rows
        self._bytes += table.nbytes
        self._nulls.update(name for name, column in zip(table.column_names, table.columns, strict=True) if column.null_count)
        if self._held >= _ROWS_A_GROUP or self._bytes >= _BYTES_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(pa.concat_tables(self._tables), row_group_size=1 << 20)
            self.rows += self._held
        self._tables, self._held, self._bytes = [], 0, 0

    def close(self, item: _Input) -> _Part:
        """Finish the file."""
        self._flush()
        self._file.close()
        return _Part(str(self.path), item.label, self.schema, self.rows, frozenset(self._nulls), item.partition)

    def abandon(self) -> None:
        """Close the file after an error; its folder is removed by who made it."""
        with contextlib.suppress(Exception):
            self._file.close()


def _in_order(work: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """`map` in threads that keeps the order and never holds more than a few items."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prefmill-read") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pieces(item: _Input, context: _Context) -> Iterator[bytes]:
    return _text.utf8_blocks(
        Path(item.path), item.label, compression=item.compression, encoding=context.encoding, size=context.block
    )  # fmt: skip


def _check_names(names: Sequence[str], label: str) -> None:
    """Column names that no later step could tell apart are refused here."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise BadArgument(f"{label}: duplicate column names {twice}; got {list(names)}.", hint="rename one of them.")
    if any("\0" in name for name in names):
        raise BadInput(f"{label}: a column name holds a NUL character; got {list(names)}.")
    lower: dict[str, str] = {}
    for name in names:
        other = lower.setdefault(_plain(name), name)
        if other != name:
            raise BadArgument(f"{label}: the column names {other!r} and {name!r} differ only in case.", hint="rename one of them.")


def _plain(name: str) -> str:
    """How SQL compares names: without the case of ASCII letters."""
    return "".join(c.lower() if c.isascii() else c for c in name)


# --- CSV ------------------------------------------------------------------------------------------------------------------------------


def _stage_csv(item: _Input, context: _Context) -> _Part:
    delimiter = context.delimiter or ("\t" if item.tab else ",")
    blocks = _text.csv_blocks(_pieces(item, context), delimiter)
    header, first = _header(blocks, item.label)
    names = _split_record(header, delimiter)
    if len(names) == 1 and context.delimiter is None:
        other = next((c for c in ";\t|," if c in names[0] and c != delimiter), None)
        if other:
            raise BadInput(
                f"{item.label}: the header is one column {names[0]!r}; fields seem to be separated by something else.",
                hint=f"try --delimiter {json.dumps(other)}",
            )
    names = [name or f"column_{number}" for number, name in enumerate(names, start=1)]
    _check_names(names, item.label)
    kept = [name for name in names if context.wants(name)] or names[:1]
    schema = pa.schema([(name, pa.string()) for name in kept])
    parse = _CsvParser(names, kept, delimiter)
    writer = _Writer(context.new_path(item.partition), schema)
    try:
        for table, bads in _in_order(parse, _chain(first, blocks), context.workers):
            for bad in bads:
                context.rejects.add(item.label, bad)
            if table is not None:
                writer.add(table)
        return writer.close(item)
    except BaseException:
        writer.abandon()
        raise


def _chain(first: Block | None, rest: Iterator[Block | Bad]) -> Iterator[Block | Bad]:
    if first is not None:
        yield first
    yield from rest


def _header(blocks: Iterator[Block | Bad], label: str) -> tuple[str, Block | None]:
    """The text of the first record that is not blank, and the block behind it."""
    for block in blocks:
        if isinstance(block, Bad):
            raise BadInput(f"{label}: line {block.line}: {block.reason}.", hint="the header cannot be read.")
        spans = _records(block)
        if spans:
            start, end = spans[0]
            rest = block.data[end:]
            quotes = block.quotes
            left = None if quotes is None else quotes[np.searchsorted(quotes, end) :] - end
            after = Block(rest, block.line + block.data.count(block.newline, 0, end), quotes=left, newline=block.newline)
            return block.data[start:end].decode().rstrip("\r\n"), after if rest else None
    raise BadInput(f"{label}: the file is empty.", hint="a CSV file needs a header.")


def _split_record(text: str, delimiter: str) -> list[str]:
    """The fields of one well-formed record."""
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            end = at + 1
            while text.startswith('""', end) or not text.startswith('"', end):
                end += 2 if text.startswith('""', end) else 1
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = text.find(delimiter, at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            at = end
        if at >= len(text):
            return fields
        at += 1


def _edges(block: Block) -> tuple[Positions, Positions]:
    """Start and end (with its line end) of every record, blank ones too."""
    array = np.frombuffer(block.data, dtype=np.uint8)
    quotes = block.quotes if block.quotes is not None else np.empty(0, dtype=np.int64)
    after = np.concatenate((array[1:], np.zeros(1, dtype=np.uint8)))
    ends = np.flatnonzero((array == 10) | ((array == 13) & (after != 10)))
    ends = ends[~_text.inside(quotes, ends)] + 1
    if not len(ends) or ends[-1] != len(array):
        ends = np.append(ends, len(array))
    return np.concatenate(([0], ends[:-1])), ends


def _records(block: Block) -> list[tuple[int, int]]:
    starts, ends = _edges(block)
    return [(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True) if block.data[s:e].strip(b"\r\n")]


class _CsvParser:
    """Blocks of whole records to tables; records with too few or too many fields apart."""

    def __init__(self, names: Sequence[str], kept: Sequence[str], delimiter: str) -> None:
        self.names, self.delimiter = list(names), delimiter
        self.convert = pacsv.ConvertOptions(
            column_types={name: pa.string() for name in kept},
            include_columns=list(kept),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            check_utf8=False,  # done before
        )

    def __call__(self, block: Block | Bad) -> tuple[pa.Table | None, list[Bad]]:
        if isinstance(block, Bad):
            return None, [block]
        ragged: list[object] = []
        table = self._parse(block.data, ragged)
        if not ragged:
            return table, []
        bads, good = self._apart(block)
        ragged = []
        table = self._parse(good, ragged)
        if ragged:
            raise AssertionError("two parsers disagree on the number of fields")
        return table, bads

    def _parse(self, data: bytes, ragged: list[object]) -> pa.Table | None:
        if not data.strip(b"\r\n"):
            return None

        def on_bad(row: object) -> str:
            ragged.append(None)
            return "skip"

        if not data.endswith((b"\n", b"\r")):
            data += b"\n"  # at the very end of its input, Arrow takes an empty field behind a quoted one for quoted too
        read = pacsv.ReadOptions(column_names=self.names, use_threads=False, block_size=max(len(data) + 1, 1 << 16))
        parse = pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=on_bad)
        return pacsv.read_csv(pa.BufferReader(data), read_options=read, parse_options=parse, convert_options=self.convert)

    def _apart(self, block: Block) -> tuple[list[Bad], bytes]:
        """Malformed records, and the bytes of the others."""
        array = np.frombuffer(block.data, dtype=np.uint8)
        quotes = block.quotes if block.quotes is not None else np.empty(0, dtype=np.int64)
        marks = np.flatnonzero(array == ord(self.delimiter))
        marks = marks[~_text.inside(quotes, marks)]
        starts, ends = _edges(block)
        fields = np.searchsorted(marks, ends) - np.searchsorted(marks, starts) + 1
        wrong = np.flatnonzero(fields != len(self.names)).tolist()
        bads: list[Bad] = []
        good: list[bytes] = []
        kept_to, line, counted_to = 0, block.line, 0
        for at in wrong:
            start, end = int(starts[at]), int(ends[at])
            raw = block.data[start:end].rstrip(b"\r\n")
            if not raw:
                continue
            line += block.data.count(block.newline, counted_to, start)
            counted_to = start
            good.append(block.data[kept_to:start])
            kept_to = end
            count = int(fields[at])
            bads.append(Bad(line, f"{count} field{'s' * (count != 1)} where the header has {len(self.names)}", raw.decode()))
        good.append(block.data[kept_to:])
        return bads, b"".join(good)


# --- JSON -----------------------------------------------------------------------------------------------------------------------------

#: What DuckDB's parser takes but JSON does not have: NaN, infinities, a comma before a bracket. The patterns also match inside strings; the
#: lines found are looked at one by one. Several patterns with one possible first character each are searched thrice as fast as one for all.
_NO_JSON = (
    r":\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r"\[\s*-?((?i)nan|inf(inity)?)\s*[,}\]]",
    r",(\s*-?((?i)nan|inf(inity)?)\s*[,}\]]|\s*[}\]])",
)
_IS_DIGIT = np.array([48 <= byte <= 57 for byte in range(256)])
_TYPES = {"NULL": "VARCHAR", "UBIGINT": "BIGINT", "HUGEINT": "DOUBLE", "UHUGEINT": "DOUBLE", "JSON": "VARCHAR"}
_MOST_KEYS = 1000


@dataclass(frozen=True)
class _Lines:
    """JSON texts of one block."""

    texts: pa.Array
    block: Block | None
    starts: Positions | None
    number: int

    def text(self, at: int) -> str:
        return str(self.texts[at].as_py())

    def line(self, at: int) -> int:
        if self.block is None or self.starts is None:
            return 0
        text = self.text(at)
        lead = len(text) - len(text.lstrip(" \t\r\n"))  # ASCII, so characters are bytes
        return self.block.line_of(int(self.starts[at]) + lead)


def _lines(block: Block, number: int) -> _Lines:
    starts = block.starts
    if starts is None:
        ends = np.flatnonzero(np.frombuffer(block.data, dtype=np.uint8) == 10) + 1
        starts = np.concatenate(([0], ends))
        if starts[-1] != len(block.data):
            starts = np.append(starts, len(block.data))
    offsets = pa.py_buffer(starts.astype(np.int32))
    return _Lines(pa.Array.from_buffers(pa.string(), len(starts) - 1, [None, offsets, pa.py_buffer(block.data)]), block, starts, number)


class _Json:
    """DuckDB's JSON functions over lines, one connection a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base = connect(temp_dir=folder, threads=1)
        self._local = threading.local()
        self._lock = threading.Lock()

    def query(self, sql: str, lines: pa.Array) -> pa.Table:
        """Run `sql` over the table `lines` with the columns `line` and `i`."""
        con: duckdb.DuckDBPyConnection | None = getattr(self._local, "con", None)
        if con is None:
            with self._lock:
                con = self._local.con = self._base.cursor()
        con.register("lines", pa.table({"line": lines, "i": np.arange(len(lines), dtype=np.int64)}))
        try:
            return con.sql(sql).to_arrow_table()
        finally:
            con.unregister("lines")

    def close(self) -> None:
        self._base.close()

    # `json_structure` has one answer for an empty object and for values of different kinds. With a key of its own (which no column can
    # have) an empty object stays an object, and fits those with keys. Twice, because neighbours share their comma. Inside a string the
    # quotes break the line, always: such lines are found by that and looked at one by one.
    _EMPTY = r"""regexp_replace({}, '([:\[,]\s*)\{{\}}(\s*[,\]}}])', '\1{{"":null}}\2', 'g')"""
    _FILLED = _EMPTY.format(_EMPTY.format("line"))
    _STRUCTURE = f"json_structure(CASE WHEN contains(line, '{{}}') THEN {_FILLED} ELSE line END)::VARCHAR"
    _GROUPED = f"SELECT s, min(i) AS i FROM (SELECT {_STRUCTURE} AS s, i FROM lines) GROUP BY s ORDER BY 2"
    _BROKEN = f"contains(line, '{{}}') AND TRY(json_structure({_FILLED})) IS NULL AND TRY(json_structure(line)) IS NOT NULL"

    def look(self, lines: _Lines) -> tuple[list[Any], list[int], list[Bad]]:
        """Types seen in a block (in the order of rows), which lines are no rows, and those of them that are malformed."""
        texts = lines.texts
        skip: set[int] = set()
        bads: dict[int, Bad] = {}
        checked: list[Any] = []

        def judge(found: Iterable[int]) -> None:
            for at in found:
                text = lines.text(at)
                fault = _json_fault(text)
                if fault is not None:
                    skip.add(at)
                    bads[at] = Bad(lines.line(at), fault, text.strip(" \t\r\n"))
                else:
                    checked.append(_shape(_loads(text)))

        strange = " OR ".join(f"regexp_matches(line, {literal(pattern)})" for pattern in _NO_JSON)
        broken = set(self._numbers(f"SELECT i FROM lines WHERE {self._BROKEN}", texts))
        judge(sorted({*self._numbers(f"SELECT i FROM lines WHERE {strange}", texts), *_long_numbers(texts), *broken}))
        try:
            shapes = self._shapes(texts, skip | broken)
        except duckdb.Error:
            for at in self._numbers(f"SELECT i FROM lines WHERE TRY({self._STRUCTURE}) IS NULL", texts):
                if at in skip or at in broken:
                    continue
                skip.add(at)
                text = lines.text(at).strip(" \t\r\n")
                if text:
                    reason = _json_fault(text) or "not JSON that can be read: nested more than 128 deep, or no text"
                    bads[at] = Bad(lines.line(at), reason, text)
                elif lines.block is not None and lines.block.starts is not None:
                    bads[at] = Bad(lines.line(at), "nothing between two commas", text)
            shapes = self._shapes(texts, skip | broken)
        if not all(isinstance(shape, dict) or shape == "JSON" for shape in shapes):  # JSON is what {} alone has
            judge(at for at in self._numbers("SELECT i FROM lines WHERE TRY(json_type(line)) <> 'OBJECT'", texts) if at not in skip)
        # Those checked one by one come last: they only widen types, the order of columns is that of the rows.
        return [shape for shape in shapes if isinstance(shape, dict)] + checked, sorted(skip), [bads[at] for at in sorted(bads)]

    def _numbers(self, sql: str, texts: pa.Array) -> list[int]:
        found: list[int] = self.query(sql, texts).column(0).to_pylist()
        return found

    def _shapes(self, texts: pa.Array, skip: set[int]) -> list[Any]:
        if skip:
            texts = texts.filter(pa.array([at not in skip for at in range(len(texts))]))
        return [json.loads(text) for text in self.query(self._GROUPED, texts).column(0).to_pylist()]


def _long_numbers(texts: pa.Array) -> list[int]:
    """The lines that hold 19 digits in a row, as integers near the end of int64 do."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return []
    starts = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    array = np.frombuffer(data, dtype=np.uint8)[starts[0] : starts[-1]]
    # Of 19 digits in a row, two lie on multiples of 9: a ninth of the text tells where to look closer.
    sample = _IS_DIGIT[array[::9]]
    near = np.flatnonzero(sample[:-1] & sample[1:]) * 9
    found: set[int] = set()
    for some in (near[at : at + 100_000] for at in range(0, len(near), 100_000)):
        around = some[:, None] + np.arange(-9, 19)
        digits = _IS_DIGIT[array[np.clip(around, 0, len(array) - 1)]] & (around >= 0) & (around < len(array))
        runs = np.any(np.all(np.lib.stride_tricks.sliding_window_view(digits, 19, axis=1), axis=2), axis=1)
        found.update((np.searchsorted(starts, some[runs] + starts[0], side="right") - 1).tolist())
    return sorted(found)


class _Number(str):
    """An integer as it is spelled: Python refuses very long ones."""


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_Number, parse_constant=_no_constant, object_pairs_hook=_pairs)


def _json_fault(text: str) -> str | None:
    """Why `text` is no row; None when it is one."""
    try:
        value = _loads(text)
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg.rstrip(':')} (column {error.pos + 1})"
    except UnicodeEncodeError:
        return "not valid JSON: half of a surrogate pair"
    except RecursionError:
        return "nested too deep"
    except ValueError as error:
        return f"not valid JSON: {error}"
    if isinstance(value, dict):
        return None
    kind = {str: "a string", _Number: "a number", float: "a number", bool: "a boolean", list: "an array", type(None): "null"}[type(value)]
    more = "; an array of all rows goes into a .json file" if isinstance(value, list) else ""
    return f"{kind} where an object is expected{more}"


def _shape(value: Any) -> Any:
    """The type of a value, spelled as `json_structure` does; an integer beyond int64 is a DOUBLE."""
    if value is None:
        return "NULL"
    if isinstance(value, _Number):
        return "BIGINT" if len(value) < 19 or (len(value) < 21 and -(1 << 63) <= int(value) < 1 << 63) else "DOUBLE"
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, float):
        return "DOUBLE"
    if isinstance(value, str):
        return "VARCHAR"
    if isinstance(value, list):
        inner: Any = "NULL"
        for element in value:
            inner = _merge(inner, _shape(element))
        return [inner]
    return {key: _shape(element) for key, element in value.items()}


def _merge(one: Any, two: Any) -> Any:
    """The type that holds values of both types: a wider number, a struct with the keys of both, else text."""
    if one == two or two == "NULL":
        return one
    if one == "NULL":
        return two
    if isinstance(one, dict) and isinstance(two, dict):
        return {key: _merge(one.get(key, "NULL"), two.get(key, "NULL")) for key in (*one, *(k for k in two if k not in one))}
    if isinstance(one, list) and isinstance(two, list):
        return [_merge(one[0], two[0])]
    numbers = {"BIGINT", "UBIGINT", "DOUBLE", "HUGEINT", "UHUGEINT"}
    if isinstance(one, str) and isinstance(two, str) and {one, two} <= numbers:
        return "BIGINT" if {one, two} <= {"BIGINT", "UBIGINT"} else "DOUBLE"
    return "VARCHAR"


def _settle(shape: Any) -> Any:
    """A merged type as one that can be read: objects that no struct can hold stay text."""
    if isinstance(shape, list):
        return [_settle(shape[0])]
    if isinstance(shape, dict):
        shape = {key: inner for key, inner in shape.items() if key or inner != "NULL"}
        keys = {_plain(key) for key in shape}
        if not shape or len(keys) < len(shape) or "" in keys or len(keys) > _MOST_KEYS or any("\0" in key for key in keys):
            return "VARCHAR"
        return {key: _settle(inner) for key, inner in shape.items()}
    return _TYPES.get(shape, shape)


def _stage_json(item: _Input, context: _Context) -> _Part | None:
    if item.path == "-":
        item = _Input(str(_spool(context)), _STDIN, "jsonl")

    def blocks() -> Iterator[Block | Bad]:
        pieces = _pieces(item, context)
        found = _text.json_blocks(pieces, item.label) if item.format == "json" else _text.line_blocks(pieces, item.label)
        return iter(found)

    def numbered() -> Iterator[_Lines | Bad]:
        for number, block in enumerate(blocks()):
            yield block if isinstance(block, Bad) else _lines(block, number)

    if next(_pieces(item, context), None) is None:
        raise BadInput(f"{item.label}: the file is empty.")
    return _stage_lines(item, context, numbered)


def _spool(context: _Context) -> Path:
    """Stdin as a file: it is read twice."""
    path = context.new_path((), "stdin.jsonl")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    return path


def _stage_lines(item: _Input, context: _Context, read: Callable[[], Iterator[_Lines | Bad]]) -> _Part | None:
    """Both passes over JSON lines: the types of all, then the values."""
    engine = _Json(context.folder)
    skipped: dict[int, list[int]] = {}
    shape: Any = {}

    def look(lines: _Lines | Bad) -> tuple[int, list[Any], list[int], list[Bad]]:
        return (-1, [], [], [lines]) if isinstance(lines, Bad) else (lines.number, *engine.look(lines))

    try:
        known: set[str] = set()
        for number, seen, skip, bads in _in_order(look, read(), context.workers):
            for bad in bads:
                context.rejects.add(item.label, bad)
            if skip:
                skipped[number] = skip
            for new in seen:
                text = json.dumps(new)
                if text not in known:  # blocks mostly repeat the same few types
                    known.add(text) if len(known) < 10_000 else known.clear()
                    shape = _merge(shape, new)
        _check_names(list(shape), item.label)
        if "" in shape:
            raise BadInput(f"{item.label}: an object has an empty key, which cannot be a column.")
        kept = {key: _settle(inner) for key, inner in shape.items() if context.wants(key)}
        kept = kept or {key: _settle(inner) for key, inner in list(shape.items())[:1]}
        if not kept:
            return None
        sql = f"SELECT unnest(json_transform(line, {literal(json.dumps(kept, ensure_ascii=False))})) FROM lines"
        empty = pa.array([], pa.string())
        schema = _spelled(engine.query(sql, empty).schema)
        for at, key in enumerate(kept):
            if shape[key] == "NULL":  # only nulls: a column that goes with any type in other files
                schema = schema.set(at, pa.field(key, pa.null()))

        def values(lines: _Lines | Bad) -> pa.Table | None:
            if isinstance(lines, Bad):
                return None
            texts = lines.texts
            if lines.number in skipped:
                keep = np.ones(len(texts), dtype=bool)
                keep[skipped[lines.number]] = False
                texts = texts.filter(pa.array(keep))
            return _retyped(engine.query(sql, texts), schema) if len(texts) else None

        writer = _Writer(context.new_path(item.partition), schema)
        try:
            for table in _in_order(values, read(), context.workers):
                if table is not None:
                    writer.add(table)
            return writer.close(item)
        except BaseException:
            writer.abandon()
            raise
    except duckdb.Error as error:
        raise BadInput(
            f"{item.label}: cannot be read as JSON; {str(error).splitlines()[0]}.", hint="did the file change meanwhile?"
        ) from error
    finally:
        engine.close()


def _spelled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _retyped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same columns with the names of list elements that Parquet files have."""
    columns = [
        pa.nulls(table.num_rows) if pa.types.is_null(field.type) else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


# --- Arrow IPC ------------------------------------------------------------------------------------------------------------------------


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """`kind` without dictionaries, views, extensions and names of list elements: what a column holds, not how."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain_type(field.type)) for field in kind])
    return kind


def _stage_ipc(item: _Input, context: _Context) -> _Part:
    if os.path.getsize(item.path) == 0:
        raise BadInput(f"{item.label}: the file is empty.")
    writer: _Writer | None = None
    try:
        with pa.memory_map(item.path) as file:
            try:
                reader = paipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                file.seek(0)
                reader = paipc.open_stream(file)
                batches = iter(reader)
            _check_names(reader.schema.names, item.label)
            kept = [name for name in reader.schema.names if context.wants(name)] or reader.schema.names[:1]
            if not kept:
                raise BadInput(f"{item.label}: the file has no columns.")
            schema = pa.schema([pa.field(name, _plain_type(reader.schema.field(name).type)) for name in kept])
            writer = _Writer(context.new_path(item.partition), schema)
            for batch in batches:
                batch.validate(full=True)  # offsets and UTF-8: later steps trust them
                table = pa.Table.from_batches([batch]).select(kept)
                for start in range(0, max(1, table.num_rows), _ROWS_A_GROUP):
                    writer.add(table.slice(start, _ROWS_A_GROUP).cast(schema))
            return writer.close(item)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{item.label}: not a readable Arrow file; {str(error).splitlines()[0]}.") from error
    finally:
        if writer is not None:
            writer.abandon()


# --- Parquet --------------------------------------------------------------------------------------------------------------------------


def _leaves(kind: pa.DataType) -> int:
    if pa.types.is_struct(kind):
        return sum(_leaves(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if pa.types.is_nested(kind):
        return _leaves(kind.value_type)
    return 1


def _local_parquet(item: _Input, context: _Context) -> _Part:
    try:
        with pq.ParquetFile(item.path, memory_map=False) as file:
            meta, schema = file.metadata, file.schema_arrow
            nulls = {field.name for field in schema if pa.types.is_nested(field.type)}
            leaf = 0
            for field in schema:
                if field.name not in nulls and not all(_no_nulls(meta, group, leaf) for group in range(meta.num_row_groups)):
                    nulls.add(field.name)
                leaf += _leaves(field.type)
            rows = meta.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{item.label}: not a readable Parquet file; {str(error).splitlines()[0]}.") from error
    _check_names(schema.names, item.label)
    if not schema.names:
        raise BadInput(f"{item.label}: the file has no columns.")
    path = item.path
    above = path if not item.partition else "/".join(path.split(os.sep)[: -1 - len(item.partition)])
    # With partitions, only the folders below the given one count; engines would read every key=value of the path.
    if not _SAFE_PATH.fullmatch(path) or (item.partition and "=" in above):
        link = context.new_path(item.partition)
        try:
            os.symlink(path, link)
        except OSError:  # no links here: a copy costs space, not correctness
            shutil.copyfile(path, link)
        path = str(link)
    schema = _spelled_parquet(schema, context)
    return _Part(path, item.label, schema, rows, frozenset(nulls & set(schema.names)), item.partition)


def _spelled_parquet(schema: pa.Schema, context: _Context) -> pa.Schema:
    kept = [name for name in schema.names if context.wants(name)]
    return pa.schema([pa.field(name, _plain_type(schema.field(name).type)) for name in kept])


def _no_nulls(meta: pq.FileMetaData, group: int, leaf: int) -> bool:
    if meta.schema.column(leaf).max_definition_level == 0 or meta.row_group(group).num_rows == 0:
        return True
    statistics = meta.row_group(group).column(leaf).statistics
    return statistics is not None and bool(statistics.has_null_count) and statistics.null_count == 0


def _remote_parquet(item: _Input, context: _Context) -> Iterator[_Part]:
    """The files behind a URL or a glob of URLs; their footers come through DuckDB, which knows the credentials."""
    con = connect(temp_dir=context.folder, memory_bytes=context.memory, remote=True)
    try:
        counts = con.sql(f"SELECT file_name, num_rows FROM parquet_file_metadata({literal(item.path)}) ORDER BY file_name").fetchall()
        for name, rows in counts:
            url = str(name)
            schema = con.sql(f"SELECT * FROM read_parquet({literal(url)}, hive_partitioning = false) LIMIT 0").to_arrow_table().schema
            flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
            clean = con.sql(
                "SELECT path_in_schema FROM parquet_metadata(" + literal(url) + ") GROUP BY 1 HAVING bool_and(stats_null_count = 0)"
            ).fetchall()
            without = {str(row[0]) for row in clean} & set(flat)
            nulls = frozenset(schema.names) - without if rows else frozenset()
            _check_names(schema.names, url)
            yield _Part(url, url, _spelled_parquet(schema, context), int(rows), nulls)
    except duckdb.Error as error:
        raise BadInput(f"{item.label}: cannot be read; {str(error).splitlines()[0]}.") from error
    finally:
        con.close()
    if not counts:
        raise BadInput(f"{item.label}: no file matches.")


def _stage_url(item: _Input, context: _Context) -> _Part | None:
    """Text behind a URL, read by DuckDB. Malformed rows are errors without a line of ours, and cannot be set aside."""
    if context.encoding not in (None, "utf_8", "utf_8_sig") or context.rejects.path is not None:
        raise BadArgument(f"{item.label}: encoding and rejects need a local file.", hint="download the file first.")
    path = context.new_path(item.partition)
    con = connect(temp_dir=context.folder, memory_bytes=context.memory, threads=context.workers, remote=True)
    try:
        if item.format == "csv":
            delimiter = context.delimiter or ("\t" if item.tab else ",")
            table = (
                f"read_csv({literal(item.path)}, header = true, all_varchar = true, delim = {literal(delimiter)}, "
                """quote = '"', escape = '"', strict_mode = true, allow_quoted_nulls = false, max_line_size = 134217728)"""
            )
            names = con.sql(f"SELECT * FROM {table} LIMIT 0").columns
            kept = [name for name in names if context.wants(name)] or names[:1]
            chosen = ", ".join(quote(name) for name in kept)
        else:
            form = "auto" if item.format == "json" else "newline_delimited"
            table = f"read_json_objects({literal(item.path)}, format = '{form}', maximum_object_size = 134217728)"
            chosen = "json::VARCHAR AS line"
        con.execute(f"COPY (SELECT {chosen} FROM {table}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480)")
    except duckdb.Error as error:
        raise BadInput(f"{item.label}: cannot be read; {str(error).splitlines()[0]}.") from error
    finally:
        con.close()
    if item.format == "csv":
        return _local_parquet(_Input(str(path), item.label, "parquet"), context)

    def read() -> Iterator[_Lines | Bad]:
        with pq.ParquetFile(path) as file:
            for number, batch in enumerate(file.iter_batches(4096)):
                yield _Lines(batch.column(0), None, None, number)

    return _stage_lines(item, context, read)


# --- one table ------------------------------------------------------------------------------------------------------------------------


def _unite(parts: Sequence[_Part]) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files by name, and which of them may hold nulls."""
    types: dict[str, pa.DataType] = {}
    first: dict[str, _Part] = {}
    spelled: dict[str, str] = {}
    nulls: set[str] = set()
    for part in parts:
        nulls |= part.nulls
        for field in part.schema:
            other = spelled.setdefault(_plain(field.name), field.name)
            if other != field.name:
                raise BadInput(f"{part.label}: the column {field.name!r} is spelled {other!r} in {first[other].label}.", hint="rename one.")
            if field.name not in types:
                types[field.name], first[field.name] = field.type, part
                continue
            both = _common(types[field.name], field.type)
            if both is None:
                before = first[field.name]
                raise BadInput(
                    f"{part.label}: the column {field.name!r} is {field.type}, but {types[field.name]} in {before.label}.",
                    hint="give the files the same types, or read them one by one.",
                )
            types[field.name] = both
    for name in types:
        if any(name not in part.schema.names for part in parts):
            nulls.add(name)
    partitions = [dict(part.partition) for part in parts]
    for key in partitions[0] if partitions else ():
        same = spelled.get(_plain(key), key)
        types.pop(same, None)
        nulls.discard(same)
        types[key] = pa.string()  # the folder's value wins over a column of the same name, as in every engine
        if any(values[key] == _DEFAULT_PARTITION for values in partitions):
            nulls.add(key)
    known = [(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()]
    return pa.schema(known), frozenset(nulls)


def _common(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, None where there is none."""
    if one.equals(two) or pa.types.is_null(two):
        return one
    if pa.types.is_null(one):
        return two
    texts = pa.types.is_string, pa.types.is_large_string
    if any(t(one) for t in texts) != any(t(two) for t in texts) or pa.types.is_boolean(one) != pa.types.is_boolean(two):
        return None
    if pa.types.is_floating(one) or pa.types.is_floating(two):
        numbers = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
        return pa.float64() if all(any(t(kind) for t in numbers) for kind in (one, two)) else None
    if pa.types.is_struct(one) and pa.types.is_struct(two):
        fields = {field.name: field.type for field in one}
        for field in two:
            both = _common(fields[field.name], field.type) if field.name in fields else field.type
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct(list(fields.items()))
    lists = pa.types.is_list, pa.types.is_large_list
    if any(t(one) for t in lists) and any(t(two) for t in lists):
        both = _common(one.value_type, two.value_type)
        return None if both is None else (pa.list_(both) if pa.types.is_list(one) and pa.types.is_list(two) else pa.large_list(both))
    try:
        united = pa.unify_schemas([pa.schema([("x", one)]), pa.schema([("x", two)])], promote_options="permissive")
    except pa.ArrowException:
        return None
    return united.field(0).type
