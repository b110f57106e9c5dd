"""The rows of groups that changed: a file of them, and that file as an input of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import duckdb

from prefmill.connection import literal
from prefmill.runs.incremental.affected import Plan, index_of
from prefmill.runs.incremental.rows import FILE, ROW, Files, write_rows
from prefmill.runs.incremental.state import InputFile
from prefmill.runs.job.job import Job
from prefmill.shapes.source import Rowed
from prefmill.table.roles import RoleNames


@dataclass(frozen=True)
class Changed:
    """What changed: groups, their rows in a file, and files of the input that were not read."""

    path: Path
    groups: int
    rows: int
    unread: int


def subset(
    read: Files,
    con: duckdb.DuckDBPyConnection,
    files: Sequence[InputFile],
    homes: Mapping[str, Path],
    plan: Plan,
    *,
    home: Path,
    most: float,
) -> tuple[Path, int, int]:
    """The rows of affected groups as a file, with `_position`; also how many, and how many
    files were not read.

    The file is made in `home`, where no more than `most` rows are read. Its tables are `wanted`,
    and `subset.parquet` next to it says at which position each row is.
    """
    made = set(plan.fresh)
    for name, some in (
        ("kept", {n: file for n, file in enumerate(files) if n not in made}),
        ("made", {n: files[n] for n in made}),
    ):
        rows_of = index_of(some, homes, "row, class, text", some="SEMI JOIN affected USING (class)")
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT file, row, class, text FROM ({rows_of})"
        )
    con.execute("CREATE OR REPLACE TEMP TABLE wanted AS FROM kept UNION ALL FROM made")
    counts = con.execute("SELECT file, count(*) FROM wanted GROUP BY 1 ORDER BY 1").fetchall()
    rows = sum(count for _, count in counts)
    path = home / "affected.parquet"
    if rows > most:
        return path, rows, 0
    listed = ", ".join(map(str, read.starts))
    con.execute(
        "CREATE OR REPLACE TEMP TABLE subset AS SELECT"
        f" ([{listed}]::BIGINT[])[file + 1] + row AS pos, class, text FROM wanted"
    )
    con.execute(f"COPY subset TO {literal(str(home / 'subset.parquet'))} (FORMAT parquet)")
    numbers_read = [number for number, _ in counts]
    relation = read.relation(numbers_read or [0], "wanted")
    write_rows(con, relation, path)
    return path, rows, len(files) - len({*numbers_read, *plan.fresh})


def rows_at(path: Path, main: Job) -> Rowed:
    """The rows of the file `path` as rows of the input that `main` reads, at their positions."""
    source = main.source
    select = f"SELECT * EXCLUDE ({FILE}, {ROW}) FROM read_parquet({literal(str(path))})"
    names = {name: value for name, value in asdict(main.roles).items() if value}
    if names.pop("negate", False):
        names["score"] = f"-{names['score']}"
    # What a part is ranked by lies next to it.
    beside = (f"{path.parent}/",)
    files = (str(path),)
    some = replace(source, files=files, select=select, hive=False, remote=False, beside=beside)
    return replace(main.rowed, source=some, names=cast("RoleNames", names))
