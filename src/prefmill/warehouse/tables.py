"""Opening a table of any kind, and publishing a file's rows to it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

from prefmill.errors import RunBusy
from prefmill.warehouse.address import Address, Kind
from prefmill.warehouse.commit import Commit, Rows, Table, check_rows, is_done

#: The module and the class of each kind, imported when a table is opened.
_KINDS: dict[Kind, tuple[str, str]] = {
    "delta": ("delta", "Delta"),
    "iceberg": ("iceberg", "Iceberg"),
    "lance": ("lance_tables", "Lance"),
    "duckdb": ("duckdb_tables", "DuckDb"),
    "sqlite": ("sqlite_tables", "Sqlite"),
    "postgres": ("postgres_tables", "Postgres"),
}
#: Looks at a table that others change all the while.
_TRIES = 5


@contextmanager
def opened(address: Address) -> Iterator[Table]:
    """The table of an address, as it is now; also where there is none yet.

    Raises `MissingPackage`, and `StoreFailed` where it cannot be asked.
    """
    module, name = _KINDS[address.kind]
    kind: Callable[[Address], Table] = getattr(import_module(f"prefmill.warehouse.{module}"), name)
    with closing(kind(address)) as table:
        yield table


def publish(parquet: Path, address: Address, commit: Commit) -> bool:
    """Commit the rows of a Parquet file; False where the run is in the table already.

    A commit that finds the table changed looks at it anew. Raises `TargetExists`, `RunDiffers` and
    `BadArgument` before anything is written, and `RunBusy` where others do not let it in.
    """
    rows = Rows(parquet)

    def step(table: Table) -> bool:
        if is_done(table, commit.run, commit.fingerprint, commit.mode):
            return False
        check_rows(table, rows, commit)
        table.commit(rows, commit)
        return True

    return tried(address, step)


def tried(address: Address, step: Callable[[Table], bool]) -> bool:
    """What `step` says of the table, again where others changed it while it was at work."""
    for left in reversed(range(_TRIES)):
        try:
            with opened(address) as table:
                return step(table)
        except RunBusy:
            if not left:
                raise
            time.sleep(random.uniform(0.05, 0.5))
    raise AssertionError("unreachable")
