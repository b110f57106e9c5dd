"""What a staging folder says of its targets, and what the next start makes of it.

A dead process left old and new files under hidden names. The journal says which targets they are
of, so that the next start can finish what was published and undo what was not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from prefmill.disk.hidden import MARK, alone, held, left_in
from prefmill.disk.locks import remove_empty

JOURNAL = "journal.json"


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def journal_of(home: Path) -> dict[str, Any]:
    """The targets of a staging folder, by name; what each is, once it is being published."""
    try:
        content = json.loads((home / JOURNAL).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def identity_of(path: Path) -> list[int]:
    """What a file keeps when it is renamed."""
    status = path.stat()
    size = 0 if path.is_dir() else status.st_size
    return [status.st_ino, status.st_mtime_ns, size]


def is_still(path: Path, identity: list[int] | None) -> bool:
    """Whether `path` is the file of this identity."""
    try:
        return identity is not None and identity_of(path) == identity
    except OSError:
        return False


def through(home: Path, name: str) -> str:
    """Where the link leads that stands for a target while a set is published."""
    return f"{home.name}/now/{name}"


def is_free(target: Path) -> bool:
    """Whether nothing stands at `target`, or only what a dead run published and could not say."""
    if not os.path.lexists(target):
        return True
    return any(
        is_still(target, journal_of(path).get(target.name))
        for path, state in left_in(target.absolute().parent)
        if state == "dead"
    )


def settle(folder: Path, *, but: Collection[Path] = ()) -> None:
    """Finish or undo what dead processes left in `folder`, and remove it.

    Of the targets `but`, what says whose they are is left.
    """
    folder = folder.absolute()
    if any(state == "dead" for _, state in left_in(folder)):
        with alone(folder):
            settle_all(folder, {path.name for path in but})


def settle_all(folder: Path, but: Collection[str] = ()) -> None:
    """`settle`, of who is alone in `folder`."""
    for path, state in left_in(folder):
        if state == "dead" and not path.name.startswith("prefmill-"):
            journal = journal_of(path)
            ours = any(name in but and is_still(folder / name, journal[name]) for name in journal)
            with contextlib.suppress(OSError):  # it stays for a start that may
                settle_one(path, keep=ours)


def settle_one(home: Path, *, keep: bool = False) -> None:
    """Finish or undo what a dead process published; remove what it left, or `keep` the journal."""
    journal = journal_of(home)
    published = {name: journal[name] for name in journal if journal[name] is not None}
    if (home / "now").is_symlink():
        _replace_links(home, published)
    else:
        _put_back(home, published)
    if published:
        sync(home.parent)
    if not keep:
        remove(home)


def _replace_links(home: Path, names: Collection[str]) -> None:
    """The files themselves at the names that are still links to them."""
    source = home / os.readlink(home / "now")
    for name in names:
        target = home.parent / name
        if not target.is_symlink() or os.readlink(target) != through(home, name):
            continue
        if os.path.lexists(source / name):
            os.replace(source / name, target)
        else:
            target.unlink()


def _put_back(home: Path, published: dict[str, Any]) -> None:
    """An old folder that was moved aside goes back; a set that was begun is gone on with."""
    parent = home.parent
    for name in published:
        aside = home / "old" / name
        if aside.is_dir() and not os.path.lexists(parent / name):
            os.rename(aside, parent / name)
    # Begun without links: the only way is on.
    if any(is_still(parent / name, published[name]) for name in published):
        for name in published:
            if (home / "new" / name).is_file():
                os.replace(home / "new" / name, parent / name)


def remove(home: Path) -> None:
    """A staging folder, its journal last.

    The journal says whose the output is, should this process die before the end.
    """
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != JOURNAL:
            path.unlink()
    (home / JOURNAL).unlink(missing_ok=True)
    home.rmdir()


def clear(folder: Path) -> None:
    """Finish, undo or remove all hidden names in `folder`, whose lock the caller holds."""
    if not folder.is_dir():
        return
    settle(folder)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink() and MARK.fullmatch(path.name):
            path.unlink(missing_ok=True)


def abandon() -> None:
    """Remove what this process holds and has not begun to publish: it ends without unwinding."""
    for path in held():
        if not any(journal_of(path).values()):
            shutil.rmtree(path, ignore_errors=True)
    remove_empty()
