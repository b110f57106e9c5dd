"""The column `pair_id` of a run over all rows: the ids that an incremental run gives too."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from prefmill.connection import literal
from prefmill.errors import BadArgument
from prefmill.runs.incremental.output import ID, refuse_taken, refuse_two_rows, with_ids
from prefmill.runs.incremental.rows import Files, connection, positions_of, write_index
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading


def check_ids(pair_id: bool | None, layout: str, rows_are: str, engine: str) -> None:
    """Raise `BadArgument` where rows of such a run cannot have ids."""
    if pair_id is False:
        return
    refuse_two_rows(layout, rows_are)
    if engine == "ray":
        raise BadArgument(
            "run: pair_id is made on one machine; got engine 'ray'.",
            hint="leave --engine out, or make ids in SQL: pair_id(prompt, chosen, rejected).",
        )


def wants_ids(pair_id: bool | None, columns: pl.Schema) -> bool:
    """Whether rows of these columns get an id.

    None wants one where there is none. Raises `BadArgument` where True meets a column of the name.
    """
    if pair_id:
        refuse_taken(columns)
    return bool(pair_id or (pair_id is None and ID not in columns))


def identified(job: Job, reading: Reading) -> Iterator[pl.DataFrame]:
    """`Job.frames`, without what no layout has, and with a last column `pair_id`.

    Cost: the texts of all rows are hashed once more, to tell rows of equal texts apart.
    """
    memory, threads = reading.get("memory_bytes"), reading.get("threads")
    con = connection(job, memory_bytes=memory, threads=threads)
    files, index = Files(job, con), job.home / "ids.parquet"
    job.tell("indexing", None)
    write_index(files, files.relation(range(len(job.source.files))), index)
    rows = f"read_parquet({literal(str(index))})"
    for frame, _ in with_ids(job, con, positions_of(files, rows), lambda frame: frame):
        yield frame
