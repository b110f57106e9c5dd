"""Tables of a Postgres database, by `psycopg`. Runs are told in a table next to them,
`prefmill_runs`.

A table is read in one snapshot. A commit is one transaction that keeps other writers away from the
table, and lets readers go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa

from prefmill.connection import quote
from prefmill.errors import BadArgument, BadInput, MissingPackage, StoreFailed
from prefmill.warehouse.address import Address
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
from prefmill.warehouse.duckdb_tables import MAKE_RUNS, RUNS, facts_of, standings
from prefmill.warehouse.postgres_types import Column, declared, holds_nul
from prefmill.warehouse.values import batch_of, values_of

_BATCH_ROWS = 2000
#: Where the rows of a merge wait.
_NEW = "prefmill_new"
#: Bytes of a name: Postgres cuts longer ones, without an error.
_LONGEST = 63
#: For as long as a transaction: texts of values do not depend on the session, scans begin at the
#: beginning, and a reader that thinks for long stays connected.
_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "synchronize_seqscans": "off",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
}
_SCHEMA_OF = """
SELECT coalesce(
    (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass($1)),
    current_schema())
"""
_COLUMNS_OF = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), b.typcategory, b.typname
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = ANY($3)
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_TABLES, _READABLE = ["r", "p"], ["r", "p", "v", "m", "f"]
#: What a transaction that met another one ends with: a look at the table anew may go through.
_MET = {"40001", "40P01", "55P03", "42P07"}
#: Beginnings of the codes that say that a server is away, full, or going down.
_AWAY = ("08", "53", "57P")


class Postgres:
    """A table of a Postgres database, as it was when it was first asked for anything."""

    def __init__(self, address: Address) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingPackage.for_extra(address.shown, "psycopg", "postgres") from None
        self.address, self._pg = address, psycopg
        for name in address.name:
            self._check_name(name)
        self._con = self._connected()
        try:
            self._begin("ISOLATION LEVEL REPEATABLE READ READ ONLY")
            *schema, self._table = address.name
            self._schema: str = schema[0] if schema else self._schema_of(self._table)
        except BaseException:
            self.close()
            raise
        self._name = f"{quote(self._schema)}.{quote(self._table)}"
        self._runs = f"{quote(self._schema)}.{RUNS}"

    def _connected(self) -> Any:
        place = self.address.place
        try:
            words: dict[str, Any] = self._pg.conninfo.conninfo_to_dict(
                place if "=" in place or "://" in place else f"dbname={place}"
            )
        except self._pg.Error:  # which says what it could not read
            raise BadArgument(
                f"{self.address.shown}: that is no address of a database.",
                hint="it is postgresql://HOST:PORT/DATABASE, or words as psql takes them,"
                " postgres:host=HOST dbname=DATABASE user=USER.",
            ) from None
        words.setdefault("application_name", "prefmill")
        with self._told():
            # Behind a pool of connections servers know no prepared statements of ours. In a raw
            # statement a percent sign is itself.
            con = self._pg.connect(**words, autocommit=True, prepare_threshold=None)
        con.cursor_factory = self._pg.RawCursor
        con.server_cursor_factory = self._pg.RawServerCursor
        return con

    def _check_name(self, name: str) -> None:
        if len(name.encode()) > _LONGEST:
            raise BadArgument(
                f"{self.address.shown}: names have up to {_LONGEST} bytes in Postgres; got"
                f" {name!r}.",
                hint="choose a shorter name.",
            )

    def _begin(self, how: str) -> None:
        with self._told():
            self._con.execute(f"BEGIN {how}")
            named = enumerate(_SETTINGS, 1)
            each = ", ".join(f"set_config('{name}', ${place}, true)" for place, name in named)
            self._con.execute(f"SELECT {each}", list(_SETTINGS.values()))

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._told():
            return list(self._con.execute(query, values).fetchall())

    def _schema_of(self, table: str) -> str:
        """Where a name without a schema is, or comes to be."""
        found = self._rows(_SCHEMA_OF, quote(table))[0][0]
        if found is None:
            raise BadArgument(
                f"{self.address.shown}: this connection has no schema of its own.",
                hint="name it: #SCHEMA.TABLE.",
            )
        return str(found)

    def _columns(self, kinds: list[str]) -> list[Column]:
        return [Column(*row) for row in self._rows(_COLUMNS_OF, self._schema, self._table, kinds)]

    @cached_property
    def _seen(self) -> list[Column]:
        """The columns of the table that was opened."""
        return self._columns(_READABLE)

    def _has_runs(self) -> bool:
        return bool(self._rows(_COLUMNS_OF, self._schema, RUNS, _TABLES))

    def columns(self) -> list[str] | None:
        return [each.name for each in self._seen] or None

    def runs(self) -> Iterator[Standing]:
        if self._seen and self._has_runs():
            query = f"SELECT facts FROM {self._runs} WHERE table_name = $1 ORDER BY place DESC"
            if told := self._rows(query, self._table):
                yield from standings(told, self._content())

    def _content(self) -> str:
        """A hash of all rows, whatever their order, with their number."""
        query = (
            "SELECT count(*), coalesce(sum(hashtextextended(prefmill_row::text, 0)), 0)"
            f" FROM {self._name} AS prefmill_row"
        )
        count, digits = self._rows(query)[0]
        return f"{count} {digits}"

    def fingerprint_of(self, run: str) -> str | None:
        if not self._seen or not self._has_runs():
            return None
        query = (
            f"SELECT fingerprint FROM {self._runs} WHERE table_name = $1 AND run_key = $2"
            " ORDER BY place"
        )
        found = self._rows(query, self._table, run)
        return found[-1][0] if found else None

    def commit(self, rows: Rows, commit: Commit) -> None:
        for name in rows.schema.names:
            self._check_name(name)
        seen = list(self.runs())
        self._end("ROLLBACK")
        try:
            # Each statement sees what was committed before it: after the lock, all there is.
            self._begin("ISOLATION LEVEL READ COMMITTED READ WRITE")
            there = self._locked()
            if seen != list(self.runs()):
                raise changed(self.address)
            self._commit(rows, commit, there)
            self._end("COMMIT")
        except BaseException:
            self.close()  # which takes everything back
            raise

    def _locked(self) -> list[Column]:
        """Keep other writers away until the end of the transaction; the columns as they are now."""
        key = f"prefmill {self._name}"
        self._rows("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key)
        self._seen = self._columns(_READABLE)
        tables = self._columns(_TABLES)
        if self._seen and not tables:
            raise BadArgument(
                f"{self.address.shown}: this is a view, and runs go into tables.",
                hint="name another table.",
            )
        if tables:
            self._do(f"LOCK TABLE {self._name} IN SHARE ROW EXCLUSIVE MODE")
        return tables

    def _do(self, statement: str, *values: object) -> None:
        with self._told():
            self._con.execute(statement, values)

    def _commit(self, rows: Rows, commit: Commit, there: list[Column]) -> None:
        columns = declared(rows)
        names = ", ".join(map(quote, columns))
        if not self._rows("SELECT FROM pg_namespace WHERE nspname = $1", self._schema):
            self._do(f"CREATE SCHEMA IF NOT EXISTS {quote(self._schema)}")
        if not self._has_runs():
            self._do(MAKE_RUNS.format(runs=self._runs))
        if not there or commit.mode == "replace":
            self._do(f"DELETE FROM {self._runs} WHERE table_name = $1", self._table)
            self._emptied(columns, there)
            self._copy(self._name, names, rows)
        elif commit.mode == "merge":
            self._merge(names, rows, commit)
        else:
            self._copy(self._name, names, rows)
        self._do(
            f"INSERT INTO {self._runs} SELECT coalesce(max(place), 0) + 1, $1, $2, $3,"
            f" now()::text, $4 FROM {self._runs}",
            self._table,
            commit.run,
            commit.fingerprint,
            facts_of(commit, self._content()),
        )

    def _emptied(self, columns: dict[str, str], there: list[Column]) -> None:
        """The table without rows. One that has the columns keeps its rights, indexes and views."""
        if {each.name: each.kind for each in there} == columns:
            self._do(f"DELETE FROM {self._name}")
            return
        if there:
            self._do(f"DROP TABLE {self._name}")
        each = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
        self._do(f"CREATE TABLE {self._name} ({each})")

    def _merge(self, names: str, rows: Rows, commit: Commit) -> None:
        # Rows are updated in place: deleting them first would take away what refers to them.
        self._do(
            f"CREATE TEMPORARY TABLE {_NEW} ON COMMIT DROP AS"
            f" SELECT {names} FROM {self._name} WITH NO DATA"
        )
        self._copy(f"pg_temp.{_NEW}", names, rows)
        self._do(f"DELETE FROM {self._name} WHERE {KEY}::text = ANY($1)", list(commit.removed))
        each = ", ".join(f"{name} = s.{name}" for name in map(quote, rows.schema.names))
        self._do(
            f"UPDATE {self._name} AS t SET {each} FROM pg_temp.{_NEW} AS s WHERE t.{KEY} = s.{KEY}"
        )
        self._do(
            f"INSERT INTO {self._name} ({names}) SELECT {names} FROM pg_temp.{_NEW} AS s"
            f" WHERE NOT EXISTS (SELECT FROM {self._name} AS t WHERE t.{KEY} = s.{KEY})"
        )

    def _copy(self, table: str, names: str, rows: Rows) -> None:
        take = f"COPY {table} ({names}) FROM STDIN"
        with self._told(rows), self._con.cursor() as cursor, cursor.copy(take) as copy:
            for row in values_of(rows):
                copy.write_row(row)

    def version(self) -> str:
        return self._content() if self._seen else ""

    def reader(self) -> pa.RecordBatchReader:
        if not self._seen:
            raise absent(self.address)
        schema = pa.schema([(each.name, each.arrow) for each in self._seen])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        each = ", ".join(column.read(quote(column.name)) for column in self._seen)
        try:
            with self._con.cursor(name="prefmill_rows") as cursor:
                cursor.execute(f"SELECT {each} FROM {self._name}")
                while some := cursor.fetchmany(_BATCH_ROWS):
                    yield batch_of(schema, some, self.address, {})
        except self._pg.DataError as error:
            raise BadInput(f"{self.address.shown}: {line_of(error)}.") from None
        except self._pg.Error as error:
            raise self._ours(error, None) from None

    def _end(self, how: str) -> None:
        with self._told():
            self._con.execute(how)

    def close(self) -> None:
        """Close the connection; what was not committed is gone."""
        self._con.close()

    @contextmanager
    def _told(self, rows: Rows | None = None) -> Iterator[None]:
        """Errors of the database as ours, while it takes `rows`, say."""
        try:
            yield
        except self._pg.Error as error:
            raise self._ours(error, rows) from None

    def _ours(self, error: Any, rows: Rows | None) -> Exception:
        shown, code = self.address.shown, error.sqlstate or ""
        # Two first commits in a schema make it, or the table of runs, at once.
        racing = code == "23505" and error.diag.schema_name == "pg_catalog"
        if code in _MET or racing:
            return changed(self.address)
        taken = rows if isinstance(error, self._pg.DataError) else None
        if taken is not None and (column := holds_nul(taken)) is not None:
            return BadArgument(
                f"{shown}: the column {column!r} holds the character NUL, which Postgres cannot"
                " store; nothing was committed.",
                hint="take it out first: SQL's replace(text, chr(0), '') does.",
            )
        misfits = (self._pg.DataError, self._pg.IntegrityError, self._pg.errors.DatatypeMismatch)
        if isinstance(error, misfits):
            return unfit(self.address, error)
        refused = not code and "refused" in str(error)
        return StoreFailed(f"{shown}: {line_of(error)}.", again=refused or code.startswith(_AWAY))
