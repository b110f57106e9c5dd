"""Tables of an SQLite file, by Python's own `sqlite3`.

SQLite has no lists: conversations are JSON texts in a column declared `JSON`, and are read back as
what they were. Runs are told in a table next to them, `prefmill_runs`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from prefmill.connection import quote
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
from prefmill.warehouse.duckdb_tables import MAKE_RUNS, OF_TABLE, RUNS, facts_of, standings
from prefmill.warehouse.values import batch_of, values_of

#: Seconds to wait for another writer.
_PATIENCE = 10.0
_BATCH_ROWS = 2000
_GONE = "temp.prefmill_gone"
#: By what a declared type holds, in this order (SQLite's rules, and JSON and BOOL before them).
_DECLARED: tuple[tuple[str, pa.DataType], ...] = (
    ("JSON", pa.json_()),
    ("BOOL", pa.bool_()),
    ("INT", pa.int64()),
    ("REAL", pa.float64()),
    ("FLOA", pa.float64()),
    ("DOUB", pa.float64()),
    ("BLOB", pa.binary()),
)


class Sqlite:
    """A table of an SQLite file."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._table, self._name = address.name[0], quote(address.name[0])
        self._con: sqlite3.Connection | None = None
        if os.path.exists(address.place):
            self._open()

    def _open(self) -> sqlite3.Connection:
        if self._con is None:
            with self._told():
                place = self.address.place
                self._con = sqlite3.connect(place, timeout=_PATIENCE, isolation_level=None)
        return self._con

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if self._con is None:
            return []
        with self._told():
            return self._con.execute(query, values).fetchall()

    def _there(self, table: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = ?"
        return bool(self._rows(query, table.lower()))

    def columns(self) -> list[str] | None:
        return [name for name, _ in self._declared()] or None

    def _declared(self) -> list[tuple[str, str]]:
        return [(row[1], row[2]) for row in self._rows(f"PRAGMA table_info({self._name})")]

    def runs(self) -> Iterator[Standing]:
        if self.columns() and self._there(RUNS):
            query = f"SELECT facts FROM {RUNS} WHERE {OF_TABLE} ORDER BY place DESC"
            yield from standings(self._rows(query, self._table), self._count())

    def _count(self) -> int:
        return int(self._rows(f"SELECT count(*) FROM {self._name}")[0][0])

    def fingerprint_of(self, run: str) -> str | None:
        if not self.columns() or not self._there(RUNS):
            return None
        query = f"SELECT fingerprint FROM {RUNS} WHERE {OF_TABLE} AND run_key = ?"
        found = self._rows(query, self._table, run)
        return found[-1][0] if found else None

    def commit(self, rows: Rows, commit: Commit) -> None:
        seen = [each.run for each in self.runs()]
        con = self._open()
        with self._told():
            con.execute("BEGIN IMMEDIATE")
            try:
                if seen != [each.run for each in self.runs()]:
                    raise changed(self.address)
                self._commit(con, rows, commit)
                con.execute("COMMIT")
            except BaseException:
                con.execute("ROLLBACK")
                raise

    def _commit(self, con: sqlite3.Connection, rows: Rows, commit: Commit) -> None:
        con.execute(MAKE_RUNS.format(runs=RUNS))
        if commit.mode == "replace" or not self.columns():
            con.execute(f"DELETE FROM {RUNS} WHERE {OF_TABLE}", (self._table,))
            con.execute(f"DROP TABLE IF EXISTS {self._name}")
            columns = ", ".join(f"{quote(f.name)} {_declaration(f.type)}" for f in rows.schema)
            con.execute(f"CREATE TABLE {self._name} ({columns})")
        elif commit.mode == "merge":
            con.execute(f"CREATE TABLE IF NOT EXISTS {_GONE} (key TEXT PRIMARY KEY)")
            con.execute(f"DELETE FROM {_GONE}")
            keep = f"INSERT OR IGNORE INTO {_GONE} VALUES (?)"
            con.executemany(keep, ((key,) for key in commit.removed))
            place = rows.schema.names.index(KEY)
            con.executemany(keep, ((row[place],) for row in values_of(rows)))
            con.execute(f"DELETE FROM {self._name} WHERE {KEY} IN (SELECT key FROM {_GONE})")
            con.execute(f"DELETE FROM {_GONE}")
        names = ", ".join(map(quote, rows.schema.names))
        marks = ", ".join("?" * len(rows.schema))
        con.executemany(f"INSERT INTO {self._name} ({names}) VALUES ({marks})", values_of(rows))
        con.execute(
            f"INSERT INTO {RUNS} SELECT coalesce(max(place), 0) + 1, ?, ?, ?,"
            f" datetime('now'), ? FROM {RUNS}",
            (self._table, commit.run, commit.fingerprint, facts_of(commit, self._count())),
        )

    def version(self) -> str:
        return version_of(self.address.place)

    def reader(self) -> pa.RecordBatchReader:
        declared = self._declared()
        if not declared:
            raise absent(self.address)
        schema = pa.schema([(name, _type(kind)) for name, kind in declared])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        assert self._con is not None
        names = ", ".join(map(quote, schema.names))
        with self._told():
            cursor = self._con.execute(f"SELECT {names} FROM {self._name}")
            while some := cursor.fetchmany(_BATCH_ROWS):
                yield batch_of(schema, some, self.address, _READ)

    def close(self) -> None:
        """Close the file."""
        if self._con is not None:
            self._con.close()
            self._con = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the database as ours."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
            raise unfit(self.address, error) from None
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise changed(self.address) from None
            raise StoreFailed(f"{self.address.shown}: {line_of(error)}.") from None
        except (sqlite3.Error, OverflowError) as error:
            raise StoreFailed(f"{self.address.shown}: {line_of(error)}.") from None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        raise ValueError("got bytes")
    return value if isinstance(value, str) else str(value)


_READ: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _text,
    pa.bool_(): bool,
    pa.float64(): float,
}


def _type(declared: str) -> pa.DataType:
    for part, kind in _DECLARED:
        if part in declared.upper():
            return kind
    return pa.string()


def _declaration(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return "JSON"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_integer(kind):
        return "INTEGER"
    if pa.types.is_floating(kind):
        return "REAL"
    return "BLOB" if pa.types.is_binary(kind) else "TEXT"
