"""A pool of candidates as scoring wants it: whole prompt groups, in chunks that depend on the input
alone, out of core.

One narrow pass reads a 64-bit hash of every prompt and of every row. The row hashes name the
content (a changed input is found out); the prompt hashes say which rows to put side by side. They
decide nothing else: two prompts with one hash would share a chunk, never a score. Where rows of a
prompt do not stand together, DuckDB sorts the texts into one file, spilling to disk. Memory: about
40 bytes a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.pools.stream import others_of, paths_of, starts_of_groups, text_roles
from prefmill.readers import Source, open_source
from prefmill.table.fits import fits_files
from prefmill.table.roles import RoleNames, Roles

Longs = npt.NDArray[np.int64]
_READ_ROWS = 32_768
_LARGEST_GROUP = 16  # times chunk_rows


@dataclass(frozen=True)
class Chunk:
    """Some whole prompt groups: `number`, the rows' positions in the input, and their batch of
    prompt, completion, group and others.
    """

    number: int
    positions: Longs
    batch: pa.RecordBatch


@dataclass(frozen=True)
class Pool:
    """Rows of prompt and completion in scoring order; plain enough to be sent to another process.

    files, relation  what DuckDB reads, and how
    rows             of the input; `order` are the positions of those that can be scored, shape
    (scorable,), None: all, in order starts           where groups begin, in places of `order`,
    shape (groups,) bounds           where chunks begin and end, in places of `order`, shape (chunks
    + 1,) others           further columns of the input that the scorer reads
    whole            no group is cut, however many rows it has
    """

    source: Source
    roles: Roles
    relation: str
    rows: int
    null_prompts: int
    null_completions: int
    order: Longs | None
    starts: Longs
    bounds: Longs
    identity: str
    others: tuple[str, ...] = ()
    whole: bool = False

    def in_chunks(self, chunk_rows: int) -> Pool:
        """The same pool in chunks of about `chunk_rows` rows."""
        return replace(
            self, bounds=_bounds(self.starts, int(self.bounds[-1]), chunk_rows, whole=self.whole)
        )

    def rows_of(self, tokens: int, home: Path, *, least: int) -> int:
        """About how many rows have so many tokens, of four bytes each, by the first rows; `least`
        or more.
        """
        con = _connect(home, self.source, None, None)
        first = con.sql(f"FROM ({self.relation}) LIMIT {_READ_ROWS}").to_arrow_table()
        con.close()
        each: int = max(1, first.nbytes // max(1, first.num_rows))
        rows: int = max(least, 4 * tokens // each)
        return rows

    @property
    def sizes(self) -> Longs:
        """Rows of each chunk, shape (chunks,)."""
        return np.diff(self.bounds)

    def positions(self, number: int) -> Longs:
        """Where the rows of a chunk stand in the input."""
        first, last = self.bounds[number], self.bounds[number + 1]
        return np.arange(first, last) if self.order is None else self.order[first:last]

    def chunks(self, wanted: list[int], home: Path) -> Iterator[Chunk]:
        """The chunks `wanted` (ascending), read in order; what lies between is decoded and let
        go.
        """
        if not wanted:
            return
        con = _connect(home, self.source, None, None)
        reader = con.sql(self.relation).to_arrow_reader(_READ_ROWS)
        held: list[pa.RecordBatch] = []
        first = count = 0  # place of the first row held, rows held
        for number in wanted:
            start, end = int(self.bounds[number]), int(self.bounds[number + 1])
            while first + count < end:
                batch = reader.read_next_batch()
                held.append(batch)
                count += batch.num_rows
                while held and first + held[0].num_rows <= start:
                    first, count = first + held[0].num_rows, count - held[0].num_rows
                    held.pop(0)
            table = pa.Table.from_batches(held).slice(start - first, end - start)
            prompt, completion = (table[name].combine_chunks() for name in ("prompt", "completion"))
            group = pa.array(np.cumsum(starts_of_groups(prompt)), pa.int64())
            others = {name: table[name].combine_chunks() for name in self.others}
            batch = pa.record_batch(
                {"prompt": prompt, "completion": completion, "group": group, **others}
            )
            yield Chunk(number, self.positions(number), batch)

    def all_rows(self, home: Path) -> Iterator[pa.RecordBatch]:
        """The input as it is: every row and column, in order."""
        columns = ", ".join(quote(name) for name in self.source.columns.names)
        con = _connect(home, self.source, None, None)
        yield from con.sql(f"SELECT {columns} FROM {self.source.relation}").to_arrow_reader(
            _READ_ROWS
        )

    def name_of(self, position: int, home: Path) -> str:
        """A row as its owner knows it: by its place in its file, and its id where there is one."""
        if not self.roles.id:
            return self.source.place_of(position, home=home)
        con = _connect(home, self.source, None, None)
        query = (
            f"SELECT {quote(self.roles.id)} FROM {self.source.relation} LIMIT 1 OFFSET {position}"
        )
        ((found,),) = con.execute(query).fetchall()
        return self.source.place_of(position, found, home=home)


def open_pool(
    inputs: Any,
    named: RoleNames,
    home: Path,
    *,
    chunk_rows: int,
    reads: Sequence[str] | None = (),
    whole: bool = True,
    memory_bytes: int | None = None,
    threads: int | None = None,
    **reading: Any,
) -> Pool:
    """The pool in `inputs`: files, globs, folders or URLs, or what `stream.reader_of` takes (which
    goes to a Parquet file in `home`).

    reads: further columns to carry along (None: all). whole: no prompt is cut, however many rows
    it has.

    Cost: one pass over prompts and completions, and for input that is not clustered by prompt one
    sort of them, both in DuckDB.
    """

    def needs(columns: Sequence[str]) -> Sequence[str]:
        try:
            roles = text_roles(list(columns), named, where="score")
        except ColumnMissing:
            return columns
        return [roles.prompt, roles.completion]

    paths = paths_of(inputs, home)
    source = open_source(
        paths, temp_dir=home, memory_bytes=memory_bytes, threads=threads, needs=needs, **reading
    )
    roles = text_roles(
        list(source.columns.names), named, where="score", fits=fits_files(source.files)
    )
    source.refuse_mixed(roles, where="score")
    for role, name in (("prompt", roles.prompt), ("completion", roles.completion)):
        _check_type(role, name, source.columns.field(name).type)
    con = _connect(home, source, memory_bytes, threads)
    prompt, completion = quote(roles.prompt), quote(roles.completion)
    others = others_of(reads, source.columns.names, roles)
    more = "".join(f", {quote(name)}" for name in others)
    relation = source.relation
    query = (
        f"SELECT hash({prompt}) AS p, hash({prompt}, {completion}{more}) AS r, {prompt} IS NULL AS np, {completion} IS NULL AS nc"
        f" FROM {relation}"
    )
    prompts, null_p, null_c = (
        np.empty(source.rows, np.uint64),
        np.empty(source.rows, bool),
        np.empty(source.rows, bool),
    )
    digest, at = hashlib.sha256(), 0
    for batch in con.sql(query).to_arrow_reader(_READ_ROWS):
        end = at + batch.num_rows
        prompts[at:end] = batch.column(0).to_numpy()
        null_p[at:end], null_c[at:end] = (
            batch.column(i).to_numpy(zero_copy_only=False) for i in (2, 3)
        )
        digest.update(np.ascontiguousarray(batch.column(1).to_numpy()).tobytes())
        at = end
    usable = np.flatnonzero(~(null_p | null_c))
    order, starts, clustered = _grouped(prompts, usable)
    columns = f"{prompt} AS prompt, {completion} AS completion{more}"
    texts = (
        f"SELECT {columns} FROM {relation} WHERE {prompt} IS NOT NULL AND {completion} IS NOT NULL"
    )
    if not clustered:
        texts = _sorted(con, relation, columns, order, home / "clustered.parquet")
    con.close()
    everything = clustered and len(usable) == source.rows
    return Pool(
        source=source,
        roles=roles,
        relation=texts,
        rows=source.rows,
        null_prompts=int(null_p.sum()),
        null_completions=int((null_c & ~null_p).sum()),
        order=None if everything else order,
        starts=starts,
        bounds=_bounds(starts, len(usable), chunk_rows, whole=whole),
        identity=f"duckdb-{duckdb.__version__}:{digest.hexdigest()[:32]}",
        others=tuple(others),
        whole=whole,
    )


def _check_type(role: str, name: str, kind: pa.DataType) -> None:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    messages = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(
        kind.value_type
    )
    if not (text or messages):
        raise BadArgument(
            f"score: the column {name!r} cannot be the role {role!r}; got {kind}, expected text or a list of messages {{role, content}}.",
            hint=f"name another column: {role}=COLUMN (--{role} COLUMN).",
        )


def _connect(
    home: Path, source: Source, memory_bytes: int | None, threads: int | None
) -> duckdb.DuckDBPyConnection:
    con = connect(temp_dir=home, memory_bytes=memory_bytes, threads=threads, remote=source.remote)
    con.execute("SET preserve_insertion_order = true")
    return con


def _grouped(prompts: npt.NDArray[np.uint64], usable: Longs) -> tuple[Longs, Longs, bool]:
    """The positions in scoring order, where groups start among them, and whether the input has that
    order already.

    Groups come in the order of their first row, rows of a group in the order of the input.
    """
    hashes = prompts[usable]
    if not len(hashes):
        return usable, np.zeros(0, np.int64), True
    runs = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    if len(np.unique(hashes[runs])) == len(runs):
        return usable, runs, True
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    grouped = first[inverse][order]
    return (
        usable[order],
        np.flatnonzero(np.concatenate(([True], grouped[1:] != grouped[:-1]))),
        False,
    )


def _bounds(starts: Longs, rows: int, chunk_rows: int, *, whole: bool) -> Longs:
    """Chunks of about `chunk_rows` rows that begin where groups do; without `whole` a group of more
    than 16 chunks' rows is cut.
    """
    ends = np.append(starts[1:], rows)
    bounds = [0]
    while bounds[-1] < rows:
        here = bounds[-1]
        fitting = int(
            np.searchsorted(ends, here + chunk_rows, side="right")
        )  # groups that end within reach
        end = (
            int(ends[fitting - 1])
            if fitting and ends[fitting - 1] > here
            else int(ends[min(fitting, len(ends) - 1)])
        )
        bounds.append(end if whole else min(end, here + _LARGEST_GROUP * chunk_rows))
    return np.asarray(bounds, np.int64)


def _sorted(
    con: duckdb.DuckDBPyConnection, relation: str, columns: str, order: Longs, path: Path
) -> str:
    """The columns in the order `order`, as a query over one file."""
    con.register("wanted", pa.table({"__pos": order, "__place": np.arange(len(order))}))
    con.execute(
        f"COPY (SELECT * EXCLUDE (__pos, __place) FROM (SELECT row_number() OVER () - 1 AS __pos, {columns}"
        f" FROM {relation}) JOIN wanted USING (__pos) ORDER BY __place) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
    )
    con.unregister("wanted")
    return f"SELECT * FROM read_parquet({literal(str(path))}, hive_partitioning = false)"
