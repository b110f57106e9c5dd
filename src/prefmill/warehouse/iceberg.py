"""Iceberg tables, by `pyiceberg`, in any catalog that its own configuration names.

A run is told in the summary of its snapshot. Snapshots expire, so its key is a property of the
table as well, set in the same commit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from prefmill.errors import BadArgument, MissingPackage, StoreFailed
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

_RUN = "prefmill.run."
#: Keys of one expression: a table of a few million would hold the interpreter up for minutes.
_KEYS_AT_ONCE = 50_000


class Iceberg:
    """An Iceberg table, at the snapshot that was the newest when it was opened."""

    def __init__(self, address: Address) -> None:
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
        except ImportError:
            raise MissingPackage.for_extra(address.shown, "pyiceberg", "iceberg") from None
        self.address = address
        try:
            self._catalog = load_catalog(address.place)
        except Exception as error:
            raise BadArgument(
                f"{address.shown}: the catalog {address.place!r} cannot be used; {_first(error)}.",
                hint="describe it in .pyiceberg.yaml, or in variables:"
                f" PYICEBERG_CATALOG__{address.place.upper()}__URI.",
            ) from None
        self._at: Any = None
        with self._told():
            try:
                self._at = self._catalog.load_table(address.name)
            except (NoSuchTableError, NoSuchNamespaceError):
                return
        # Tried again, a commit would not look at what came in between.
        self._at.metadata.properties["commit.retry.num-retries"] = "0"

    def columns(self) -> list[str] | None:
        if self._at is None:
            return None
        return [column.name for column in self._at.schema().fields]

    def runs(self) -> Iterator[Standing]:
        if self._at is None:
            return
        newest, seen = True, None
        for snapshot in reversed(self._at.snapshots()):
            summary = snapshot.summary
            told = {} if summary is None else summary.additional_properties
            found = Standing.of(told, newest=newest)
            if found and found.run != seen:  # a merge is two snapshots
                yield found
            seen = found.run if found else None
            newest = newest and summary is not None and summary.operation.value == "replace"

    def fingerprint_of(self, run: str) -> str | None:
        if self._at is None:
            return None
        found = self._at.properties.get(f"{_RUN}{run}")
        return None if found is None else str(found)

    def commit(self, rows: Rows, commit: Commit) -> None:
        with self._told(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a deletion found nothing
            with self._transaction(rows.schema) as transaction:
                told = commit.told()
                if commit.mode == "replace" and self._at is not None:
                    self._replace(transaction, rows, told)
                else:
                    if commit.mode == "merge" and self._at is not None:
                        _delete(transaction, rows, commit)
                    transaction.append(rows.reader(), snapshot_properties=told)
                transaction.set_properties({f"{_RUN}{commit.run}": commit.fingerprint})

    def _transaction(self, schema: pa.Schema) -> Any:
        if self._at is not None:
            return self._at.transaction()
        self._catalog.create_namespace_if_not_exists(self.address.name[:-1])
        return self._catalog.create_table_transaction(self.address.name, schema=schema)

    def _replace(self, transaction: Any, rows: Rows, told: dict[str, str]) -> None:
        names = [column.name for column in self._at.schema().fields]
        if names != rows.schema.names:
            with transaction.update_schema(allow_incompatible_changes=True) as update:
                for name in names:
                    update.delete_column(name)
            with transaction.update_schema() as update:
                update.union_by_name(rows.schema)
        transaction.overwrite(rows.reader(), snapshot_properties=told)
        earlier = [name for name in self._at.properties if name.startswith(_RUN)]
        transaction.remove_properties(*earlier)

    def version(self) -> str:
        snapshot = self._at.current_snapshot()
        number = snapshot.snapshot_id if snapshot else "none"
        return f"{self._at.metadata.table_uuid} snapshot {number}"

    def reader(self) -> pa.RecordBatchReader:
        if self._at is None:
            raise absent(self.address)
        with self._told():
            return self._at.scan().to_arrow_batch_reader()

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library as ours."""
        from pyiceberg import exceptions

        busy = (exceptions.CommitFailedException, exceptions.TableAlreadyExistsError)
        try:
            yield
        except busy:
            raise changed(self.address) from None
        except Exception as error:
            if type(error).__module__.startswith("prefmill"):
                raise
            if isinstance(error, ValueError) and "schema" in str(error).lower():
                raise unfit(self.address, error) from None
            raise StoreFailed(f"{self.address.shown}: {_first(error)}.") from None


def _first(error: BaseException) -> str:
    """What the library says, without the address of a database, which may hold a password."""
    return " ".join(word for word in line_of(error).split() if "://" not in word)


def _delete(transaction: Any, rows: Rows, commit: Commit) -> None:
    """Rows that go, and those that come again, out of the table: its files are written anew."""
    import pyarrow.parquet as pq
    from pyiceberg.expressions import In, Reference

    keys = pq.read_table(rows.path, columns=[KEY])[KEY].to_pylist()
    keys += commit.removed
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some: Any = In(Reference(KEY), set(keys[start : start + _KEYS_AT_ONCE]))  # type: ignore[arg-type, call-arg]
        transaction.delete(some, snapshot_properties=commit.told())
