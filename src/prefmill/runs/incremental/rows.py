"""The rows of some files of a source, and the index that tells which of them changed.

The index has a row for every row of input: the number of its file and its place in it, the class of
its group (a 64-bit hash of the key), a hash of its completion, and 128 bits of all that is read of
it. Work is done for whole classes: two keys of one hash are recomputed together, and the steps tell
them apart by equality.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from prefmill.connection import connect, literal, quote, share_of
from prefmill.engines import sql
from prefmill.engines.macros import install_used
from prefmill.errors import BadArgument
from prefmill.runs.job.job import Job

#: What the rows of an index are.
COLUMNS = "file, row, class, text, cells"
#: What `Files.relation` adds to the columns of the input: tools that load files call theirs `_row`.
FILE, ROW = "__prefmill_file", "__prefmill_row"
_POSITION = "_position"


def starts_of(rows: Sequence[int]) -> list[int]:
    """The position of the first row of each file.

    >>> starts_of([3, 0, 2])
    [0, 3, 3]
    """
    starts, total = [], 0
    for count in rows:
        starts.append(total)
        total += count
    return starts


def columns_of(job: Job) -> list[str]:
    """The columns of the input that the plan or the output reads."""
    roles = job.roles
    read = [roles.prompt, roles.completion, *job.program.read.columns().values()]
    return list(dict.fromkeys([*read, *job.assembly.keep]))


def connection(
    job: Job, *, memory_bytes: int | None, threads: int | None
) -> duckdb.DuckDBPyConnection:
    """A connection for what is no step of the plan; rows keep their order."""
    share = share_of(memory_bytes) if memory_bytes else None
    return connect(
        temp_dir=job.home,
        # Which parts of an earlier state are read shows while they are compared.
        reads=None,
        memory_bytes=share,
        threads=threads,
        remote=job.source.remote,
        ordered=True,
    )


class Files:
    """The files of a job's source as relations, all of them or some, in the types of them all."""

    def __init__(self, job: Job, con: duckdb.DuckDBPyConnection) -> None:
        self.job, self.con = job, con
        self.source = job.source
        read = {name.lower() for name in columns_of(job)}
        if _POSITION in read and not self.source.select:
            raise BadArgument(
                f"run: rows with ids have their place in {_POSITION!r}, and a column of the input"
                " has this name.",
                hint="rename it, or leave it out of --keep.",
            )
        self.starts = starts_of(self.source.file_rows)
        told = con.execute(f"DESCRIBE SELECT * FROM {self.source.relation}").fetchall()
        self._types = {name: kind for name, kind, *_ in told}

    def relation(self, numbers: Sequence[int], wanted: str = "") -> str:
        """A SELECT of `_position`, `FILE`, `ROW` and all columns, of the files of these numbers.

        `wanted` is a relation of (file, row): of each file only these rows.
        """
        if self.source.select:
            some = f"SELECT *, 0 AS {FILE}, _position AS {ROW} FROM {self.source.relation}"
            if wanted:
                some += f" SEMI JOIN {wanted} AS w ON w.row = _position"
            return some
        if len(numbers) == len(self.source.files) and not wanted:
            return (
                f"SELECT {self.source.position} AS _position, file_index::INTEGER AS {FILE},"
                f" file_row_number AS {ROW}, * FROM {self.source.relation}"
            )
        return " UNION ALL ".join(self._of_file(number, wanted) for number in numbers)

    def _of_file(self, number: int, wanted: str) -> str:
        hive = "hive_partitioning = false"
        if self.source.hive:
            hive = "hive_partitioning = true, hive_types_autocast = false"
        file = f"read_parquet({literal(self.source.files[number])}, {hive})"
        there = {name for name, *_ in self.con.execute(f"DESCRIBE FROM {file}").fetchall()}
        columns = ", ".join(
            f"{quote(name) if name in there else 'NULL'}::{kind} AS {quote(name)}"
            for name, kind in self._types.items()
        )
        some = ""
        if wanted:
            some = f" WHERE file_row_number IN (SELECT row FROM {wanted} WHERE file = {number})"
        return (
            f"SELECT {self.starts[number]} + file_row_number AS _position,"
            f" {number} AS {FILE}, file_row_number AS {ROW}, {columns} FROM {file}{some}"
        )


def _cell(name: str, kind: str) -> str:
    """A cell as text that says all of it."""
    text = f"{quote(name)}::VARCHAR"
    if any(mark in kind for mark in ("[", "(", "JSON", "MAP")) and "DECIMAL" not in kind:
        text = f"to_json({quote(name)})::VARCHAR"
    return f"coalesce(strlen({text})::VARCHAR || ':' || {text}, '-')"


def class_of(prompt: str, groups: Sequence[str]) -> str:
    """The class of a row, of expressions for its prompt and for the cells that group it."""
    key = prompt
    if groups:
        key = f"[{', '.join(f'{group}::VARCHAR' for group in groups)}]"
    return f"coalesce(pref_hash({key}, 'class'), 0)::UBIGINT"


def write_index(files: Files, relation: str, path: Path) -> None:
    """The index of the rows of `relation`, which `Files.relation` or a table like it gives."""
    job, con = files.job, files.con
    read = job.program.read
    columns = columns_of(job)
    groups = [f"_group{place}" for place in range(len(read.roles.group))]
    # A completion is long: it is hashed once, and its hash stands for it.
    completion = job.roles.completion
    others = [_cell(name, files._types[name]) for name in columns if name != completion]
    numbered = sql.numbered(read, f"({relation})", "_position", job.scalars).replace(
        "SELECT ",
        f"SELECT {FILE}, {ROW}, {' || '.join(others)} AS _others,"
        f" md5({_cell(completion, files._types[completion])}) AS _text, ",
        1,
    )
    query = (
        f"SELECT {FILE}::INTEGER AS file, {ROW}::BIGINT AS row,"
        f" {class_of('_prompt', groups)} AS class,"
        f" ('0x' || left(_text, 16))::UBIGINT AS text, unhex(md5(_text || _others)) AS cells"
        f" FROM ({numbered})"
    )
    install_used(con, [query])
    con.execute("SET preserve_insertion_order = false")
    con.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION snappy)")
    con.execute("SET preserve_insertion_order = true")


def positions_of(files: Files, index: str) -> str:
    """The relation of pos, class and text of `index`, the relation of an index of all rows."""
    listed = ", ".join(map(str, files.starts))
    return f"(SELECT ([{listed}]::BIGINT[])[file + 1] + row AS pos, class, text FROM {index})"


def write_rows(con: duckdb.DuckDBPyConnection, relation: str, path: Path) -> int:
    """The rows of `relation` as a Parquet file; how many they are."""
    ((rows,),) = con.execute(
        f"COPY ({relation}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION uncompressed)"
    ).fetchall()
    return int(rows)


def twins(con: duckdb.DuckDBPyConnection, index: str) -> None:
    """Make the table `twins` (pos, twin): rows whose completion the same group has before them.

    `index` is a relation of pos, class and text.
    """
    con.execute(
        "CREATE OR REPLACE TEMP TABLE twins AS SELECT * FROM ("
        " SELECT pos, row_number() OVER (PARTITION BY class, text ORDER BY pos) - 1 AS twin"
        f" FROM {index} SEMI JOIN"
        f" (SELECT class, text FROM {index} GROUP BY class, text HAVING count(*) > 1)"
        " USING (class, text)) WHERE twin > 0"
    )


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return pa.Table.from_batches([], schema=schema)
