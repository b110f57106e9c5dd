"""Locks of the kernel: it drops them when their owner dies, however that happens."""

from __future__ import annotations

import fcntl
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
