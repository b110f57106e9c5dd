"""Hidden and temporary folders, whose names say whose they are.

    .pairs.parquet.PID-START-BOOT-HOST-RANDOM.tmp/    next to an output
    prefmill-PID-START-BOOT-HOST-RANDOM.tmp/          in a folder for temporary files

Each is held by a lock on itself. What a dead process left is removed at the next start. What
another machine left on a shared disk cannot be known to be dead, and stays.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from prefmill.disk.locks import try_lock
from prefmill.errors import BadArgument
from prefmill.room import capped

State = Literal["living", "dead", "unknown"]

MARK = re.compile(
    r"(?:\..+\.|prefmill-)(?P<pid>\d+)-(?P<start>\d+)-(?P<boot>[0-9a-f]{8})-(?P<host>[0-9a-f]{6})"
    r"-[0-9a-f]{8}\.tmp"
)
#: Seconds to wait for another writer in the same folder.
PATIENCE = 10.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
#: Folders that this process holds, by name: where each is, and its lock. One that is not here was
#: given up.
_held: dict[str, tuple[Path, int]] = {}


def start_of(pid: int) -> int:
    """When a process began, in ticks since boot; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


@functools.cache
def machine() -> tuple[str, str]:
    """Eight digits of this boot, and six of this machine."""
    texts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            texts.append(Path(path).read_text("ascii").strip())
        except (OSError, UnicodeDecodeError):
            texts.append("")
    boot = hashlib.sha256(texts[0].encode()).hexdigest()[:8]
    host = hashlib.sha256(f"{os.uname().nodename} {texts[1]}".encode()).hexdigest()[:6]
    return boot, host


def _mark() -> str:
    """The owner, as it stands in the names of its folders, and something random."""
    boot, host = machine()
    return f"{os.getpid()}-{start_of(os.getpid())}-{boot}-{host}-{secrets.token_hex(4)}.tmp"


def owner_mark() -> str:
    """A new mark of this process, for a place that has no locks."""
    return f"prefmill-{_mark()}"


def is_dead(owner: str) -> bool:
    """Whether the process of a mark is known to be gone: it was on this machine, and is not there.

    >>> is_dead(owner_mark())
    False
    """
    mark = MARK.fullmatch(owner)
    boot, host = machine()
    if mark is None or mark["host"] != host:
        return False
    return mark["boot"] != boot or int(mark["start"]) != start_of(int(mark["pid"]))


def hidden_name(name: str) -> str:
    """A new hidden name of this process for `name`.

    Names end at 255 bytes: 120 of `name` are kept.
    """
    return f".{os.fsdecode(os.fsencode(name)[:120])}.{_mark()}"


def _state(path: Path, mark: re.Match[str]) -> State:
    """Whether the owner lives; `unknown` where that is another machine's."""
    boot, host = machine()
    pid, start = int(mark["pid"]), int(mark["start"])
    without_locks: State = "dead" if mark["host"] == host else "unknown"
    if mark["boot"] != boot:
        return without_locks
    if pid == os.getpid() and start == start_of(pid):
        return "living" if path.name in _held else "dead"
    if start and start == start_of(pid):
        return "living"
    # No such process here. It may be in another container, so the lock decides where there are
    # locks.
    try:
        handle = os.open(path, _FOLDER | os.O_NOFOLLOW)
    except OSError:
        return "unknown"
    try:
        answers: dict[str, State] = {"ours": "dead", "theirs": "living", "none": without_locks}
        return answers[try_lock(handle)]
    finally:
        os.close(handle)


def claim(folder: Path, name: str, mode: int) -> Path:
    """A new folder in `folder`, hidden as `name`, or temporary without one.

    It is held until `release`.
    """
    while True:
        path = folder / (hidden_name(name) if name else f"prefmill-{_mark()}")
        _held[path.name] = (path, -1)
        try:
            path.mkdir(mode)
            handle = os.open(path, _FOLDER)
        except BaseException:
            del _held[path.name]
            raise
        _held[path.name] = (path, handle)
        # Somebody who asks whether it is dead may have its lock, or have removed it: then another
        # is made. Without locks the process id has to do.
        if try_lock(handle) != "theirs":
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return path
        release(path)


def release(path: Path) -> None:
    """Hold `path` no longer."""
    _, handle = _held.pop(path.name, (path, -1))
    if handle >= 0:
        os.close(handle)


def held() -> list[Path]:
    """What this process holds, and not the parent that it was forked from."""
    marks = [(path, MARK.fullmatch(path.name)) for path, _ in list(_held.values())]
    return [path for path, mark in marks if mark and int(mark["pid"]) == os.getpid()]


def left_in(folder: Path) -> Iterator[tuple[Path, State]]:
    """Our own folders in `folder`, each with its state."""
    try:
        marks = filter(None, map(MARK.fullmatch, os.listdir(folder)))
    except OSError:
        return
    for mark in sorted(marks, key=lambda mark: mark[0]):
        path = folder / mark[0]
        with contextlib.suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
        yield path, _state(path, mark)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else publishes in `folder`, or settles what is in it.

    Publishing takes an instant. Who holds the folder for longer is not a writer of ours, say
    `flock DIR prefmill ...`.
    """
    if folder.name in _held:  # a temporary folder of our own, locked as such
        yield
        return
    handle = os.open(folder, _FOLDER)
    try:
        until = time.monotonic() + PATIENCE
        while try_lock(handle) == "theirs" and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def sweep(folder: str | Path | None = None) -> Path:
    """Remove what dead processes left in `folder` (by default the system's), and return its path.

    Only temporary folders go: a hidden one next to an output is to be settled.
    """
    parent = Path(os.path.abspath(folder if folder is not None else tempfile.gettempdir()))
    for path, state in left_in(parent):
        if state == "dead" and path.name.startswith("prefmill-"):
            shutil.rmtree(path, ignore_errors=True)
    return parent


@contextlib.contextmanager
def temporary(folder: str | Path | None = None, most: int | None = None) -> Iterator[Path]:
    """A temporary folder in `folder` (by default the system's), which is swept first.

    It is to hold at most so many bytes (`prefmill.room`). Raises `BadArgument` where no folder can
    be made.

    >>> with temporary() as home:
    ...     (home / "rows").write_text("") == 0 and home.is_dir()
    True
    >>> home.exists()
    False
    """
    parent = sweep(folder)
    try:
        home = claim(parent, "", 0o700)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise BadArgument(
            f"temporary folder: none can be made in {str(parent)!r}; got {error.strerror}.",
            hint="name another with --temp-dir (temp_dir=).",
        ) from None
    try:
        with capped(home, most):
            yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
        release(home)
