"""Flags of rows: kept in a file at once, which `prefmill pairs --exclude` takes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from prefmill.disk.targets import staging, target_of
from prefmill.errors import BadInput
from prefmill.viewer.shows import plain
from prefmill.viewer.table import Table

_OWN = "pair_id"


class Flags:
    """The flags of a file of data; each change is written before it is told.

    An entry names its row: `pair_id` where the data has that column, `text_id` where the texts make
    one, else `row_id`, of all that is in the row. `row` is its position.
    """

    def __init__(self, path: str | Path, table: Table) -> None:
        self.path, self.table = target_of(path, "view"), table
        self._lock = threading.Lock()
        self._entries: dict[int, dict[str, Any]] = {}
        #: Entries of the file that are of no row here: another file's, say.
        self._others: list[dict[str, Any]] = []
        if self.path.exists():
            self._read()

    @property
    def rows(self) -> list[int]:
        """The positions of flagged rows, in their order."""
        return sorted(self._entries)

    def set(self, position: int, *, on: bool) -> None:
        """Flag a row, or not any more."""
        with self._lock:
            entries = dict(self._entries)
            entries.pop(position, None)
            if on:
                entries[position] = self._entry(position)
            self._write(entries)
            self._entries = entries

    def _entry(self, position: int) -> dict[str, Any]:
        row = self.table.row(position)
        entry = {"text_id" if self.table.known_by_texts else "row_id": row["id"]}
        if own := row["cells"].get(_OWN):
            entry = {_OWN: str(own), **entry}
        prompt = row["cells"].get(self.table.layout.prompt or "")
        return {**entry, "row": position, "prompt": plain(str(prompt or "")[:120])}

    def _write(self, entries: dict[int, dict[str, Any]]) -> None:
        lines = [*self._others, *(entry for _, entry in sorted(entries.items()))]
        with staging([self.path], where="view") as stage:
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            stage.path(self.path).write_text(text, "utf-8")
            stage.publish(overwrite=True)

    def _read(self) -> None:
        try:
            lines = [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]
        except (ValueError, OSError) as error:
            raise BadInput(
                f"view: {str(self.path)!r} is no file of flags; {error}.",
                hint="name another file: --flags.",
            ) from None
        wrong = [line for line in lines if not isinstance(line, dict)]
        if wrong:
            raise BadInput(
                f"view: {str(self.path)!r} is no file of flags; got {str(wrong[0])[:40]!r},"
                " expected JSON objects.",
                hint="name another file: --flags.",
            )
        at = [line["row"] for line in lines if type(line.get("row")) is int]
        ids = self.table.ids([pos for pos in at if 0 <= pos < self.table.rows])
        for line in lines:
            name = line.get("text_id", line.get("row_id"))
            row = line.get("row")
            if type(row) is int and name is not None and ids.get(row) == name:
                self._entries[row] = line
            else:
                self._others.append(line)
