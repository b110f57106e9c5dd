"""Tables of a DuckDB file. Runs are told in a table next to them, `prefmill_runs`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from prefmill.connection import literal, quote
from prefmill.errors import StoreFailed
from prefmill.warehouse.address import Address, version_of
from prefmill.warehouse.commit import (
    KEY,
    Commit,
    Rows,
    Standing,
    absent,
    changed,
    line_of,
    unfit,
)

RUNS = "prefmill_runs"
#: The runs of one table, whose name is the same in either case.
OF_TABLE = "lower(table_name) = lower(?)"
#: Of a commit what the table is after it: another state is somebody else's change.
_AFTER = "prefmill.after"
#: In the form that DuckDB and SQLite share.
MAKE_RUNS = (
    "CREATE TABLE IF NOT EXISTS {runs} (place BIGINT, table_name VARCHAR, run_key VARCHAR,"
    " fingerprint VARCHAR, committed VARCHAR, facts VARCHAR)"
)


class DuckDb:
    """A table of a DuckDB file. While it is open for writing no other process opens the file."""

    def __init__(self, address: Address) -> None:
        import duckdb

        self.address, self._con = address, None
        *schema, table = address.name
        self._schema, self._table = (*schema, "main")[0], table
        self._name = f"{quote(self._schema)}.{quote(table)}"
        self._runs = f"{quote(self._schema)}.{RUNS}"
        self._duckdb: Any = duckdb
        if os.path.exists(address.place):
            self._open()

    def _open(self) -> Any:
        if self._con is None:
            config = {"memory_limit": "1GB", "autoinstall_known_extensions": "false"}
            with self._told():
                try:
                    self._con = self._duckdb.connect(self.address.place, config=config)
                except self._duckdb.ConnectionException:  # open in this process, as others want it
                    self._con = self._duckdb.connect(self.address.place)
        return self._con

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if self._con is None:
            return []
        with self._told():
            return list(self._con.execute(query, values).fetchall())

    def _there(self, table: str) -> bool:
        # Names are the same in either case.
        query = (
            "FROM duckdb_tables() WHERE lower(schema_name) = lower(?)"
            " AND lower(table_name) = lower(?) AND NOT internal"
        )
        views = query.replace("tables", "views").replace("table_", "view_")
        return bool(
            self._rows(query, self._schema, table) or self._rows(views, self._schema, table)
        )

    def columns(self) -> list[str] | None:
        if not self._there(self._table):
            return None
        return [name for name, *_ in self._rows(f"DESCRIBE {self._name}")]

    def runs(self) -> Iterator[Standing]:
        if self.columns() is None or not self._there(RUNS):
            return
        query = f"SELECT facts FROM {self._runs} WHERE {OF_TABLE} ORDER BY place DESC"
        yield from standings(self._rows(query, self._table), self._count())

    def _count(self) -> int:
        return int(self._rows(f"SELECT count(*) FROM {self._name}")[0][0])

    def fingerprint_of(self, run: str) -> str | None:
        if self.columns() is None or not self._there(RUNS):
            return None
        query = f"SELECT fingerprint FROM {self._runs} WHERE {OF_TABLE} AND run_key = ?"
        found = self._rows(query, self._table, run)
        return found[-1][0] if found else None

    def commit(self, rows: Rows, commit: Commit) -> None:
        there = self.columns() is not None
        con = self._open()
        with self._told():
            con.execute("BEGIN")
            try:
                self._commit(con, rows, commit, there)
                con.execute("COMMIT")
            except BaseException:
                con.execute("ROLLBACK")
                raise

    def _commit(self, con: Any, rows: Rows, commit: Commit, there: bool) -> None:
        source = f"read_parquet({literal(str(rows.path))})"
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(self._schema)}")
        con.execute(MAKE_RUNS.format(runs=self._runs))
        if not there or commit.mode == "replace":
            con.execute(f"DELETE FROM {self._runs} WHERE {OF_TABLE}", [self._table])
            con.execute(f"CREATE OR REPLACE TABLE {self._name} AS FROM {source}")
        elif commit.mode == "merge":
            gone = f"DELETE FROM {self._name} WHERE {KEY} IN (SELECT unnest(?::VARCHAR[]))"
            con.execute(gone, [list(commit.removed)])
            con.execute(
                f"MERGE INTO {self._name} AS t USING {source} AS s ON t.{KEY} = s.{KEY}"
                " WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
            )
        else:
            con.execute(f"INSERT INTO {self._name} BY NAME FROM {source}")
        con.execute(
            f"INSERT INTO {self._runs} SELECT coalesce(max(place), 0) + 1, ?, ?, ?,"
            f" now()::VARCHAR, ? FROM {self._runs}",
            [self._table, commit.run, commit.fingerprint, facts_of(commit, self._count())],
        )

    def version(self) -> str:
        return version_of(self.address.place)

    def reader(self) -> pa.RecordBatchReader:
        if self.columns() is None:
            raise absent(self.address)
        with self._told():
            assert self._con is not None
            return self._con.sql(f"FROM {self._name}").to_arrow_reader(8192)

    def close(self) -> None:
        """Close the file, and write what it waits to write."""
        if self._con is not None:
            self._con.close()
            self._con = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the database as ours."""
        try:
            yield
        except self._duckdb.Error as error:
            text = str(error)
            if "lock on file" in text or "onflict" in text:
                raise changed(self.address) from None
            if isinstance(error, (self._duckdb.ConversionException, self._duckdb.BinderException)):
                raise unfit(self.address, error) from None
            raise StoreFailed(f"{self.address.shown}: {line_of(error)}.") from None


def facts_of(commit: Commit, after: object) -> str:
    """What the table of runs keeps of a commit. `after` tells the table's state after it: its
    number of rows, or its version.
    """
    return json.dumps(commit.told() | {_AFTER: after})


def standings(told: list[tuple[Any, ...]], now: object) -> Iterator[Standing]:
    """Runs from the rows of `prefmill_runs`, the newest first; `now` tells the table's state."""
    for place, (text,) in enumerate(told):
        facts = json.loads(text)
        newest = not place and facts.get(_AFTER, now) == now
        if found := Standing.of(facts, newest=newest):
            yield found
