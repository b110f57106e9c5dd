"""What every kind of table can do, and when a run is already in one.

create    a table of the run's rows, where none is
append    the rows are added, once for each run
merge     they take the place of rows with the same `pair_id`; the others are added
replace   the table holds the run's rows and nothing else
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal
from prefmill.errors import BadArgument, BadInput, RunBusy, RunDiffers, TargetExists, either
from prefmill.table.json_values import is_marked
from prefmill.warehouse.address import Address

Mode = Literal["create", "append", "merge", "replace"]
#: The column that tells pairs apart.
KEY = "pair_id"
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Commit:
    """What one run does to a table.

    run           its key: the same work has the same one
    fingerprint   of what it read: 15 hexadecimal digits (`fingerprint`)
    facts         what else the table keeps of it, as texts
    removed       keys of rows that go, in a merge
    """

    run: str
    fingerprint: str
    mode: Mode
    facts: Mapping[str, str] = field(default_factory=dict)
    removed: Sequence[str] = ()

    def told(self) -> dict[str, str]:
        """The run as metadata of its commit."""
        own = {"run_key": self.run, "fingerprint": self.fingerprint, "mode": self.mode}
        return {f"prefmill.{name}": text for name, text in (own | dict(self.facts)).items()}


@dataclass(frozen=True)
class Standing:
    """A run that a table tells of; `newest` where nobody has changed the rows since."""

    run: str
    newest: bool
    facts: Mapping[str, str]

    @property
    def alone(self) -> bool:
        """Whether the table had no rows but those of the run when it was committed."""
        return self.facts.get("mode") in ("create", "replace")

    @classmethod
    def of(cls, told: Mapping[str, object], *, newest: bool) -> Standing | None:
        """The run that the metadata of a commit tells of, if it is one of ours."""
        ours = {
            name.removeprefix("prefmill."): str(value)
            for name, value in told.items()
            if name.startswith("prefmill.")
        }
        run = ours.pop("run_key", None)
        return None if run is None else cls(run, newest, ours)


class Rows:
    """The rows of a Parquet file, as often as they are asked for, in little memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self.schema, self.count = _plain(file.schema_arrow), file.metadata.num_rows
            #: Columns of JSON values, whose texts are JSON.
            self.json = {each.name for each in file.schema_arrow if is_marked(each.type)}

    def reader(self) -> pa.RecordBatchReader:
        """The rows in order. JSON values are their text."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                yield batch.cast(self.schema) if batch.schema != self.schema else batch


class Table(Protocol):
    """A table as it was when it was opened; a commit fails where somebody changed it since."""

    address: Address

    def columns(self) -> list[str] | None:
        """Their names; None where there is no table."""

    def runs(self) -> Iterator[Standing]:
        """The runs that it tells of, the newest first."""

    def fingerprint_of(self, run: str) -> str | None:
        """That of a run that was committed since the table was last replaced."""

    def commit(self, rows: Rows, commit: Commit) -> None:
        """All of a run in one step, which others see whole or not at all."""

    def version(self) -> str:
        """What tells its content from another."""

    def reader(self) -> pa.RecordBatchReader:
        """Its rows, in an order that is the same each time."""

    def close(self) -> None:
        """Let go of what is open."""


def line_of(error: BaseException) -> str:
    """The first line of what a library says of its error."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def changed(address: Address) -> RunBusy:
    """The error of a commit that found another table than the one that was opened."""
    return RunBusy(
        f"{address.shown}: another writer changed the table meanwhile; nothing was committed.",
        hint="run the same command again.",
    )


def unfit(address: Address, error: BaseException) -> BadArgument:
    """The error for rows of other types than the table's."""
    return BadArgument(
        f"{address.shown}: the rows do not fit the table; {line_of(error)}.",
        hint="--mode replace makes the table anew.",
    )


def absent(address: Address) -> BadInput:
    """The error for an input that is not there."""
    return BadInput(f"{address.shown}: there is no such table.")


