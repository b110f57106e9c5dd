"""The ids of some rows of an output: their texts are fetched, and those of no other row."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal
from prefmill.runs.incremental.output import with_ids
from prefmill.runs.job.job import Job

#: The files in a job's folder through which connections hand rows to each other.
_WANTED, _IDS = FILES = ("wanted.parquet", "ids_of.parquet")
_SCHEMA = pa.schema({"slot": pa.int64(), "pair_id": pa.string()})


def ids_of(job: Job, rows: Path, con: duckdb.DuckDBPyConnection, wanted: str) -> Path:
    """A file of slot and pair_id for the slots that the query `wanted` of `con` gives.

    `rows` are those of `rows.write_rows`. The job's slots are these alone from here on.
    """
    slots = job.home / _WANTED
    con.execute(
        f"COPY (SELECT slot FROM ({wanted}) AS t(slot)) TO {literal(str(slots))} (FORMAT parquet)"
    )
    # Slots are gathered by number, so those that are left are counted anew.
    job.con.execute(
        "CREATE TABLE some_slots AS SELECT row_number() OVER (ORDER BY slot) - 1 AS slot,"
        " slot AS _old, * EXCLUDE (slot) FROM slots"
        f" SEMI JOIN read_parquet({literal(str(slots))}) USING (slot)"
    )
    old = pl.DataFrame(job.con.sql("SELECT _old FROM some_slots ORDER BY slot").to_arrow_table())
    job.con.execute("DROP TABLE slots")
    job.con.execute("CREATE TABLE slots AS SELECT * EXCLUDE (_old) FROM some_slots ORDER BY slot")
    job.con.execute("DROP TABLE some_slots")
    index = f"(SELECT pos, class, text FROM read_parquet({literal(str(rows))}))"
    out, done = job.home / _IDS, 0
    with (
        closing(connect(temp_dir=job.home, reads=(), ordered=True)) as ids,
        pq.ParquetWriter(out, _SCHEMA) as file,
    ):
        for frame, _ in with_ids(job, ids, index, lambda frame: frame):
            named = frame.select("pair_id").with_columns(slot=old["_old"].slice(done, frame.height))
            file.write_table(named.select(_SCHEMA.names).to_arrow().cast(_SCHEMA))
            done += frame.height
    return out
