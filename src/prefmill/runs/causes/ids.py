"""The ids of some rows of an output: their texts are fetched, and those of no other row."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl

from prefmill.connection import connect, literal
from prefmill.runs.incremental.output import with_ids
from prefmill.runs.job import Job


def ids_of(job: Job, rows: Path, con: duckdb.DuckDBPyConnection, wanted: str) -> Path:
    """A file of slot and pair_id for the slots that the query `wanted` of `con` gives.

    `rows` are those of `rows.write_rows`. The job's slots are these alone from here on.
    """
    slots = job.home / "wanted.parquet"
    con.execute(
        f"COPY (SELECT slot FROM ({wanted}) AS t(slot)) TO {literal(str(slots))} (FORMAT parquet)"
    )
    # Slots are gathered by number, so those that are left are counted anew.
    job.con.execute(
        "CREATE TABLE some_slots AS SELECT row_number() OVER (ORDER BY slot) - 1 AS slot,"
        " slot AS _old, * EXCLUDE (slot) FROM slots"
        f" SEMI JOIN read_parquet({literal(str(slots))}) USING (slot)"
    )
    old = pl.DataFrame(
        job.con.sql("SELECT slot, _old FROM some_slots ORDER BY slot").to_arrow_table()
    )
    job.con.execute("DROP TABLE slots")
    job.con.execute("CREATE TABLE slots AS SELECT * EXCLUDE (_old) FROM some_slots ORDER BY slot")
    job.con.execute("DROP TABLE some_slots")
    index = f"(SELECT pos, class, text FROM read_parquet({literal(str(rows))}))"
    ids = connect(temp_dir=job.home, reads=None, ordered=True)
    frames = [frame["pair_id"] for frame, _ in with_ids(job, ids, index, lambda frame: frame)]
    named = pl.concat(frames) if frames else pl.Series("pair_id", [], pl.String)
    out = job.home / "ids_of.parquet"
    pl.DataFrame({"slot": old["_old"], "pair_id": named}).write_parquet(out)
    return out
