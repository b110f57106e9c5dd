"""The change file: which rows of output are new, gone, or the same pair with other values."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl

from prefmill.connection import literal, quote
from prefmill.runs.incremental.output import ID

#: The column that says what became of a row, and what it says.
CHANGE = "change"
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


def write(
    con: duckdb.DuckDBPyConnection, schema: pl.Schema, path: Path, *, before: str | None, now: str
) -> dict[str, int]:
    """Write what changed from the rows of `before` to those of `now`; how many rows of each kind.

    Columns: `pair_id`, `change`, then those of the output; of rows that were removed these are
    null. `now` has the columns of the output; where `before` has others, every row of both is
    changed. The first rows of all are in the order of the output, others by `change` and `pair_id`.
    """
    others = [quote(name) for name in schema if name != ID]

    def row(change: str) -> str:
        return ", ".join([ID, f"{literal(change)} AS {CHANGE}", *others])

    if before is None:
        query = f"SELECT {row(ADDED)} FROM {now}"
    else:
        cells = " || ".join(f"coalesce(to_json({name})::VARCHAR, '-')" for name in others)
        was = {str(name) for name, *_ in con.execute(f"DESCRIBE FROM {before}").fetchall()}
        cells_before = cells if was == set(schema) else "''"
        for name, rows, of_row in (("_before", before, cells_before), ("_now", now, cells)):
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE {name} AS"
                f" SELECT {ID}, md5({of_row}) AS cells FROM {rows}"
            )
        nothing = ", ".join(f"NULL AS {name}" for name in others)
        same = "SEMI JOIN (SELECT n.pair_id FROM _now n JOIN _before b"
        query = (
            f"SELECT {ID}, {literal(REMOVED)} AS {CHANGE}, {nothing}"
            f" FROM _before ANTI JOIN _now USING ({ID})"
            f" UNION ALL SELECT {row(CHANGED)} FROM {now} {same} ON n.{ID} = b.{ID}"
            f" AND n.cells <> b.cells) USING ({ID})"
            f" UNION ALL SELECT {row(ADDED)} FROM {now} ANTI JOIN _before USING ({ID})"
            f" ORDER BY {CHANGE}, {ID}"
        )
    con.execute(
        f"COPY ({query}) TO {literal(str(path))}"
        " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
    )
    counted = con.execute(
        f"SELECT {CHANGE}, count(*) FROM read_parquet({literal(str(path))}) GROUP BY 1"
    ).fetchall()
    return {ADDED: 0, REMOVED: 0, CHANGED: 0} | {str(kind): int(rows) for kind, rows in counted}
