"""Delta tables, by `deltalake`.

The log keeps a run as a transaction of an application: its name holds the key, its version the
fingerprint. Two runs of one key conflict there, and checkpoints keep it when history is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from prefmill.errors import MissingPackage, StoreFailed
from prefmill.objects import is_object, store_options
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import KEY, Commit, Rows, Standing, absent, changed, line_of, unfit

#: How often the table was replaced.
_EPOCH = "prefmill/epoch"
#: Operations that leave the rows as they are.
_QUIET = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "RESTORE CHECKPOINT")


class Delta:
    """A Delta table, at the version that was the newest when it was opened."""

    def __init__(self, address: Address) -> None:
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import TableNotFoundError
        except ImportError:
            raise MissingPackage.for_extra(address.shown, "deltalake", "delta") from None
        self.address = address
        self._options = store_options() if is_object(address.place) else None
        self._at: Any = None
        with self._told(), suppress(TableNotFoundError):
            self._at = DeltaTable(address.place, storage_options=self._options)

    def columns(self) -> list[str] | None:
        if self._at is None:
            return None
        return [column.name for column in self._at.schema().fields]

    def runs(self) -> Iterator[Standing]:
        newest = True
        for commit in self._at.history() if self._at is not None else ():
            if found := Standing.of(commit, newest=newest):
                yield found
            newest = newest and commit.get("operation") in _QUIET

    def fingerprint_of(self, run: str) -> str | None:
        if self._at is None:
            return None
        number = self._at.transaction_version(self._name(run, self._epoch()))
        return None if number is None else f"{number:015x}"

    def _epoch(self) -> int:
        return 0 if self._at is None else (self._at.transaction_version(_EPOCH) or 0)

    def _name(self, run: str, epoch: int) -> str:
        return f"prefmill/{epoch}/{run}"

    def commit(self, rows: Rows, commit: Commit) -> None:
        from deltalake import CommitProperties, Transaction, write_deltalake

        epoch = self._epoch()
        names = {}
        if commit.mode == "replace" and self._at is not None:
            epoch += 1
            names[_EPOCH] = epoch
        names[self._name(commit.run, epoch)] = int(commit.fingerprint, 16)
        properties = CommitProperties(
            custom_metadata=commit.told(),
            app_transactions=[Transaction(name, number) for name, number in names.items()],
        )
        with self._told():
            if commit.mode == "merge" and self._at is not None:
                self._merge(rows, commit, properties)
                return
            how: dict[str, Any] = {"mode": "append"}
            if self._at is None:
                how = {"mode": "error"}
            elif commit.mode == "replace":
                how = {"mode": "overwrite", "schema_mode": "overwrite"}
            write_deltalake(
                self.address.place if self._at is None else self._at,
                rows.reader(),
                commit_properties=properties,
                storage_options=self._options,
                **how,
            )

    def _merge(self, rows: Rows, commit: Commit, properties: Any) -> None:
        gone, source = "__prefmill_gone", rows.reader()
        if commit.removed:
            source = _with_removed(source, commit.removed, gone)
        merge = self._at.merge(
            source,
            f"t.{KEY} = s.{KEY}",
            source_alias="s",
            target_alias="t",
            commit_properties=properties,
        )
        columns = {f"`{name}`": f"s.`{name}`" for name in rows.schema.names}
        if commit.removed:
            merge = merge.when_matched_delete(f"s.{gone}")
            merge = merge.when_matched_update(columns, f"NOT s.{gone}")
            merge = merge.when_not_matched_insert(columns, f"NOT s.{gone}")
        else:
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
        merge.execute()

    def version(self) -> str:
        return f"{self._at.metadata().id} version {self._at.version()}"

    def reader(self) -> pa.RecordBatchReader:
        if self._at is None:
            raise absent(self.address)
        with self._told():
            return self._at.to_pyarrow_dataset().scanner(batch_size=8192).to_reader()

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library as ours."""
        from deltalake import exceptions

        try:
            yield
        except exceptions.CommitFailedError:
            raise changed(self.address) from None
        except exceptions.SchemaMismatchError as error:
            raise unfit(self.address, error) from None
        except (exceptions.DeltaError, OSError) as error:
            if "already exist" in str(error):
                raise changed(self.address) from None
            raise StoreFailed(f"{self.address.shown}: {line_of(error)}.") from None


def _with_removed(reader: pa.RecordBatchReader, removed: Any, column: str) -> pa.RecordBatchReader:
    """The rows, then one of each key that goes, told apart by `column`."""
    schema = reader.schema.append(pa.field(column, pa.bool_()))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            flags = pa.repeat(False, batch.num_rows)
            yield pa.RecordBatch.from_arrays([*batch.columns, flags], schema=schema)
        nulls = [
            pa.array(removed, pa.string())
            if field.name == KEY
            else pa.nulls(len(removed), field.type)
            for field in reader.schema
        ]
        flags = pa.repeat(True, len(removed))
        yield pa.RecordBatch.from_arrays([*nulls, flags], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
