"""Scores by content on disk: a SQLite file for each way of scoring.

Keys are 256-bit hashes of the token ids. A grown pool scores only its new rows; another model,
template, dtype or label has a file of its own. SQLite keeps it whole through kills, and lets
several processes write.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prefmill.errors import BadInput

Floats = npt.NDArray[np.float64]
_AT_ONCE = 500  # keys in one query; SQLite allows 32,766


class ScoreCache:
    """Values of rows by the content of their tokens; not shared between threads."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str]) -> None:
        about = json.dumps(dict(fingerprint), sort_keys=True)
        name = hashlib.sha256(about.encode()).hexdigest()[:24]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(
                folder / f"{name}.sqlite", timeout=60, isolation_level=None, check_same_thread=False
            )
            _patiently(lambda: self._file.execute("PRAGMA journal_mode = WAL"))
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS scores"
                " (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
            )
            self._file.execute("CREATE TABLE IF NOT EXISTS about (fingerprint TEXT PRIMARY KEY)")
            self._file.execute("INSERT OR IGNORE INTO about VALUES (?)", [about])
        except (sqlite3.Error, OSError) as error:
            raise BadInput(
                f"score: the cache in {str(folder)!r} cannot be used; {error}.",
                hint="name another folder, or remove that file.",
            ) from error

    def get(self, keys: Sequence[bytes], width: int) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which keys are known, shape (keys,), and their values, shape (keys, width).

        A row with fewer values has 0 behind them.
        """
        known, values = np.zeros(len(keys), bool), np.zeros((len(keys), width))
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, value FROM scores WHERE key IN ({marks})"
            kept = dict(self._file.execute(query, some))
            for i, key in enumerate(some, first):
                if key in kept:
                    own = np.frombuffer(kept[key], "<f8")
                    known[i], values[i, : len(own)] = True, own
        return known, values

    def put(self, keys: Sequence[bytes], values: Sequence[Floats]) -> None:
        """Keep the values of each key, all at once or not at all.

        A key that another process wrote keeps its value.
        """
        self._file.execute("BEGIN IMMEDIATE")
        rows = [(key, row.astype("<f8").tobytes()) for key, row in zip(keys, values, strict=True)]
        self._file.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", rows)
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _patiently(step: Callable[[], object], *, seconds: float = 60) -> None:
    """Try `step` until the file is no longer locked.

    SQLite's own timeout does not hold while a file becomes a write-ahead log.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            step()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)


def content_key(content: bytes) -> bytes:
    """The key of a row's tokens.

    >>> len(content_key(b"tokens"))
    32
    """
    return hashlib.blake2b(content, digest_size=32).digest()
