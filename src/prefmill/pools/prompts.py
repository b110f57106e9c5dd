"""Prompts as sampling wants them: the distinct ones in the order of the input, in one Parquet file,
out of core.

DuckDB finds the first row of every prompt by exact equality (text, or message lists by structure),
spilling to disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.pools.stream import paths_of
from prefmill.readers import Source, open_source
from prefmill.table.chance import spelled
from prefmill.table.fits import fits_files
from prefmill.table.roles import Roles

_READ_ROWS = 8192


@dataclass(frozen=True)
class Prompts:
    """The distinct prompts of an input.

    path      a Parquet file with the columns `row` (position in the input), `name` (the row's id as
    text, or null), `prompt`, and the
              kept ones as `keep0`, `keep1`, ..., of each prompt's first row
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
        found = pl.read_parquet_schema(self.path)
        return pl.Schema(
            {
                "prompt": found["prompt"],
                **{name: found[f"keep{i}"] for i, name in enumerate(self.keep)},
            }
        )

    def slices(self, size: int, wanted: Sequence[int]) -> Iterator[tuple[int, pl.DataFrame]]:
        """The slices of `size` prompts whose numbers are in `wanted` (ascending), as (number, rows
        of the file).
        """
        left = list(wanted)
        if not left:
            return
        held: pl.DataFrame | None = None
        first = 0  # place of the first row held
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_READ_ROWS):
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
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


def open_prompts(
    inputs: Any,
    prompt: str | None,
    home: Path,
    *,
    keep: Sequence[str] = (),
    id: str | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    **reading: Any,
) -> Prompts:
    """The prompts in `inputs`: files, globs, folders or URLs, or what `stream.reader_of` takes.
    Their column is `prompt`, or one of its names in the field. Raises `ColumnMissing`,
    `BadArgument`."""
    source = open_source(
        paths_of(inputs, home), temp_dir=home, memory_bytes=memory_bytes, threads=threads, **reading
    )
    columns = list(source.columns.names)
    named: Any = {"prompt": prompt, "id": id}
    roles = Roles.resolve(
        columns,
        named,
        required=("prompt",),
        needed=("id",),
        where="sample",
        fits=fits_files(source.files),
    )
    for name in keep:
        if name not in columns:
            raise ColumnMissing.for_role("sample", "keep", name, columns)
    source.refuse_mixed(roles, where="sample")
    _check_type(roles.prompt, source.columns.field(roles.prompt).type)
    con = connect(temp_dir=home, memory_bytes=memory_bytes, threads=threads, remote=source.remote)
    con.execute("SET preserve_insertion_order = true")
    name = f"{quote(roles.id)}::VARCHAR" if roles.id else "NULL::VARCHAR"
    kept = "".join(f", {quote(name)} AS keep{i}" for i, name in enumerate(keep))
    con.execute(
        f"CREATE VIEW numbered AS SELECT row_number() OVER () - 1 AS row, {name} AS name, {quote(roles.prompt)} AS prompt{kept}"
        f" FROM {source.relation}"
    )
    con.execute(
        "CREATE TABLE firsts AS SELECT min(row) AS row FROM numbered WHERE prompt IS NOT NULL GROUP BY prompt"
    )
    path = home / "prompts.parquet"
    con.execute(
        f"COPY (SELECT numbered.* FROM numbered JOIN firsts USING (row) ORDER BY row) TO {literal(str(path))}"
        " (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 8192)"
    )
    ((nulls,),) = con.execute("SELECT count(*) FROM numbered WHERE prompt IS NULL").fetchall()
    ((count,),) = con.execute("SELECT count(*) FROM firsts").fetchall()
    content = _content(con, path, len(keep))
    con.close()
    return Prompts(
        path, tuple(keep), source.rows, count, nulls, source.rows - nulls - count, content, source
    )


def _check_type(name: str, kind: pa.DataType) -> None:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    messages = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(
        kind.value_type
    )
    if not (text or messages):
        raise BadArgument(
            f"sample: the column {name!r} cannot be the role 'prompt'; got {kind}, expected text or a list of messages {{role, content}}.",
            hint="name another column: prompt=COLUMN (--prompt COLUMN).",
        )


def _content(con: duckdb.DuckDBPyConnection, path: Path, kept: int) -> str:
    """A hash of prompts and kept values; prompts are spelled by us, kept values hashed by DuckDB,
    whose hashes may change with it.
    """
    digest = hashlib.sha256()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=["prompt"]):
            for text in spelled(pl.DataFrame(pa.Table.from_batches([batch]))["prompt"]):
                said = text.encode()
                digest.update(b"%d:" % len(said) + said)
    if not kept:
        return digest.hexdigest()[:32]
    values = ", ".join(f"keep{i}" for i in range(kept))
    for batch in con.sql(
        f"SELECT hash({values}) FROM read_parquet({literal(str(path))}) ORDER BY row"
    ).to_arrow_reader(_READ_ROWS):
        digest.update(batch.column(0).to_numpy().tobytes())
    return f"duckdb-{duckdb.__version__}:{digest.hexdigest()[:32]}"
