"""Any source as Arrow batches, whole prompt groups of them, and work done ahead in a thread.

source ──reader_of──▶ batches ──whole_groups──▶ tables that cut no prompt
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prefmill.errors import BadArgument, BadInput
from prefmill.readers.staging import first_line, plain_schema
from prefmill.table.conform import NotHeld, conformed, uncoded
from prefmill.table.json_values import holds, is_marked, without_marks

_T = TypeVar("_T")
CHUNK_ROWS = 512
# Times chunk_rows: a prompt with more candidates is cut where nothing compares them, which costs
# sharing and nothing else.
LARGEST_GROUP = 16
READ_ROWS = 8192
#: What columns of Python numbers may be: whole numbers that int64 does not hold come after.
_KINDS = (None, pa.uint64(), pa.decimal128(38, 0))


def reader_of(source: Any, *, rows: int = READ_ROWS) -> pa.RecordBatchReader:
    """`source` as a stream of record batches of about `rows` rows; nothing is read yet.

    Types are plain Arrow types (no views, no dictionaries). Takes a Polars LazyFrame or DataFrame,
    a DuckDB relation, a `datasets` Dataset or IterableDataset, a pyarrow Table, RecordBatch,
    RecordBatchReader or dataset, and whatever has `__arrow_c_stream__`. A source that can be read
    once is used up.

    >>> reader_of(pa.table({"prompt": ["p"], "completion": ["a"]})).read_all().num_rows
    1
    """
    reader = _reader_of(source, rows)
    plain = plain_schema(reader.schema)
    if reader.schema.equals(plain):
        return reader
    json_columns = [field.name for field in reader.schema if holds(field.type, is_marked)]
    if json_columns:
        raise BadInput(
            f"stream: the column {json_columns[0]!r} is JSON text (arrow.json),"
            " and a stream's types must be known at once.",
            hint="give it as files, a table or a Dataset that is not streamed: those are decoded;"
            " or cast it to text or messages.",
        )

    def batches() -> Iterator[pa.RecordBatch]:
        for table in reader_tables(reader):
            yield from uncoded(without_marks(table)).cast(plain).to_batches()

    return pa.RecordBatchReader.from_batches(plain, batches())


def reader_tables(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The batches of `reader`, each as a table."""
    for batch in reader:
        yield pa.Table.from_batches([batch])


def tables_of(source: Any, *, rows: int = READ_ROWS) -> Iterator[pa.Table]:
    """`source` as tables of about `rows` rows, each with the types that it has there.

    A stream of rows without features has the types of each batch: a key that only later rows have,
    or a fraction after whole numbers.
    """
    if type(source).__module__.partition(".")[0] == "datasets":
        yield from _tables_of_dataset(source, rows)
    else:
        reader = _reader_of(source, rows)
        yield reader.schema.empty_table()  # a source without rows has columns all the same
        yield from reader_tables(reader)


def _reader_of(source: Any, rows: int) -> pa.RecordBatchReader:
    if isinstance(source, pa.RecordBatchReader):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(source.schema, [source])
    if isinstance(source, pa.Table):
        return source.to_reader(max_chunksize=rows)
    module = type(source).__module__.partition(".")[0]
    if module == "polars" and hasattr(source, "collect_batches"):
        # A LazyFrame: run by the streaming engine, batch by batch.
        return pa.RecordBatchReader.from_stream(source.collect_batches(chunk_size=rows))
    if module in ("duckdb", "_duckdb"):
        return source.to_arrow_reader(rows)
    if module == "datasets":
        return _reader_of_dataset(source, rows)
    if hasattr(source, "to_reader"):
        return source.to_reader()
    if hasattr(source, "scanner"):
        return source.scanner(batch_size=rows).to_reader()
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source)
    raise BadArgument(
        f"stream: cannot read batches from a {type(source).__name__};"
        " expected files, a Polars, DuckDB, datasets or pyarrow source.",
        hint="pa.RecordBatchReader.from_batches(schema, batches) wraps any iterator of batches.",
    )


def _reader_of_dataset(source: Any, rows: int) -> pa.RecordBatchReader:
    tables = _tables_of_dataset(source, rows)
    first = next(tables)
    schema = first.schema

    def batches() -> Iterator[pa.RecordBatch]:
        for number, table in enumerate(itertools.chain([first], tables)):
            try:
                yield from conformed(table, schema).to_batches()
            except NotHeld as error:
                start = number * rows
                raise BadInput(
                    f"stream: rows {start} to {start + table.num_rows - 1} do not have the types"
                    f" of the first; {error}.",
                    hint="say what the types are: ds.cast(Features(...)),"
                    " or Features where the dataset is made.",
                ) from None

    return pa.RecordBatchReader.from_batches(schema, batches())


def _tables_of_dataset(source: Any, rows: int) -> Iterator[pa.Table]:
    """Its rows as tables, at least one."""
    if hasattr(source, "keys"):
        splits = sorted(source)
        split = "train" if "train" in splits else splits[0]
        raise BadArgument(
            f"stream: a dataset with splits; got {splits}, expected one of them.",
            hint=f"pass one of them, for example dataset[{split!r}].",
        )
    first = 0
    for batch in source.with_format("arrow" if source.features else None).iter(batch_size=rows):
        table = batch if isinstance(batch, pa.Table) else _table_of(batch, first)
        first += table.num_rows
        yield table
    if not first:
        if source.features is None:
            raise BadInput(
                "stream: the dataset has no rows, and no features that say what its columns are."
            )
        yield source.features.arrow_schema.empty_table()


