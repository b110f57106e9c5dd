"""Distinct prompts in the order of the input, in one Parquet file, out of core.

DuckDB finds the first row of every prompt by exact equality (text, or message lists by structure),
spilling to disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal, quote
from prefmill.errors import ColumnMissing
from prefmill.pools.columns import check_texts, rows_of_texts, text_roles
from prefmill.pools.stream import paths_of
from prefmill.readers import Source, open_source
from prefmill.shapes.source import in_one_file, words_in
from prefmill.table.chance import spelled
from prefmill.table.fits import fits_files

_READ_ROWS = 8192


@dataclass(frozen=True)
class DistinctPrompts:
    """The distinct prompts of an input.

    path      a Parquet file with the columns `row` (position in the input), `name` (the row's id as
              text, or null), `prompt`, and the kept ones as `keep0`, `keep1`, ..., of each prompt's
              first row
    keep      the names of the kept columns
    rows      of the input = count + nulls + duplicates
    identity  a hash of all prompts and kept values, in order
    source    the files
    """

    path: Path
    keep: tuple[str, ...]
    rows: int
    count: int
    nulls: int
    duplicates: int
    identity: str
    source: Source

    @property
    def schema(self) -> pl.Schema:
        """The columns `prompt` and the kept ones, by their own names, with their types."""
        types = pl.read_parquet_schema(self.path)
        kept = {name: types[f"keep{i}"] for i, name in enumerate(self.keep)}
        return pl.Schema({"prompt": types["prompt"], **kept})

    def slices(self, size: int, wanted: Sequence[int]) -> Iterator[tuple[int, pl.DataFrame]]:
        """The slices of `size` prompts whose numbers are in `wanted` (ascending).

        Each is (number, rows of the file).
        """
        left = list(wanted)
        if not left:
            return
        held: pl.DataFrame | None = None
        first = 0  # place of the first row held
        for frame in _frames(self.path):
            held = frame if held is None else pl.concat([held, frame])
            while left:
                start, end = left[0] * size, min((left[0] + 1) * size, self.count)
                if first + held.height < end:
                    break
                yield left.pop(0), held.slice(start - first, end - start)
            if not left:
                return
            done = min(held.height, max(0, left[0] * size - first))
            held, first = held.slice(done), first + done


def _frames(path: Path, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=columns):
            yield pl.DataFrame(pa.Table.from_batches([batch]))


def open_prompts(
    inputs: Any,
    prompt: str | None,
    home: Path,
    *,
    keep: Sequence[str] = (),
    id: str | None = None,
    where: str = "sample",
    memory_bytes: int | None = None,
    threads: int | None = None,
    words: Mapping[str, Any] | None = None,
    **reading: Any,
) -> DistinctPrompts:
    """The prompts in `inputs`: files, globs, folders or URLs, or what `stream.reader_of` takes.

    Their column is `prompt`, or one of its names in the field; `words` are further ones of
    `[rows]`. Raises `ColumnMissing`,
    `BadArgument`.
    """
    limits: dict[str, Any] = {"memory_bytes": memory_bytes, "threads": threads}
    source = open_source(paths_of(inputs, home), temp_dir=home, **limits, **reading)
    named = {**(words or {}), "prompt": prompt, "id": id}
    rowed = rows_of_texts(
        source, words_in(None, named), home, where=where, required=("prompt",), extra=keep, **limits
    )
    source = in_one_file(rowed, home, **limits)
    columns = source.columns.names
    fits = fits_files(source.files)
    roles = text_roles(columns, rowed.names, where=where, required=("prompt",), fits=fits)
    for name in keep:
        if name not in columns:
            raise ColumnMissing.for_role(where, "keep", name, columns)
    check_texts(source, roles, where=where)
    label = f"{quote(roles.id)}::VARCHAR" if roles.id else "NULL::VARCHAR"
    kept = "".join(f", {quote(name)} AS keep{i}" for i, name in enumerate(keep))
    path = home / "prompts.parquet"
    with connect(
        temp_dir=home, reads=source.reads, remote=source.remote, ordered=True, **limits
    ) as con:
        con.execute(
            f"CREATE VIEW numbered AS SELECT row_number() OVER () - 1 AS row, {label} AS name,"
            f" {quote(roles.prompt)} AS prompt{kept} FROM {source.relation}"
        )
        con.execute(
            "CREATE TABLE firsts AS SELECT min(row) AS row FROM numbered"
            " WHERE prompt IS NOT NULL GROUP BY prompt"
        )
        con.execute(
            "COPY (SELECT numbered.* FROM numbered JOIN firsts USING (row) ORDER BY row)"
            f" TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 8192)"
        )
        nulls = _count(con, "numbered WHERE prompt IS NULL")
        count = _count(con, "firsts")
        identity = _identity(con, path, len(keep))
    repeated = source.rows - nulls - count
    return DistinctPrompts(path, tuple(keep), source.rows, count, nulls, repeated, identity, source)


def _count(con: duckdb.DuckDBPyConnection, rows: str) -> int:
    ((count,),) = con.execute(f"SELECT count(*) FROM {rows}").fetchall()
    return int(count)


def _identity(con: duckdb.DuckDBPyConnection, path: Path, kept: int) -> str:
    """A hash of prompts and kept values.

    Prompts are spelled by us, kept values hashed by DuckDB, whose hashes may change with it.
    """
    digest = hashlib.sha256()
    for frame in _frames(path, ["prompt"]):
        for text in spelled(frame["prompt"]):
            data = text.encode()
            digest.update(b"%d:" % len(data) + data)
    if not kept:
        return digest.hexdigest()[:32]
    values = ", ".join(f"keep{i}" for i in range(kept))
    hashes = con.sql(f"SELECT hash({values}) FROM read_parquet({literal(str(path))}) ORDER BY row")
    for batch in hashes.to_arrow_reader(_READ_ROWS):
        digest.update(batch.column(0).to_numpy().tobytes())
    return f"duckdb-{duckdb.__version__}:{digest.hexdigest()[:32]}"
