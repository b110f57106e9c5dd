"""An incremental run whose output is a table: what changed, in one commit.

    .pairs.incremental/rows/part-*.parquet    the rows that the table has after the run
    .pairs.incremental/rows-changes.parquet   how they came from those of the run before

The run goes on from this folder, and the hash of its content is in the commit. A table that is
where the changes begin gets these. Any other state of it, after a kill in between, say, or where
the folder was lost, gets all rows. So the folder is a cache: without it everything is computed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefmill.disk import records
from prefmill.disk.locks import FolderLock
from prefmill.disk.records import MANIFEST
from prefmill.disk.targets import is_object
from prefmill.errors import BadArgument, RunBusy, RunDiffers, TargetExists
from prefmill.runs.incremental.change_file import CHANGE, REMOVED
from prefmill.runs.incremental.output import ID
from prefmill.runs.records.recording import NOTHING_TO_DO
from prefmill.warehouse import tables
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Commit, Rows, Table, check_rows, refuse_other_inputs

#: What a commit tells of the rows that the table has after it.
_CONTENT = "content"


def folder_of(address: Address, work: str | Path | None) -> Path:
    """Where an incremental run keeps what the next one goes on from.

    >>> folder_of(Address.of("delta:lake/pairs"), None)
    PosixPath('lake/.pairs.incremental')
    >>> folder_of(Address.of("sqlite:all.db#pairs"), None)
    PosixPath('.all.db.pairs.incremental')
    >>> folder_of(Address.of("iceberg:lake.training.pairs"), "work").parent
    PosixPath('work')
    """
    if work is not None:
        word = re.sub(r"[^\w.-]+", "_", address.shown)
        return Path(work) / f"{word}-{hashlib.sha256(address.shown.encode()).hexdigest()[:8]}"
    place = address.place
    if address.kind in ("iceberg", "postgres") or "://" in place or is_object(place):
        raise BadArgument(
            f"run: an incremental run keeps a local folder; got the table {address.shown}.",
            hint="--work FOLDER names one.",
        )
    name = ".".join([Path(place).name, *address.name])
    return Path(place).with_name(f".{name}.incremental")


@contextmanager
def held(folder: Path, address: Address) -> Iterator[None]:
    """The folder is ours, from before the run until its rows are in the table."""
    refusal = RunBusy(
        f"run: another process is writing {address.shown}.", hint="wait for it, and run again."
    )
    # The folder itself is locked by what publishes in it.
    with closing(FolderLock(folder / "writing", refusal)):
        yield


def run_beside(
    run: Callable[..., Any], plan: Any, inputs: Any, folder: Path, options: Mapping[str, Any]
) -> tuple[Any, Result | None]:
    """The report of a run over files, and what its table is to have; None where nothing came."""
    rows = folder / "rows" / "part-*.parquet"
    report = run(plan, inputs, rows, **options)
    if not report.output:
        return report, None
    told = (records.folder_of(folder / "rows") / MANIFEST).read_text("utf-8")
    document = json.loads(told)
    content = records.content_of(document)
    assert content is not None
    notes = [note for note in report.notes if note != NOTHING_TO_DO]
    return replace(report, notes=notes), Result(folder, content, document.get("changes_since"))


@dataclass(frozen=True)
class Result:
    """The rows of a run, and how they came from those of `since`; None: nothing is known of it."""

    folder: Path
    content: str
    since: str | None

    def whole(self, home: Path) -> Path:
        """All rows as one file."""
        parts = sorted((self.folder / "rows").glob("part-*.parquet"))
        path = home / "whole.parquet"
        with pq.ParquetWriter(path, pq.read_schema(parts[0])) as file:
            for part in parts:
                with pq.ParquetFile(part) as rows:
                    for batch in rows.iter_batches():
                        file.write_batch(batch)
        return path

    def changes(self, home: Path) -> tuple[Path, list[str]]:
        """The rows that are new or have other values as a file, and the ids of those that go."""
        schema = Rows(next((self.folder / "rows").glob("part-*.parquet"))).schema
        path, gone = home / "changes.parquet", []
        changes = Rows(self.folder / "rows-changes.parquet").reader()
        with pq.ParquetWriter(path, schema) as file:
            for batch in changes:
                removed = pc.equal(batch[CHANGE], REMOVED)
                gone += batch.filter(removed)[ID].to_pylist()
                fresh = batch.filter(pc.invert(removed))
                columns = [fresh[column.name].cast(column.type) for column in schema]
                file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return path, gone


def publish_changes(result: Result, address: Address, commit: Commit, home: Path) -> bool:
    """Bring the table to the rows of `result` in one commit; False where it has them.

    Raises `TargetExists` for a table that is not from incremental runs of this plan, and
    `RunDiffers` where somebody else changed it; `replace` as the mode takes both.
    """
    commit = replace(commit, facts={**commit.facts, _CONTENT: result.content})
    made: dict[str, tuple[Path, list[str]]] = {}

    def step(table: Table) -> bool:
        at = _content_at(table, commit.facts["plan"], overwrite=commit.mode == "replace")
        if at == result.content:
            return False
        refuse_other_inputs(table, commit.run, commit.fingerprint)
        if at is not None and at == result.since:
            if "merge" not in made:
                made["merge"] = result.changes(home)
            path, gone = made["merge"]
            merged, rows = replace(commit, mode="merge", removed=gone), Rows(path)
            check_rows(table, rows, merged)
            table.commit(rows, merged)
            return True
        if "replace" not in made:
            made["replace"] = result.whole(home), []
        rows = Rows(made["replace"][0])
        table.commit(rows, replace(commit, mode="create" if at is None else "replace"))
        return True

    return tables.tried(address, step)


def check_table(address: Address, plan: str, *, overwrite: bool) -> None:
    """Raise what `publish_changes` would raise about the table, before hours of work."""
    with tables.opened(address) as table:
        _content_at(table, plan, overwrite=overwrite)


def _content_at(table: Table, plan: str, *, overwrite: bool) -> str | None:
    """What the table holds: None where there is none, "" where that is not known."""
    if table.columns() is None:
        return None
    shown = table.address.shown
    newest = next(table.runs(), None)
    content = None if newest is None else newest.facts.get(_CONTENT)
    if newest is not None and newest.newest and content is not None:
        if overwrite or newest.facts.get("plan") == plan:
            return content
    elif content is not None and not overwrite:
        raise RunDiffers(
            f"{shown}: somebody else changed the table since the incremental run before.",
            hint="--overwrite puts all rows of this run into its place; a table of several runs"
            " wants --mode merge without --incremental.",
        )
    if overwrite:
        return ""
    raise TargetExists(
        f"{shown}: the table is already there, and not from incremental runs of this plan.",
        hint="--overwrite puts the rows of this run into its place, or name another table.",
    )
