"""A file, a set of files, or a folder that appears whole or not at all.

    data/
      pairs-train.parquet, pairs-test.parquet    what readers see: all old, or all new
      .pairs.parquet.OWNER.tmp/                  a `Staging`, of the process that its name says
        new/                                     what is being written
        old/                                     what stood there, while a set is published
        now -> old, then now -> new              the one rename that publishes a set
        journal.json                             the names of the targets; once published, what
                                                 they are

One file is renamed over the old one. A folder changes places with the old one. Of a set, each name
becomes a link through `now`, still to the old content; `now` is turned; then each link becomes the
new file. So a reader finds old or new at every instant, also while the writer is dead.

What is written is flushed, then renamed, then the folder is flushed. All that the package publishes
goes through this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefmill.disk.hidden import alone, claim, hidden_name, left_in, release
from prefmill.disk.settling import (
    JOURNAL,
    identity_of,
    is_free,
    is_still,
    journal_of,
    remove,
    settle,
    settle_all,
    settle_one,
    sync,
    through,
)
from prefmill.errors import BadArgument, RunBusy, TargetExists
from prefmill.objects import url_of

#: A scheme and one slash are enough: `Path` writes `s3://bucket` as `s3:/bucket`.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
#: What file systems without links answer.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
#: What systems answer that cannot let two names change places.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)


def check_name(target: str | Path, where: str) -> None:
    """Refuse a URL as the place to write to.

    >>> check_name("s3://bucket/x.parquet", "write")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: outputs are local; got 's3://bucket/x.parquet', ...
    """
    scheme = _SCHEME.match(str(target))
    if scheme:
        raise BadArgument(
            f"{where}: outputs are local; got {str(target)!r},"
            f" a place of the scheme {scheme[1]!r}.",
            hint="write to a local file and upload it;"
            f" a local folder of that name is './{scheme[1]}:/...'.",
        )


def check_free(*targets: Path, overwrite: bool, where: str) -> None:
    """Raise `TargetExists` where a target of one folder stands already and may not be replaced.

    What dead processes left in that folder is settled. What a dead run published may be replaced.
    """
    settle(targets[0].parent, but=targets)
    for target in targets:
        if not overwrite and not is_free(target):
            raise taken(target, where)


def taken(target: Path, where: str) -> TargetExists:
    """The error for a target that stands already."""
    return TargetExists(
        f"{where}: {url_of(target)!r} is already there.", hint="use --overwrite, or another name."
    )


def put(path: Path, save: Callable[[Path], object], *, durable: bool = True) -> None:
    """One file, whole or not at all, in a folder that its owner has locked.

    `settling.clear` removes there what a kill leaves. Not `durable`: the file outlives any process,
    but not the machine, and costs no wait for the disk.
    """
    hidden = path.with_name(hidden_name(path.name))
    try:
        save(hidden)
        if durable:
            sync(hidden)
        os.replace(hidden, path)
        if durable:
            sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def linked(path: Path, other: Path) -> None:
    """A file under a second name, `other`; a copy with its time where there are no links."""
    with contextlib.suppress(OSError):
        os.link(path, other)
        return
    shutil.copy2(path, other)


def put_text(path: Path, text: str) -> None:
    """`put` of a text in UTF-8."""
    put(path, lambda hidden: hidden.write_text(text, encoding="utf-8"))


def put_new(path: Path, text: str) -> bool:
    """`put_text` where no such file is; False, and no change, where there is one.

    Of several writers at once, on several machines, one gets True, where the file system has links.
    """
    hidden = path.with_name(hidden_name(path.name))
    try:
        hidden.write_text(text, encoding="utf-8")
        sync(hidden)
        try:
            os.link(hidden, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with alone(path.parent):
                if os.path.lexists(path):
                    return False
                os.replace(hidden, path)
        sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)
    return True


class Staging:
    """Where files or folders are made that become `targets`, all in one step. Use it as a context.

    targets   names in one folder, which is made where it is absent
    where     the command, for messages
    shared    several processes may make the same targets at once, and the last one stays (a cache)

    Making one settles what dead processes left in the folder. On an error, and where `publish` was
    not called, nothing is changed and nothing stays. An error after all is published leaves the
    output, and what says that it is of a run that failed, so that the same command may replace it.
    Raises `RunBusy` where another process is writing one of the targets.
    """

    def __init__(self, targets: Sequence[Path], *, where: str, shared: bool = False) -> None:
        self.where = where
        self._parent = targets[0].absolute().parent
        self._targets = [self._parent / target.name for target in targets]
        self._parent.mkdir(parents=True, exist_ok=True)
        names = {target.name for target in self._targets}
        with alone(self._parent):
            for path, state in left_in(self._parent):
                if state == "living" and not shared and names & set(journal_of(path)):
                    raise RunBusy(
                        f"{where}: another process is writing {str(targets[0])!r}.",
                        hint="wait for it, or name another output.",
                    )
            there = [target for target in self._targets if os.path.lexists(target)]
            self._own = {target for target in there if is_free(target)}
            settle_all(self._parent)
            self._home = claim(self._parent, targets[0].name, 0o777)
        self._published = False
        try:
            (self._home / "new").mkdir()
            self._write_journal(dict.fromkeys(names))
        except BaseException:
            self.close()
            raise

    def path(self, target: Path) -> Path:
        """Where to write what becomes `target`."""
        return self._home / "new" / target.name

    def replaces(self, target: Path) -> bool:
        """Whether what stands at `target` is of a run that died before it could say so."""
        return self._parent / target.name in self._own

    def publish(self, *, overwrite: bool) -> None:
        """Flush everything, then make it what readers see. Raises `TargetExists`."""
        for target in self._targets:
            source = self.path(target)
            for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
                sync(path)
        sync(self._home / "new")
        with alone(self._parent):
            for target in self._targets:
                if not overwrite and target not in self._own and os.path.lexists(target):
                    raise taken(target, self.where)
            linked = len(self._targets) > 1 and self._keep_old()
            self._write_journal(
                {target.name: identity_of(self.path(target)) for target in self._targets}
            )
            sync(self._parent)
            if linked:
                self._turn()
            for target in self._targets:
                _move(self.path(target), target)
            sync(self._parent)
        self._published = True

    def _write_journal(self, targets: dict[str, Any]) -> None:
        put_text(self._home / JOURNAL, json.dumps(targets))

    def _keep_old(self) -> bool:
        """The old files under a second name each; False where the file system has no links."""
        old = self._home / "old"
        old.mkdir()
        try:
            for target in self._targets:
                if target.is_symlink():
                    os.symlink(os.path.realpath(target), old / target.name)
                elif target.exists():
                    os.link(target, old / target.name)
            os.symlink("old", self._home / "now")
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.rmtree(old)
            return False
        sync(old)
        return True

    def _turn(self) -> None:
        """Names that lead to the old files, through one that is then turned to the new ones."""
        link = self._home / "link"
        for target in self._targets:
            os.symlink(through(self._home, target.name), link)
            os.replace(link, target)
        sync(self._parent)
        os.symlink("new", link)
        os.replace(link, self._home / "now")
        sync(self._home)

    def close(self) -> None:
        """Remove what was not published, and let others have the targets."""
        try:
            with contextlib.suppress(OSError):  # the next start removes or undoes it
                if self._published:
                    remove(self._home)
                elif not self._seen():
                    settle_one(self._home)
        finally:
            release(self._home)

    def _seen(self) -> bool:
        """Whether others may have seen what is new, so that there is no way back."""
        journal = journal_of(self._home)
        there = [is_still(self._parent / name, identity) for name, identity in journal.items()]
        return all(there) or (any(there) and not (self._home / "now").is_symlink())

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _move(source: Path, target: Path) -> None:
    """What is made to its place; folders do not replace each other, so they change places."""
    if not source.is_dir() or not target.is_dir():
        os.replace(source, target)
    elif not exchange(source, target):
        aside = source.parent.parent / "old"
        aside.mkdir(exist_ok=True)
        os.rename(target, aside / target.name)
        try:
            os.rename(source, target)
        except BaseException:
            os.rename(aside / target.name, target)
            raise


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        names = (os.fsencode(one), os.fsencode(other))
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, 2)  # RENAME_SWAP
        else:  # AT_FDCWD, RENAME_EXCHANGE
            failed = library.renameat2(-100, names[0], -100, names[1], 2)
    except (AttributeError, OSError):
        return False
    code = ctypes.get_errno()
    if failed and code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(other))
    return not failed