def fingerprint(text: str) -> str:
    """60 bits of a hash, which is what a Delta log can keep of a run.

    >>> fingerprint("inputs")
    '32381523e63197c'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:15]


def check_mode(mode: str) -> None:
    """Raise `BadArgument` for a mode that is none."""
    if mode not in get_args(Mode):
        raise BadArgument(f"mode: got {mode!r}, expected {either(get_args(Mode))}.")


def is_done(table: Table, run: str, fingerprint: str, mode: Mode) -> bool:
    """Whether the table holds what the run would make.

    Rows that were appended stay, so any earlier commit counts. After a merge, or another table in
    its place, only the newest does: whoever goes back to older inputs wants their rows back.
    Raises `RunDiffers` where the key was used for other inputs, `TargetExists` where a table to be
    created is there.
    """
    if table.columns() is None:
        return False
    known = refuse_other_inputs(table, run, fingerprint)
    shown = table.address.shown
    newest = next(table.runs(), None)
    last = newest is not None and newest.newest and newest.run == run
    if newest is not None and mode == "replace" and not newest.alone:
        last = False  # the table may hold more rows
    if last or (mode == "append" and known is not None):
        return True
    if mode == "create":
        raise TargetExists(
            f"{shown}: the table is already there.",
            hint="use --mode append, merge or replace, or another name.",
        )
    return False


def refuse_other_inputs(table: Table, run: str, fingerprint: str) -> str | None:
    """The fingerprint of a run that is in the table. Raises `RunDiffers` where it is another."""
    known = table.fingerprint_of(run)
    if known is not None and known != fingerprint:
        raise RunDiffers(
            f"{table.address.shown}: the run {run!r} is in this table already, and it read other"
            " inputs.",
            hint="name another run key for other inputs, or leave it out.",
        )
    return known


def check_rows(table: Table, rows: Rows, commit: Commit) -> None:
    """Raise `BadArgument` where the rows do not fit the table, before anything is written."""
    shown = table.address.shown
    if commit.mode == "merge":
        _check_keys(rows, shown)
    there, ours = table.columns(), rows.schema.names
    if there is None or commit.mode not in ("append", "merge"):
        return
    if sorted(there) != sorted(ours):
        more = [name for name in ours if name not in there]
        less = [name for name in there if name not in ours]
        raise BadArgument(
            f"{shown}: the table has other columns; the rows have {more or 'none'} that it lacks,"
            f" and lack {less or 'none'} of its own.",
            hint=_hint_of(more, less, commit.mode),
        )


def _hint_of(more: Sequence[str], less: Sequence[str], mode: Mode) -> str:
    """How rows come to have the columns of the table."""
    if less == [KEY] and not more:
        return "--pair-id adds that column."
    if more == [KEY] and not less and mode == "merge":
        return "a merge goes by it: --mode replace --pair-id makes the table anew, with it."
    return "--mode replace makes the table anew."


def _check_keys(rows: Rows, shown: str) -> None:
    if KEY not in rows.schema.names:
        raise BadArgument(
            f"{shown}: a merge goes by the column {KEY!r}; got {rows.schema.names}.",
            hint="--mode append and replace need none.",
        )
    twice = (
        f"SELECT {KEY} FROM read_parquet({literal(str(rows.path))})"
        f" GROUP BY {KEY} HAVING {KEY} IS NULL OR count(*) > 1 LIMIT 1"
    )
    found = connect(temp_dir=rows.path.parent, reads=()).execute(twice).fetchall()
    if found:
        raise BadArgument(
            f"{shown}: a merge needs another value of {KEY!r} in every row; got {found[0][0]!r}"
            " more than once.",
        )


def _plain(schema: pa.Schema) -> pa.Schema:
    """The columns without metadata; JSON values are text."""
    return pa.schema([(column.name, _plain_type(column.type)) for column in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if is_marked(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(inner.name, _plain_type(inner.type)) for inner in kind])
    return kind
