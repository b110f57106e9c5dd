"""Malformed rows: what is said of one, and the file that they go to.

The file appears complete or, after an error, not at all; without one, the first malformed row is an
error. Nothing is held in memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prefmill.disk.targets import Publisher, is_object, staging, target_of
from prefmill.errors import BadArgument, BadInput


@dataclass(frozen=True)
class Bad:
    """A malformed record. After a `fatal` one the file cannot be followed further."""

    line: int
    reason: str
    raw: str
    fatal: bool = False
    unit: str = "line"  #: what `line` counts
    hint: str = "--rejects PATH sets malformed rows aside and goes on."


class Rejects:
    """Where malformed rows go: a file that appears whole or not at all; without one, an error."""

    def __init__(self, path: Path | None) -> None:
        self.path = None if path is None else Path(path)
        self.count = 0
        self._file: IO[str] | None = None
        self._staging: Publisher | None = None

    def __enter__(self) -> Rejects:
        if self.path is not None:
            self.path = target_of(self.path, "rejects")
            if not is_object(self.path) and not self.path.parent.is_dir():
                raise BadArgument(
                    f"rejects: {self.path} cannot be written; there is no such folder."
                )
            try:
                self._staging = staging([self.path], where="rejects")
            except OSError as error:
                raise BadArgument(
                    f"rejects: {self.path} cannot be written; {error.strerror}."
                ) from error
            self._file = self._staging.path(self.path).open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._file is None or self._staging is None:
            return
        with self._staging:
            self._file.close()
            if kind is None:
                # The rejects of an earlier run are not those of this one.
                self._staging.publish(overwrite=True)

    def add(self, label: str, bad: Bad) -> None:
        """Write one malformed row, or raise `BadInput` for it."""
        if self._file is None or bad.fatal:
            hint = bad.hint
            if bad.fatal:
                hint = "nothing behind this line can be read."
            raise BadInput(f"{label}: {bad.unit} {bad.line}: {bad.reason}.", hint=hint)
        row = {"file": label, "line": bad.line, "reason": bad.reason, "raw": bad.raw}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1
