"""The folder of a model as a target: what may be written there, and what may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefmill.disk.settling import settle
from prefmill.disk.whole import Staging, check_free, check_name
from prefmill.errors import BadArgument

#: The file that says that a folder is ours, and what made it.
MARK = "prefmill.json"


def check_folder(target: str | Path, *, overwrite: bool, where: str) -> None:
    """Raise what `whole_folder` raises about its target, before hours of training end in it.

    >>> check_folder("/", overwrite=True, where="train")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: train: no folder can be written there; got '/', ...
    """
    check_name(target, where)
    path = Path(target)
    if not path.name or path.name == "..":
        raise BadArgument(
            f"{where}: no folder can be written there; got {str(target)!r},"
            " expected the name of a new folder."
        )
    settle(path.parent, but=[path])
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise BadArgument(
            f"{where}: {str(path)!r} is no folder;"
            " expected the name of a new one, or of one that prefmill wrote."
        )
    if not any(path.iterdir()):
        return
    check_free(path, overwrite=overwrite, where=where)
    if not (path / MARK).is_file():  # never delete a folder of somebody's other files
        raise BadArgument(
            f"{where}: {str(path)!r} is a folder that prefmill did not write: it holds no {MARK}.",
            hint="write to a name inside it.",
        )


@contextmanager
def whole_folder(target: str | Path, *, overwrite: bool, where: str) -> Iterator[Path]:
    """A hidden folder next to `target` to fill; it becomes `target` at the end.

    On an error it goes away. Raises what `check_folder` raises, and `RunBusy`.
    """
    path = Path(target)
    check_folder(path, overwrite=overwrite, where=where)
    with Staging([path], where=where) as staging:
        folder = staging.path(path)
        folder.mkdir()
        yield folder
        check_folder(path, overwrite=overwrite or staging.replaces(path), where=where)
        staging.publish(overwrite=True)
