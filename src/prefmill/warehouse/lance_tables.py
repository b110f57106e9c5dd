"""Lance tables, by `pylance`.

A run is told in the properties of its transaction, as long as Lance keeps that version. Lance lets
two appends through that know nothing of each other: so a writer holds a lock on the folder while
it looks and commits. An object store has none; there two runs of one key at once may both append.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from prefmill.disk.locks import try_lock
from prefmill.errors import MissingPackage, StoreFailed
from prefmill.objects import is_object, store_options
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

#: Operations that leave the rows as they are.
_QUIET = ("Rewrite", "CreateIndex", "UpdateConfig")
_AT_ONCE = 100


class Lance:
    """A Lance table, at the version that was the newest when it was opened."""

    def __init__(self, address: Address) -> None:
        try:
            import lance
        except ImportError:
            raise MissingPackage.for_extra(address.shown, "pylance", "lance") from None
        self.address, self._lance = address, lance
        self._options = store_options() if is_object(address.place) else None
        self._at: Any = self._opened()

    def _opened(self) -> Any:
        try:
            return self._lance.dataset(self.address.place, storage_options=self._options)
        except (ValueError, OSError) as error:
            if "not found" in str(error).lower():
                return None
            raise StoreFailed(f"{self.address.shown}: {_cut(error)}.") from None

    def columns(self) -> list[str] | None:
        return None if self._at is None else list(self._at.schema.names)

    def runs(self) -> Iterator[Standing]:
        newest = True
        for transaction in self._transactions():
            if found := Standing.of(transaction.transaction_properties or {}, newest=newest):
                yield found
            newest = newest and type(transaction.operation).__name__ in _QUIET

    def _transactions(self) -> Iterator[Any]:
        """What was committed, the newest first, as far back as versions are kept."""
        told, asked = 0, _AT_ONCE
        while self._at is not None:
            transactions = self._at.get_transactions(asked)
            yield from filter(None, transactions[told:])
            if len(transactions) < asked:
                return
            told, asked = asked, 2 * asked

    def fingerprint_of(self, run: str) -> str | None:
        for each in self.runs():
            if each.run == run:
                return each.facts["fingerprint"]
            if each.facts["mode"] == "replace":
                return None
        return None

    def commit(self, rows: Rows, commit: Commit) -> None:
        with self._told(), self._held():
            at = self._opened()
            if at is not None and (self._at is None or at.version != self._at.version):
                raise changed(self.address)
            if commit.mode == "merge" and at is not None and not commit.removed:
                made = at.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
                transaction, _ = made.execute_uncommitted(rows.reader())
            else:
                transaction = self._write(rows, commit, at)
            transaction.transaction_properties = commit.told()
            self._lance.LanceDataset.commit(
                self.address.place if at is None else at,
                transaction,
                storage_options=self._options,
                max_retries=0,
            )

    def _write(self, rows: Rows, commit: Commit, at: Any) -> Any:
        """The rows as files of Lance, and the transaction that adds them."""
        from lance.fragment import write_fragments

        reader, mode = rows.reader(), "append"
        if at is None:
            mode = "create"
        elif commit.mode == "replace":
            mode = "overwrite"
        elif commit.mode == "merge":
            reader, mode = _all_rows(at, rows, commit), "overwrite"
        return write_fragments(
            reader,
            self.address.place if at is None else at,
            schema=reader.schema,
            mode=mode,
            return_transaction=True,
            storage_options=self._options,
        )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder, where there is one."""
        if is_object(self.address.place) or not os.path.isdir(self.address.place):
            yield
            return
        handle = os.open(self.address.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if try_lock(handle) == "theirs":
                raise changed(self.address)
            yield
        finally:
            os.close(handle)

    def version(self) -> str:
        return f"{self._at.uri} version {self._at.version}"

    def reader(self) -> pa.RecordBatchReader:
        if self._at is None:
            raise absent(self.address)
        scanner = self._at.scanner(scan_in_order=True, batch_size=8192)
        return scanner.to_reader()

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library as ours."""
        from lance.commit import CommitConflictError

        try:
            yield
        except CommitConflictError:
            raise changed(self.address) from None
        except (OSError, ValueError, RuntimeError) as error:
            if type(error).__module__.startswith("prefmill"):
                raise
            if "already exists" in str(error):
                raise changed(self.address) from None
            if "schema" in str(error).lower():
                raise unfit(self.address, ValueError(_cut(error))) from None
            raise StoreFailed(f"{self.address.shown}: {_cut(error)}.") from None


def _cut(error: BaseException) -> str:
    """What Lance says, without the places in its own source."""
    return line_of(error).partition(", /")[0]


def _all_rows(at: Any, rows: Rows, commit: Commit) -> pa.RecordBatchReader:
    """The table's rows that stay, then those of the run: a merge with rows that go is one commit
    only so.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = pq.read_table(rows.path, columns=[KEY])[KEY].combine_chunks()
    gone = pa.concat_arrays([keys.cast(pa.string()), pa.array(commit.removed, pa.string())])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in at.scanner(scan_in_order=True).to_reader():
            stays = pc.invert(pc.is_in(batch.column(batch.schema.get_field_index(KEY)), gone))
            yield batch.filter(stays).select(rows.schema.names).cast(rows.schema)
        yield from rows.reader()

    return pa.RecordBatchReader.from_batches(rows.schema, batches())