def _table_of(columns: Mapping[str, Sequence[Any]], first: int) -> pa.Table:
    """Python values as a table, each column of the type that holds all of them.

    An error names the rows, of which `first` is the number of the first.
    """
    arrays = []
    for name, values in columns.items():
        reasons = []
        for kind in _KINDS:
            try:
                arrays.append(pa.array(values, kind))
                break
            except (pa.ArrowException, OverflowError) as error:
                reasons.append(first_line(error))
        else:
            raise BadInput(
                f"stream: rows {first} to {first + len(values) - 1}: the column {name!r} holds"
                f" values of several kinds; {reasons[0]}.",
                hint="make them of one kind, or say what the types are:"
                " Features where the dataset is made.",
            )
    return pa.Table.from_arrays(arrays, names=list(columns))


def paths_of(inputs: Any, home: Path) -> list[str]:
    """`inputs` as paths; what is in memory goes to Parquet files in `home`, batch by batch."""
    if isinstance(inputs, str | Path):
        return [str(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return [str(each) for each in inputs]
    import pyarrow.parquet as pq

    paths: list[str] = []
    file: pq.ParquetWriter | None = None
    try:
        for table in tables_of(inputs):
            # Parquet's writer cannot slice nested views.
            if any(holds(field.type, pa.types.is_string_view) for field in table.schema):
                table = uncoded(without_marks(table)).cast(plain_schema(table.schema))
            # A file for each schema: reading unites the types of files.
            if file is None or not file.schema.equals(table.schema):
                if file is not None:
                    file.close()
                paths.append(str(home / f"source-{len(paths)}.parquet"))
                options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
                file = pq.ParquetWriter(paths[-1], table.schema, **options)
            file.write_table(table)
    finally:
        if file is not None:
            file.close()
    return paths


def starts_of_groups(prompts: pa.Array) -> npt.NDArray[np.bool_]:
    """Which rows have another prompt than the row before, shape (rows,); the first row has.

    Message lists compare by structure.
    """
    if len(prompts) == 0:
        return np.zeros(0, bool)
    if pa.types.is_nested(prompts.type):
        values = prompts.to_pylist()
        return np.array([True, *(one != other for one, other in itertools.pairwise(values))])
    other = pc.not_equal(prompts[1:], prompts[:-1])
    nulls = np.asarray(prompts.is_null())
    differ = np.asarray(pc.fill_null(other, False)) | (nulls[1:] != nulls[:-1])
    return np.concatenate(([True], differ))


def whole_groups(
    batches: Iterable[pa.RecordBatch],
    *,
    prompt: str | Sequence[str] = "prompt",
    rows: int = CHUNK_ROWS,
    largest: int | None = LARGEST_GROUP,
) -> Iterator[pa.Table]:
    """Chunks of about `rows` rows that never cut a run of equal prompts, whatever the batches were.

    Prompts are the column `prompt`, or columns. A run of more than `largest` times `rows` is cut
    all the same, to bound memory; with None never.

    >>> batches = pa.table({"prompt": ["p", "p", "q", "q", "r"]}).to_batches(max_chunksize=1)
    >>> [chunk["prompt"].to_pylist() for chunk in whole_groups(batches, rows=2)]
    [['p', 'p'], ['q', 'q'], ['r']]
    """
    columns = [prompt] if isinstance(prompt, str) else list(prompt)
    most = None if largest is None else largest * rows
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count <= rows:
            continue
        table = pa.Table.from_batches(held)
        done = 0
        for cut in _cuts(_heads(table, columns), count, rows, most):
            yield table.slice(done, cut - done)
            done = cut
        held, count = table.slice(done).to_batches(), count - done
    if count:
        yield pa.Table.from_batches(held)


def _heads(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """The first row of every group."""
    starts = [starts_of_groups(table[name].combine_chunks()) for name in columns]
    return np.flatnonzero(np.logical_or.reduce(starts))


def _cuts(heads: npt.NDArray[np.int64], count: int, rows: int, most: int | None) -> Iterator[int]:
    """Where to cut `count` rows, until `rows` or fewer are left or more of a group may come."""
    done = 0
    while count - done > rows:
        place = int(np.searchsorted(heads, done + rows, side="right"))
        last = int(heads[place - 1])  # the last group that begins within reach
        following = int(heads[place]) if place < len(heads) else count
        if last > done:
            cut = last
        elif following < count or (most is not None and count - done > most):
            cut = following if most is None else min(following, done + most)
        else:
            return
        yield cut
        done = cut


def ahead(items: Iterable[_T], *, depth: int = 2, name: str = "prefmill-ahead") -> Iterator[_T]:
    """`items`, made in a thread of their own, at most `depth` of them before they are asked for.

    An exception there is raised here. When the iterator is closed the thread stops at its next
    item.

    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stop = threading.Event()
    end = object()

    def put(item: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            break

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stop.is_set():
                    return
            put((True, end))
        except BaseException as error:
            put((False, error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            fine, item = waiting.get()
            if not fine:
                raise item
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join(timeout=10)
