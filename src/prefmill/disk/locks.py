"""Locks of the kernel: it drops them when their owner dies, however that happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Literal

from prefmill.errors import RunBusy


def try_lock(handle: int) -> Literal["ours", "theirs", "none"]:
    """Lock an open file or folder, without waiting; `none` where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "theirs"
    except OSError:
        return "none"
    return "ours"


def lock(path: Path, refusal: RunBusy) -> IO[str]:
    """The open file `path`, locked until it is closed; else `refusal` is raised."""
    file = path.open("w")
    if try_lock(file.fileno()) != "ours":
        file.close()
        raise refusal
    return file


#: The folders that this process holds.
_HELD: set[FolderLock] = set()


class FolderLock:
    """A folder of ours, made where it is absent, and locked until `close`.

    A folder that stays empty goes with the lock, and so do those above it that were made for it.
    Raises `refusal` where another process, or another run of this one, holds it.
    """

    def __init__(self, path: Path, refusal: RunBusy) -> None:
        self.path = path
        while True:
            above = [path, *path.parents]
            self._made = [folder for folder in above if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            try:
                self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # its last owner removed it just now
            if try_lock(self._handle) == "theirs":
                os.close(self._handle)
                raise refusal
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._handle), path.stat()):
                    _HELD.add(self)
                    return
            os.close(self._handle)

    def close(self) -> None:
        """Let others have it."""
        if self._handle < 0:
            return
        self.remove_empty()
        os.close(self._handle)
        self._handle = -1
        _HELD.discard(self)

    def remove_empty(self) -> None:
        """Remove the folders that were made; one that holds something stays."""
        with contextlib.suppress(OSError):
            for folder in self._made or [self.path]:
                folder.rmdir()


def remove_empty() -> None:
    """`FolderLock.remove_empty` of all that this process holds: it ends without unwinding."""
    for held in list(_HELD):
        held.remove_empty()
