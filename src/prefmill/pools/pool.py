"""A pool of candidates as scoring wants it: whole prompt groups, in chunks, out of core.

One narrow pass reads a 64-bit hash of every prompt and of every row. The row hashes name the
content (a changed input is found out); the prompt hashes say which rows to put side by side. They
decide nothing else: two prompts with one hash would share a chunk, never a score. Where rows of a
prompt do not stand together, DuckDB sorts the texts into one file, spilling to disk. Chunks depend
on the input alone. Memory: about 40 bytes a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.connection import connect, literal, quote
from prefmill.errors import ColumnMissing
from prefmill.pools.columns import check_texts, others_of, rows_of_texts, text_roles
from prefmill.pools.sides import Sides, names_of, staged
from prefmill.pools.stream import LARGEST_GROUP, paths_of, starts_of_groups
from prefmill.readers import Source, open_source
from prefmill.shapes.source import (
    columns_of,
    in_one_file,
    is_plain,
    plain_names,
    spelled,
    words_in,
)
from prefmill.table.fits import fits_files
from prefmill.table.roles import RoleNames, Roles

Longs = npt.NDArray[np.int64]
_READ_ROWS = 32_768


@dataclass(frozen=True)
class Chunk:
    """Some whole prompt groups: their rows' positions in the input, and their batch.

    The batch has the columns prompt, completion, group and others.
    """

    number: int
    positions: Longs
    batch: pa.RecordBatch


@dataclass(frozen=True)
class Pool:
    """Rows of prompt and completion in scoring order; plain enough to be sent to another process.

    relation  the rows that can be scored, as DuckDB reads them
    rows      of the input
    order     positions of the rows that can be scored, shape (scorable,); None: all, in order
    starts    where groups begin, in places of `order`, shape (groups,)
    bounds    where chunks begin and end, in places of `order`, shape (chunks + 1,)
    others    further columns of the input that the scorer reads
    whole     no group is cut, however many rows it has
    sides     the records, where each row is one of a record's answers side by side
    together  rows of a prompt stand together, also those that cannot be scored
    made      files of ours that `relation` reads
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
    sides: Sides | None = None
    together: bool = False
    made: tuple[str, ...] = ()

    @property
    def records(self) -> Source:
        """The input as its owner knows it."""
        return self.sides.records if self.sides else self.source

    def in_chunks(self, chunk_rows: int) -> Pool:
        """The same pool in chunks of about `chunk_rows` rows."""
        bounds = _bounds(self.starts, int(self.bounds[-1]), chunk_rows, whole=self.whole)
        return replace(self, bounds=bounds)

    def only(self, places: Longs, home: Path) -> Pool:
        """The rows at `places` of the scoring order (ascending) as what can be scored, in a file.

        `rows` stays that of the input.
        """
        groups = np.searchsorted(self.starts, places, side="right")
        texts = ", ".join(["prompt", "completion", *map(quote, self.others)])
        with self._connected(home) as con:
            path = home / "only.parquet"
            relation = _sorted(con, f"({self.relation})", texts, places, path)
        return replace(
            self,
            relation=relation,
            order=places if self.order is None else self.order[places],
            starts=_starts(groups),
            bounds=np.array([0, len(places)]),
            made=(str(path),),
        )

    def rows_of(self, tokens: int, home: Path, *, least: int) -> int:
        """About how many rows have so many tokens, of four bytes each; `least` or more.

        The first rows tell.
        """
        with self._connected(home) as con:
            first = con.sql(f"FROM ({self.relation}) LIMIT {_READ_ROWS}").to_arrow_table()
        bytes_a_row: int = max(1, first.nbytes // max(1, first.num_rows))
        return max(least, 4 * tokens // bytes_a_row)

    def _connected(self, home: Path) -> duckdb.DuckDBPyConnection:
        """A connection that reads the pool, also in another process than the one that made it."""
        return connected(home, self.source, made=self.made)

    @property
    def sizes(self) -> Longs:
        """Rows of each chunk, shape (chunks,)."""
        return np.diff(self.bounds)

    def positions(self, number: int) -> Longs:
        """Where the rows of a chunk stand in the input."""
        first, last = self.bounds[number], self.bounds[number + 1]
        return np.arange(first, last) if self.order is None else self.order[first:last]

    def chunks(self, wanted: Sequence[int], home: Path) -> Iterator[Chunk]:
        """The chunks `wanted` (ascending), in order; what lies between is read and let go."""
        if not wanted:
            return
        con = self._connected(home)
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
            yield Chunk(number, self.positions(number), self._batch(table))

    def _batch(self, table: pa.Table) -> pa.RecordBatch:
        names = ("prompt", "completion", *self.others)
        columns = {name: table[name].combine_chunks() for name in names}
        group = pa.array(np.cumsum(starts_of_groups(columns["prompt"])), pa.int64())
        prompt, completion = columns.pop("prompt"), columns.pop("completion")
        return pa.record_batch(
            {"prompt": prompt, "completion": completion, "group": group, **columns}
        )

    def all_rows(self, home: Path) -> Iterator[pa.RecordBatch]:
        """The input as it is: every row and column, in order."""
        records = self.records
        columns = ", ".join(quote(name) for name in records.columns.names)
        con = connected(home, records)
        rows = con.sql(f"SELECT {columns} FROM {records.relation}")
        yield from rows.to_arrow_reader(_READ_ROWS)

    def name_of(self, position: int, home: Path) -> str:
        """A row as its owner knows it: by its place in its file, and its id where there is one."""
        records, side = self.records, ""
        if self.sides:
            position, place = divmod(position, len(self.sides.names))
            side = f", {self.sides.names[place]}"
        if not self.roles.id:
            return records.place_of(position, home=home) + side
        table = f"{records.relation} LIMIT 1 OFFSET {position}"
        with connected(home, records) as con:
            ((name,),) = con.execute(f"SELECT {quote(self.roles.id)} FROM {table}").fetchall()
        return records.place_of(position, name, home=home) + side


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
    """The pool in `inputs`: files, globs, folders or URLs, or what `stream.reader_of` takes.

    reads  further columns to carry along (None: all)
    whole  no prompt is cut, however many rows it has

    Pairs, and other answers side by side, are a row for each answer (`Pool.sides`).

    Cost: one pass over prompts and completions, and for input that is not clustered by prompt one
    sort of them, both in DuckDB.
    """
    words = words_in(None, {**named, "score": None})

    def needs(columns: Sequence[str]) -> Sequence[str] | None:
        if sides := names_of(columns, named):
            prompt = str(named.get("prompt") or "prompt")
            return [*sides, *([prompt] if prompt in columns else [])]
        if not is_plain(words, columns):
            return columns_of(words, columns)
        try:
            roles = text_roles(columns, plain_names(words), where="score")
        except ColumnMissing:
            return None
        return [roles.prompt, roles.completion]

    limits: dict[str, Any] = {"memory_bytes": memory_bytes, "threads": threads}
    source = open_source(
        paths_of(inputs, home),
        temp_dir=home,
        needs=needs,
        named=spelled(words),
        **limits,
        **reading,
    )
    pairs = bool(names_of(source.columns.names, named))
    rowed = rows_of_texts(
        source, words, home, where="score", extra=reads or (), side_by_side=pairs, **limits
    )
    sides = None
    if made := staged(source, rowed, home, reads=reads, **limits):
        ids: RoleNames = {"id": named["id"]} if named.get("id") else {}
        roles = Roles(id=text_roles(source.columns.names, ids, where="score", required=()).id)
        sides, source = made
        columns = source.columns.names
    else:
        source = in_one_file(rowed, home, **limits)
        columns, fits = source.columns.names, fits_files(source.files)
        roles = text_roles(columns, rowed.names, where="score", fits=fits)
    check_texts(source, roles, where="score")
    others = others_of(reads, columns, roles)
    prompt, completion = quote(roles.prompt), quote(roles.completion)
    more = "".join(f", {quote(name)}" for name in others)
    texts = f"{prompt} AS prompt, {completion} AS completion{more}"
    made_here: tuple[str, ...] = ()
    with connected(home, source, **limits) as con:
        hashed = _hashed(con, source, prompt, completion, more)
        order, starts, clustered = _grouped(hashed.prompts, hashed.usable)
        if clustered:
            relation = (
                f"SELECT {texts} FROM {source.relation}"
                f" WHERE {prompt} IS NOT NULL AND {completion} IS NOT NULL"
            )
        else:
            path = home / "clustered.parquet"
            made_here = (str(path),)
            relation = _sorted(con, source.relation, texts, order, path)
    everything = clustered and len(order) == source.rows
    return Pool(
        source=source,
        roles=roles,
        relation=relation,
        rows=source.rows,
        null_prompts=hashed.null_prompts,
        null_completions=source.rows - len(order) - hashed.null_prompts,
        order=None if everything else order,
        starts=starts,
        bounds=_bounds(starts, len(order), chunk_rows, whole=whole),
        identity=f"duckdb-{duckdb.__version__}:{hashed.content}",
        others=tuple(others),
        whole=whole,
        sides=sides,
        together=clustered and _stand_together(hashed),
        made=made_here,
    )


def connected(
    home: Path, *sources: Source, made: Collection[str] = (), **limits: int | None
) -> duckdb.DuckDBPyConnection:
    """A connection that reads `sources` and files that were `made` of them, in their order."""
    remote = any(source.remote for source in sources)
    reads = [*made, *(file for source in sources for file in source.reads)]
    return connect(temp_dir=home, reads=reads, remote=remote, ordered=True, **limits)


@dataclass(frozen=True)
class _Hashed:
    """Hashes of all prompts, shape (rows,); which rows can be scored, and which have a prompt; a
    hash of the content.
    """

    prompts: npt.NDArray[np.uint64]
    usable: Longs
    told: npt.NDArray[np.bool_]
    null_prompts: int
    content: str


def _hashed(
    con: duckdb.DuckDBPyConnection, source: Source, prompt: str, completion: str, more: str
) -> _Hashed:
    """The narrow pass; the columns are quoted."""
    prompts = np.empty(source.rows, np.uint64)
    no_prompt, no_completion = np.empty((2, source.rows), bool)
    digest, start = hashlib.sha256(), 0
    hashes = con.sql(
        f"SELECT hash({prompt}), hash({prompt}, {completion}{more}),"
        f" {prompt} IS NULL, {completion} IS NULL FROM {source.relation}"
    )
    for batch in hashes.to_arrow_reader(_READ_ROWS):
        end = start + batch.num_rows
        prompts[start:end] = batch.column(0).to_numpy()
        digest.update(np.ascontiguousarray(batch.column(1).to_numpy()).tobytes())
        no_prompt[start:end] = batch.column(2).to_numpy(zero_copy_only=False)
        no_completion[start:end] = batch.column(3).to_numpy(zero_copy_only=False)
        start = end
    usable = np.flatnonzero(~(no_prompt | no_completion))
    return _Hashed(prompts, usable, ~no_prompt, int(no_prompt.sum()), digest.hexdigest()[:32])


def _grouped(prompts: npt.NDArray[np.uint64], usable: Longs) -> tuple[Longs, Longs, bool]:
    """Positions in scoring order, where groups start among them, and whether they were in order.

    Groups come in the order of their first row, rows of a group in the order of the input.
    """
    hashes = prompts[usable]
    starts = _starts(hashes)
    if len(np.unique(hashes[starts])) == len(starts):
        return usable, starts, True
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    return usable[order], _starts(first[inverse][order]), False


def _stand_together(hashed: _Hashed) -> bool:
    """Whether no prompt comes again after another, or after a row without one."""
    keys, told = hashed.prompts, hashed.told
    begins = np.append(True, (keys[1:] != keys[:-1]) | ~told[:-1])[: len(keys)] & told
    heads = keys[begins]
    return len(np.unique(heads)) == len(heads)


def _starts(keys: npt.NDArray[Any]) -> Longs:
    """Where runs of equal keys begin, shape (runs,)."""
    if not len(keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _bounds(starts: Longs, rows: int, chunk_rows: int, *, whole: bool) -> Longs:
    """Chunks of about `chunk_rows` rows that begin where groups do.

    Without `whole` a group of more than 16 chunks' rows is cut.
    """
    ends = np.append(starts[1:], rows)
    bounds = [0]
    while bounds[-1] < rows:
        here = bounds[-1]
        # Groups that end within reach; where none does, the next one is taken whole.
        fitting = int(np.searchsorted(ends, here + chunk_rows, side="right"))
        if not fitting or ends[fitting - 1] <= here:
            fitting = min(fitting, len(ends) - 1) + 1
        end = int(ends[fitting - 1])
        bounds.append(end if whole else min(end, here + LARGEST_GROUP * chunk_rows))
    return np.asarray(bounds, np.int64)


def _sorted(
    con: duckdb.DuckDBPyConnection, relation: str, columns: str, order: Longs, path: Path
) -> str:
    """The columns in the order `order`, as a query over one file."""
    con.register("wanted", pa.table({"__pos": order, "__place": np.arange(len(order))}))
    numbered = f"SELECT row_number() OVER () - 1 AS __pos, {columns} FROM {relation}"
    con.execute(
        f"COPY (SELECT * EXCLUDE (__pos, __place) FROM ({numbered}) JOIN wanted USING (__pos)"
        f" ORDER BY __place) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
    )
    con.unregister("wanted")
    return f"SELECT * FROM read_parquet({literal(str(path))}, hive_partitioning = false)"
