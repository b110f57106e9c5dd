"""What a run asks in batches, on disk: the requests, the batches that hold them, the answers.

    wanted ──cut──▶ drafted ─▶ uploaded ─▶ sending ─▶ submitted ──keep──▶ answered, or wanted again

It is one SQLite file. Every arrow is a transaction, written before what it announces is done, so
that a run that is killed anywhere finds out what it had begun.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.errors import BadInput

_AT_ONCE = 500  # keys in one query; SQLite allows 32,766
_TABLES = (
    "CREATE TABLE IF NOT EXISTS request (key TEXT PRIMARY KEY, body TEXT, batch TEXT,"
    " tries INTEGER NOT NULL DEFAULT 0, failure TEXT, answer TEXT)",
    "CREATE INDEX IF NOT EXISTS of_batch ON request (batch)",
    "CREATE INDEX IF NOT EXISTS free ON request (batch) WHERE batch IS NULL AND answer IS NULL",
    "CREATE TABLE IF NOT EXISTS batch (name TEXT PRIMARY KEY, state TEXT NOT NULL,"
    " requests INTEGER NOT NULL, file TEXT, id TEXT, since REAL NOT NULL)",
)


@dataclass(frozen=True)
class Batch:
    """One batch of requests.

    name      ours: the file is named after it, and it is among the server's metadata
    state     drafted, uploaded, sending, submitted or ended
    requests  how many
    file, id  the server's names for its file and for itself, as soon as they are known
    since     when it came into its state, seconds since 1970
    """

    name: str
    state: str
    requests: int
    file: str | None
    id: str | None
    since: float


@dataclass(frozen=True)
class Settled:
    """What one request came to.

    answer    of the server, as `{"status": 200, "body": {...}}`; None: it has none yet
    failure   why not
    is_final  whether it would have none if it were asked again
    """

    answer: Mapping[str, Any] | None
    failure: str | None = None
    is_final: bool = False


def request_key(path: str, body: Mapping[str, Any]) -> str:
    """The name of a request: 128 bits of a hash of all that is asked.

    >>> request_key("chat/completions", {"seed": 1}) == request_key("chat/completions", {"seed": 2})
    False
    """
    content = json.dumps([path, body], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class BatchStore:
    """The file of one sampler of one run; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._file = sqlite3.connect(
                path, timeout=60, isolation_level=None, check_same_thread=False
            )
            for table in _TABLES:
                self._file.execute(table)

    @contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        """All that is done in here, or nothing."""
        with self._lock, self._told():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
            except BaseException:
                with suppress(sqlite3.Error):
                    self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite cannot do is an error of ours: a full disk, mostly."""
        try:
            yield
        except sqlite3.Error as error:
            raise BadInput(
                f"batch: {str(self._path)!r} cannot be used; {error}.",
                hint="is the disk full, or the folder not ours?",
            ) from error

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, self._told():
            return self._file.execute(query, values).fetchall()

    # Requests

    def answers(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The answers that are there, by key."""
        known: dict[str, dict[str, Any]] = {}
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, answer FROM request WHERE answer NOT NULL AND key IN ({marks})"
            known |= {key: json.loads(answer) for key, answer in self._rows(query, *some)}
        return known

    def want(self, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Requests that need an answer, by key; one that is already known stays as it is."""
        rows = [(key, json.dumps(body)) for key, body in bodies.items()]
        with self._whole() as file:
            file.executemany("INSERT OR IGNORE INTO request (key, body) VALUES (?, ?)", rows)

    def counts(self) -> tuple[int, int]:
        """How many requests there are, and how many of them are answered."""
        ((every, answered),) = self._rows("SELECT count(*), count(answer) FROM request")
        return every, answered

    def bodies(self, batch: str) -> Iterator[tuple[str, str]]:
        """Key and body, as JSON, of the requests of a batch."""
        with self._lock:
            rows = self._file.execute(
                "SELECT key, body FROM request WHERE batch = ? ORDER BY rowid", [batch]
            )
            yield from rows

    # Batches

    def cut(self, most: int, size: int, around: int) -> Batch | None:
        """A new batch of requests that are in none; None: there are no such.

        It holds at most `most` requests, and `size` bytes of them with `around` bytes around each.
        """
        name, taken, bytes_taken = uuid.uuid4().hex, 0, 0
        with self._whole() as file:
            rows = file.execute(
                "SELECT rowid, length(CAST(body AS BLOB)) FROM request"
                " WHERE batch IS NULL AND answer IS NULL ORDER BY rowid LIMIT ?",
                [most],
            ).fetchall()
            last = None
            for row, length in rows:
                bytes_taken += length + around
                if taken and bytes_taken > size:
                    break
                taken, last = taken + 1, row
            if not taken:
                return None
            file.execute(
                "UPDATE request SET batch = ?"
                " WHERE batch IS NULL AND answer IS NULL AND rowid <= ?",
                [name, last],
            )
            now = time.time()
            file.execute(
                "INSERT INTO batch (name, state, requests, since) VALUES (?, 'drafted', ?, ?)",
                [name, taken, now],
            )
        return Batch(name, "drafted", taken, None, None, now)

    def batches(self, *states: str) -> list[Batch]:
        """Those that are in one of `states`, the oldest first."""
        marks = ",".join("?" * len(states))
        rows = self._rows(
            "SELECT name, state, requests, file, id, since FROM batch"
            f" WHERE state IN ({marks}) ORDER BY rowid",
            *states,
        )
        return [Batch(*row) for row in rows]

    def move(self, batch: Batch, state: str, **known: str) -> Batch:
        """`batch` in another state, with what is known of it now: `file`, `id`."""
        now = Batch(
            batch.name,
            state,
            batch.requests,
            known.get("file", batch.file),
            known.get("id", batch.id),
            time.time(),
        )
        with self._whole() as file:
            file.execute(
                "UPDATE batch SET state = ?, file = ?, id = ?, since = ? WHERE name = ?",
                [now.state, now.file, now.id, now.since, now.name],
            )
        return now

    def drop(self, batch: Batch) -> None:
        """A batch that was never taken on: its requests are wanted, as before it."""
        with self._whole() as file:
            file.execute("UPDATE request SET batch = NULL WHERE batch = ?", [batch.name])
            file.execute("DELETE FROM batch WHERE name = ?", [batch.name])

    def keep(
        self, batch: Batch, settled: Iterable[tuple[str, Settled]], otherwise: str
    ) -> str | None:
        """What became of the requests of `batch`, which is over; a failure that is final.

        Those without an answer are wanted again, one try later. `otherwise` is the failure of
        requests of which `settled` says nothing.
        """
        final = None
        with self._whole() as file:
            file.execute("UPDATE request SET failure = ? WHERE batch = ?", [otherwise, batch.name])
            for key, each in settled:
                if each.answer is None:
                    final = final or (each.failure if each.is_final else None)
                    file.execute(
                        "UPDATE request SET failure = ? WHERE key = ?", [each.failure, key]
                    )
                    continue
                file.execute(
                    "UPDATE request SET answer = ?, body = NULL, failure = NULL WHERE key = ?",
                    [json.dumps(each.answer), key],
                )
            file.execute(
                "UPDATE request SET batch = NULL, tries = tries + 1"
                " WHERE batch = ? AND answer IS NULL",
                [batch.name],
            )
            file.execute("UPDATE batch SET state = 'ended' WHERE name = ?", [batch.name])
        return final

    def unanswered_of(self, batch: Batch) -> int:
        """How many requests of a batch that is over have no answer from it."""
        query = "SELECT count(answer) FROM request WHERE batch = ?"
        ((answered,),) = self._rows(query, batch.name)
        return batch.requests - int(answered)

    def given_up(self, tries: int) -> tuple[int, str | None]:
        """Requests that have failed so many times, and why one of them did.

        They are begun anew: whoever asks again may try as often again.
        """
        query = "FROM request WHERE batch IS NULL AND answer IS NULL AND tries >= ?"
        with self._whole() as file:
            ((number, failure),) = file.execute(f"SELECT count(*), max(failure) {query}", [tries])
            if number:
                file.execute("UPDATE request SET tries = 0 WHERE batch IS NULL AND answer IS NULL")
        return number, failure

    def forget(self) -> None:
        """Everything: as if nothing had been asked."""
        with self._whole() as file:
            file.execute("DELETE FROM request")
            file.execute("DELETE FROM batch")
