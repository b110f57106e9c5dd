"""A folder of a model that appears whole or not at all: it is filled under a hidden name beside the target, and renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefmill.errors import BadArgument, RunBusy, TargetExists

#: The file that says that a folder is ours, and what made it.
MARK = "prefmill.json"


def check_folder(target: str | Path, *, overwrite: bool, where: str) -> None:
    """Raise what `whole_folder` would raise about its target, so that hours of training do not end in it.

    >>> check_folder("/", overwrite=True, where="train")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: train: no folder can be written there; got '/', expected the name of a new folder.
    """
    path = Path(target)
    if not path.name or path.name == "..":
        raise BadArgument(f"{where}: no folder can be written there; got {str(target)!r}, expected the name of a new folder.")
    if not (path.exists() or path.is_symlink()):
        return
    if not path.is_dir() or path.is_symlink():
        raise BadArgument(f"{where}: {str(path)!r} is no folder; expected the name of a new one, or of a folder that training wrote.")
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise TargetExists(f"{where}: {str(path)!r} is already there.", hint="use --overwrite, or another name.")
    if not (path / MARK).is_file():  # never delete a folder of somebody's other files
        raise BadArgument(
            f"{where}: {str(path)!r} is a folder that training did not write: it holds no {MARK}.", hint="write to a name inside it."
        )


@contextmanager
def whole_folder(target: str | Path, *, overwrite: bool, where: str) -> Iterator[Path]:
    """A hidden folder beside `target` to fill; it becomes `target` at the end, and on an error goes away.

    What a killed process left under the hidden names is removed first, and a target that it had moved aside, and not yet replaced, is put
    back. Raises `TargetExists`, `BadArgument` (`check_folder`), `RunBusy`.
    """
    check_folder(target, overwrite=overwrite, where=where)
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.training")
    hidden.mkdir(exist_ok=True)
    lock = os.open(hidden, os.O_RDONLY)
    done = False
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes when the process does, however it ends
            mine = os.path.samestat(os.fstat(lock), hidden.stat())  # or else its owner has just published it
        except OSError:
            mine = False
        if not mine:
            done = True
            raise RunBusy(f"{where}: another process is writing {str(path)!r}.", hint="wait for it, or name another output.")
        _recover(path)
        check_folder(target, overwrite=overwrite, where=where)
        for left in hidden.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield hidden
        _publish(hidden, path)
        done = True
    finally:
        if not done:
            shutil.rmtree(hidden, ignore_errors=True)
        os.close(lock)


def _publish(hidden: Path, path: Path) -> None:
    for file in [hidden, *hidden.rglob("*")]:
        _fsync(file)
    old = _old(path)
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(hidden, path)
    except BaseException:
        if old.exists():
            os.rename(old, path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _recover(path: Path) -> None:
    """What a process left that was killed between the two renames, or behind them."""
    old = _old(path)
    if old.exists() and not path.exists():
        os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
