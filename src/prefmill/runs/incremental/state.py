"""What an incremental run leaves for the next one, next to the record of the run.

    state.json        the files of the input, the indexes, the parts of the output
    rows-HEX.parquet  the index of the rows of some files (`rows.py`)
    scores-HEX.parquet  the scores of the candidates of some files (`scores.py`)
    accounts-HEX.parquet  what became of the rows of some classes (`accounts.py`)
    slots-HEX.parquet of every row of a part of the output its class, and the numbers that order it

It comes and goes with the record, so it is always that of the output that stands. A state that does
not fit what is asked now is none: then everything is computed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from prefmill._version import __version__
from prefmill.runs.job.job import Job
from prefmill.runs.records.recording import Recording

STATE = "state.json"
_VERSION = 2


@dataclass(frozen=True)
class InputFile:
    """A file of the input.

    name    as readers name it
    rows    how many it has
    known   what tells its content from another: size and time, or a tag
    index   the file of its index: the rows there with this `number`
    first   the position of its first row in `scores`
    scores  the file of its scores; "" where no threshold waits for them
    """

    name: str
    rows: int
    known: list[Any]
    index: str
    number: int
    first: int
    scores: str = ""

    def is_still(self, name: str, rows: int, known: Sequence[Any]) -> bool:
        """Whether it is that file, unchanged."""
        return bool(known) and [self.name, self.rows, self.known] == [name, rows, list(known)]


@dataclass(frozen=True)
class OutputPart:
    """A file of the output: its name, its rows, and the file that knows the class of each."""

    name: str
    rows: int
    slots: str


@dataclass(frozen=True)
class State:
    """What is known of the run whose output stands."""

    fits: Mapping[str, Any]
    files: list[InputFile]
    parts: list[OutputPart]
    accounts: list[str]
    version: int = _VERSION
    homes: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Recording) -> State | None:
        """The state of the run before; None where there is none that can be read."""
        path = record.kept(STATE)
        try:
            told = json.loads(path.read_text("utf-8")) if path else {}
        except (OSError, ValueError):
            return None
        if told.get("version") != _VERSION:
            return None
        files = [InputFile(**each) for each in told["files"]]
        parts = [OutputPart(**each) for each in told["parts"]]
        homes = {}
        accounts = [str(each) for each in told["accounts"]]
        for name in names_of(files, parts, accounts):
            home = record.kept(name)
            if home is None or not home.is_file():
                return None
            homes[name] = home
        return cls(told["fits"], files, parts, accounts, homes=homes)

    def text(self) -> str:
        """The state as JSON."""
        told = {
            "version": self.version,
            "fits": self.fits,
            "files": [asdict(each) for each in self.files],
            "parts": [asdict(each) for each in self.parts],
            "accounts": self.accounts,
        }
        return json.dumps(told)


def names_of(
    files: Sequence[InputFile], parts: Sequence[OutputPart], accounts: Sequence[str]
) -> set[str]:
    """The files of a state."""
    inputs = {name for file in files for name in (file.index, file.scores) if name}
    return {*inputs, *(part.slots for part in parts), *accounts}


def fresh(kind: str) -> str:
    """A new name for a file of a state."""
    return f"{kind}-{secrets.token_hex(8)}.parquet"


def fits_of(job: Job, thresholds: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same, so that prompts whose rows are the same have the same output.

    The plan and the options are in the key of the record.
    """
    told = {
        "prefmill": __version__,
        "duckdb": duckdb.__version__,
        "roles": asdict(job.roles),
        "columns": [[each.name, str(each.type)] for each in job.source.columns],
        "thresholds": dict(thresholds),
        "output": [[name, str(kind)] for name, kind in columns.items()],
    }
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain
