"""What people use instead of `prefmill best` to take the k best of every prompt:
`python best_baselines.py NAME K INPUT OUTPUT`.

All write every column of the k rows with the best scores of each prompt, as zstd Parquet. No two
scores of a prompt are equal in the data, so that the rule for ties is free; `duckdb-ties` says it
nevertheless (the later row wins), as prefmill does. Each runs in a process of its own, timed from
outside by `bench_best.py`; so every function imports what it needs itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def polars(k: int, source: str, target: str) -> None:
    """One lazy group_by with top_k_by, which carries the texts."""
    import polars as pl

    best = (
        pl.scan_parquet(source)
        .group_by("prompt")
        .agg(pl.col("completion", "score", "id").top_k_by("score", k))
    )
    best.explode("completion", "score", "id").sink_parquet(target)


def pandas(k: int, source: str, target: str) -> None:
    """Sort everything, take the tail of every group."""
    import pandas as pd

    frame = pd.read_parquet(source)
    frame.sort_values("score", kind="stable").groupby("prompt", sort=False).tail(k).to_parquet(
        target, compression="zstd", index=False
    )


def duckdb(k: int, source: str, target: str) -> None:
    """A window over all columns, as it is mostly written."""
    _copy(
        "SELECT * FROM read_parquet(?) QUALIFY row_number() OVER (PARTITION BY prompt ORDER BY"
        f" score DESC) <= {k}",
        source,
        target,
    )


def duckdb_ties(k: int, source: str, target: str) -> None:
    """The same, and the later row wins among equal scores."""
    window = "PARTITION BY prompt ORDER BY score DESC, file_row_number DESC"
    _copy(
        "SELECT * EXCLUDE (file_row_number) FROM read_parquet(?, file_row_number = true) QUALIFY"
        f" row_number() OVER ({window}) <= {k}",
        source,
        target,
    )


def duckdb_join(k: int, source: str, target: str) -> None:
    """What an expert might write: the row numbers first, then the rows by their numbers."""
    _copy(
        f"WITH best AS (SELECT unnest(arg_max(file_row_number, score, {k})) AS n"
        " FROM read_parquet($1, file_row_number = true) GROUP BY prompt)"
        " SELECT * EXCLUDE (file_row_number) FROM read_parquet($1, file_row_number = true) WHERE"
        " file_row_number IN (SELECT n FROM best)",
        source,
        target,
    )


def duckdb_one(k: int, source: str, target: str) -> None:
    """The same for the best one: no list, and nothing to unnest."""
    assert k == 1
    _copy(
        "WITH best AS (SELECT arg_max(file_row_number, score) AS n"
        " FROM read_parquet($1, file_row_number = true) GROUP BY prompt)"
        " SELECT * EXCLUDE (file_row_number) FROM read_parquet($1, file_row_number = true) WHERE"
        " file_row_number IN (SELECT n FROM best)",
        source,
        target,
    )


def _copy(query: str, source: str, target: str) -> None:
    import duckdb

    source, target = (f"'{path.replace(chr(39), chr(39) * 2)}'" for path in (source, target))
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    con.execute(
        f"COPY ({query.replace('$1', source).replace('?', source)}) TO {target} (FORMAT parquet,"
        " COMPRESSION zstd)"
    )


BASELINES: dict[str, Callable[[int, str, str], None]] = {
    "polars": polars,
    "duckdb": duckdb,
    "duckdb-ties": duckdb_ties,
    "duckdb-join": duckdb_join,
    "duckdb-one": duckdb_one,
    "pandas": pandas,
}


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in BASELINES:
        sys.exit(f"usage: best_baselines.py {{{','.join(BASELINES)}}} K INPUT OUTPUT")
    BASELINES[sys.argv[1]](int(sys.argv[2]), sys.argv[3], sys.argv[4])
