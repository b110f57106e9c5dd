"""How much a temporary folder may hold: what engines spill there, and what we stage.

A cap belongs to a folder, so whoever writes in it finds it by the folder's path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefmill.errors import BadArgument

_MB = 1_000_000
_rooms: dict[str, Room] = {}


@dataclass
class Room:
    """The most bytes that a folder may hold, and how many of our own are there."""

    folder: Path
    most: int
    taken: int = 0

    @property
    def left(self) -> int:
        """What engines may spill."""
        return max(0, self.most - self.taken)

    def take(self, size: int, *, spilled: int = 0) -> None:
        """`size` bytes more of our own lie there, next to `spilled` of an engine's.

        Raises `BadArgument` where these are too many.
        """
        self.taken += size
        if self.taken + spilled > self.most:
            raise self.full()

    def full(self) -> BadArgument:
        """The error that says what the folder may hold, and what to do."""
        return BadArgument(
            f"temporary folder: {str(self.folder.parent)!r} is not to hold so much;"
            f" expected at most {self.most // _MB:,} MB of this run, and it needs more.",
            hint=f"--temp-limit {2 * self.most // _MB}MB (temp_bytes={2 * self.most}), a larger"
            " --memory-limit, which spills less, or --temp-dir on another disk.",
        )


@contextlib.contextmanager
def capped(folder: Path, most: int | None) -> Iterator[None]:
    """In here `folder` holds at most so many bytes; None: as many as the disk has room for."""
    if most is not None:
        _rooms[str(folder)] = Room(folder, most)
    try:
        yield
    finally:
        _rooms.pop(str(folder), None)


def room_of(path: str | Path) -> Room | None:
    """The cap of the folder that `path` is in, or is.

    >>> with capped(Path("/tmp/home"), 10_000_000):
    ...     room_of("/tmp/home/staged/rows.parquet").left
    10000000
    >>> room_of("/tmp/home") is None
    True
    """
    if not _rooms:
        return None
    folder = os.path.abspath(path)
    while folder not in _rooms:
        folder, before = os.path.dirname(folder), folder
        if folder == before:
            return None
    return _rooms[folder]
