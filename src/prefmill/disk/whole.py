"""A file, a set of files, or a folder that appears whole or not at all; and folders that no dead
process leaves.

    data/
      pairs-train.parquet, pairs-test.parquet                 what readers see: all old, or all new
      .pairs.parquet.PID-START-BOOT-HOST-RANDOM.tmp/          a `Staging`, of the process that its
      name says
        new/                                                  what is being written
        old/                                                  what stood there, while a set is
        published now -> old, then now -> new                           the one rename that
        publishes a set journal.json                                          the names of the
        targets; once published, what they are

One file is renamed over the old one. A folder changes places with the old one. Of a set, each name
becomes a link through `now`, still to the old content; `now` is turned; then each link becomes the
new file. So a reader finds old or new at every instant, also while the writer is dead. The next
start in that folder finishes or undoes what it finds, and removes it.

A staging or temporary folder is held by a lock on itself, which the kernel drops when its owner
dies, however it dies. What another machine left on a shared disk cannot be known to be dead, and
stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefmill.errors import BadArgument, RunBusy, TargetExists

_MARK = re.compile(
    r"(?:\..+\.|prefmill-)(?P<pid>\d+)-(?P<start>\d+)-(?P<boot>[0-9a-f]{8})-(?P<host>[0-9a-f]{6})"
    r"-[0-9a-f]{8}\.tmp"
)
#: A scheme and one slash are enough: `Path` writes `s3://bucket` as `s3:/bucket`.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_JOURNAL = "journal.json"
#: Seconds to wait for another writer in the same folder.
_PATIENCE = 10.0
#: What file systems without links answer.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
#: Folders that this process holds, by name: where each is, and its lock. One that is not here was
#: given up.
_held: dict[str, tuple[Path, int]] = {}


# --- who owns what --------------------------------------------------------------------------------


def _start_of(pid: int) -> int:
    """When a process began, in ticks since boot; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


@functools.cache
def _machine() -> tuple[str, str]:
    """Eight digits of this boot, and six of this machine."""
    told = []
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            told.append(Path(path).read_text("ascii").strip())
        except (OSError, UnicodeDecodeError):
            told.append("")
    host = hashlib.sha256(f"{os.uname().nodename} {told[1]}".encode()).hexdigest()[:6]
    return hashlib.sha256(told[0].encode()).hexdigest()[:8], host


def _mark() -> str:
    """The owner, as it stands in the names of its folders, and something random."""
    boot, host = _machine()
    return f"{os.getpid()}-{_start_of(os.getpid())}-{boot}-{host}-{secrets.token_hex(4)}.tmp"


def _state(path: Path, mark: re.Match[str]) -> str:
    """`dead`, `living`, or `unknown`: of another machine."""
    boot, host = _machine()
    pid, start = int(mark["pid"]), int(mark["start"])
    if mark["boot"] != boot:
        return "dead" if mark["host"] == host else "unknown"
    if pid == os.getpid() and start == _start_of(pid):
        return "living" if path.name in _held else "dead"
    if start and start == _start_of(pid):
        return "living"
    # No such process here. It may be in another container, so the lock decides where there are
    # locks.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "living"
    except OSError:
        return "dead" if mark["host"] == host else "unknown"
    finally:
        os.close(handle)
    return "dead"


def _claim(parent: Path, prefix: str, mode: int) -> Path:
    """A new folder that is held until `_release`."""
    while True:
        path = parent / f"{prefix}{_mark()}"
        _held[path.name] = (path, -1)
        try:
            path.mkdir(mode)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except BaseException:
            del _held[path.name]
            raise
        _held[path.name] = (path, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody asks whether it is dead
            _release(path)
            continue
        except OSError:  # a file system without locks: the process id has to do
            pass
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return path
        _release(path)


def _release(path: Path) -> None:
    _, handle = _held.pop(path.name, (path, -1))
    if handle >= 0:
        os.close(handle)


def _left_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """Our own folders in `folder`, each with its state."""
    try:
        entries = [entry.name for entry in os.scandir(folder) if _MARK.fullmatch(entry.name)]
    except OSError:
        return
    for name in sorted(entries):
        path = folder / name
        with contextlib.suppress(OSError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
        mark = _MARK.fullmatch(name)
        assert mark is not None
        yield path, _state(path, mark)


def sweep(folder: str | Path | None = None) -> Path:
    """Remove the temporary folders that dead processes left in `folder` (by default the system's),
    whose path is returned.
    """
    parent = Path(os.path.abspath(folder if folder is not None else tempfile.gettempdir()))
    for path, state in _left_in(parent):
        if state == "dead" and path.name.startswith("prefmill-"):
            shutil.rmtree(path, ignore_errors=True)
    return parent


@contextlib.contextmanager
def temporary(folder: str | Path | None = None) -> Iterator[Path]:
    """A temporary folder in `folder` (by default the system's); those that dead processes left
    there go first.

    Raises `BadArgument` where no folder can be made.

    >>> with temporary() as home:
    ...     (home / "rows").write_text("") == 0 and home.is_dir()
    True
    >>> home.exists()
    False
    """
    parent = sweep(folder)
    try:
        home = _claim(parent, "prefmill-", 0o700)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise BadArgument(
            f"temporary folder: none can be made in {str(parent)!r}; got {error.strerror}.",
            hint="name another with --temp-dir (temp_dir=).",
        ) from None
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
        _release(home)


def abandon() -> None:
    """Remove what this process holds and has not begun to publish: it is about to end without
    unwinding.
    """
    for path, _ in list(_held.values()):
        mark = _MARK.fullmatch(path.name)
        mine = (
            mark is not None and int(mark["pid"]) == os.getpid()
        )  # and not of the parent of a fork
        if mine and not any(_journal(path).values()):
            shutil.rmtree(path, ignore_errors=True)


# --- one writer at a time -------------------------------------------------------------------------


def lock(path: Path, refusal: RunBusy) -> Any:
    """The open file `path`, locked for as long as it is open; raises `refusal` where another
    process holds it.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise refusal from None
    return file


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else publishes in `folder`, or settles what is in it.

    Publishing takes an instant. Who holds the folder for longer is no writer of ours, say
    `flock DIR prefmill ...`.
    """
    if folder.name in _held:  # a temporary folder of our own, locked as such
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + _PATIENCE
        while not _locked(handle) and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether the lock is ours now, or there are none on this file system."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# --- names ----------------------------------------------------------------------------------------


def check_name(target: str | Path, where: str) -> None:
    """Refuse a URL as the place to write to.

    >>> check_name("s3://bucket/x.parquet", "write")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: outputs are local; got 's3://bucket/x.parquet', a place of the scheme 's3'.
    Hint: write to a local file and upload it; a local folder of that name is './s3:/...'.
    """
    scheme = _SCHEME.match(str(target))
    if scheme:
        raise BadArgument(
            f"{where}: outputs are local; got {str(target)!r}, a place of the scheme {scheme[1]!r}.",
            hint=f"write to a local file and upload it; a local folder of that name is './{scheme[1]}:/...'.",
        )


def is_free(target: Path) -> bool:
    """Whether nothing stands at `target`, or only what a run published that died before it could
    say so.
    """
    if not os.path.lexists(target):
        return True
    return any(
        _is(target, _journal(path).get(target.name))
        for path, state in _left_in(target.absolute().parent)
        if state == "dead"
    )


# --- one file inside a folder of our own ----------------------------------------------------------


def put(path: Path, save: Callable[[Path], object]) -> None:
    """One file, whole or not at all, in a folder that its owner has locked (`clear` removes what a
    kill leaves).
    """
    hidden = path.with_name(f".{_short(path.name)}.{_mark()}")
    try:
        save(hidden)
        sync(hidden)
        os.replace(hidden, path)
        sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Finish, undo or remove all that is under hidden names in `folder`, whose lock the caller
    holds.
    """
    if not folder.is_dir():
        return
    settle(folder)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink() and _MARK.fullmatch(path.name):
            path.unlink()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- what others see ------------------------------------------------------------------------------


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
        with _alone(self._parent):
            names = {target.name for target in self._targets}
            for path, state in _left_in(self._parent):
                if state == "living" and not shared and names & set(_journal(path)):
                    raise RunBusy(
                        f"{where}: another process is writing {str(targets[0])!r}.",
                        hint="wait for it, or name another output.",
                    )
            self._own = {
                target for target in self._targets if os.path.lexists(target) and is_free(target)
            }
            _settle_all(self._parent)
            self._home = _claim(self._parent, f".{_short(targets[0].name)}.", 0o777)
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
        with _alone(self._parent):
            for target in self._targets:
                if not overwrite and target not in self._own and os.path.lexists(target):
                    raise TargetExists(
                        f"{self.where}: {str(target)!r} is already there.",
                        hint="use --overwrite, or another name.",
                    )
            linked = len(self._targets) > 1 and self._keep_old()
            self._write_journal(
                {target.name: _identity(self.path(target)) for target in self._targets}
            )
            sync(self._parent)
            if linked:
                self._turn()
            for target in self._targets:
                _move(self.path(target), target)
            sync(self._parent)
        self._published = True

    def _write_journal(self, targets: dict[str, Any]) -> None:
        written = self._home / "written"
        written.write_text(json.dumps(targets), encoding="utf-8")
        sync(written)
        os.replace(written, self._home / _JOURNAL)
        sync(self._home)

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
            os.symlink(_through(self._home, target.name), link)
            os.replace(link, target)
        sync(self._parent)
        os.symlink("new", link)
        os.replace(link, self._home / "now")
        sync(self._home)

    def close(self) -> None:
        """Remove what was not published, and let others have the targets."""
        try:
            if self._published:
                with contextlib.suppress(
                    OSError
                ):  # of no consequence any more; the next start removes it
                    _remove(self._home)
            elif not self._seen():
                with contextlib.suppress(
                    OSError
                ):  # a disk that fails now: the next start undoes it
                    _settle(self._home)
        finally:
            _release(self._home)

    def _seen(self) -> bool:
        """Whether others may have seen what is new, so that there is no way back."""
        written = _journal(self._home)
        there = [_is(self._parent / name, identity) for name, identity in written.items()]
        return all(there) or (any(there) and not (self._home / "now").is_symlink())

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settle(folder: Path, *, but: Collection[Path] = ()) -> None:
    """Finish or undo what dead processes left in `folder`, and remove it; of the targets `but`,
    leave what says whose they are.
    """
    folder = folder.absolute()
    if any(state == "dead" for _, state in _left_in(folder)):
        with _alone(folder):
            _settle_all(folder, {path.name for path in but})


def _settle_all(folder: Path, but: Collection[str] = ()) -> None:
    for path, state in _left_in(folder):
        if state == "dead" and not path.name.startswith("prefmill-"):
            ours = any(
                name in but and _is(folder / name, said) for name, said in _journal(path).items()
            )
            with contextlib.suppress(OSError):  # it stays for a start that may
                _settle(path, keep=ours)


def _settle(home: Path, *, keep: bool = False) -> None:
    """Finish what a dead process published, undo what it did not; remove what it left, or `keep`
    the journal.
    """
    parent, now = home.parent, home / "now"
    written = {name: said for name, said in _journal(home).items() if said is not None}
    if now.is_symlink():
        source = home / os.readlink(now)
        for name in written:
            target = parent / name
            if target.is_symlink() and os.readlink(target) == _through(home, name):
                if os.path.lexists(source / name):
                    os.replace(source / name, target)
                else:
                    target.unlink()
    else:
        for name in written:
            moved_aside = home / "old" / name
            if moved_aside.is_dir() and not os.path.lexists(parent / name):
                os.rename(moved_aside, parent / name)
        if any(
            _is(parent / name, said) for name, said in written.items()
        ):  # begun without links: the only way is on
            for name in written:
                if (home / "new" / name).is_file():
                    os.replace(home / "new" / name, parent / name)
    if written:
        sync(parent)
    if not keep:
        _remove(home)


def _remove(home: Path) -> None:
    """A staging folder, its journal last: it says whose the output is, should this process die
    before the end.
    """
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _JOURNAL:
            path.unlink()
    (home / _JOURNAL).unlink(missing_ok=True)
    home.rmdir()


def _move(source: Path, target: Path) -> None:
    """What is made to its place; an old folder goes where it was made, for folders do not replace
    each other.
    """
    if not source.is_dir() or not target.is_dir():
        os.replace(source, target)
    elif not _exchange(source, target):
        aside = source.parent.parent / "old"
        aside.mkdir(exist_ok=True)
        os.rename(target, aside / target.name)
        try:
            os.rename(source, target)
        except BaseException:
            os.rename(aside / target.name, target)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
        names = (os.fsencode(one), os.fsencode(other))
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, 2)  # RENAME_SWAP
        else:
            failed = library.renameat2(
                -100, names[0], -100, names[1], 2
            )  # AT_FDCWD, RENAME_EXCHANGE
    except (AttributeError, OSError):
        return False
    if failed and ctypes.get_errno() not in (
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EXDEV,
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    return not failed


def _through(home: Path, name: str) -> str:
    return f"{home.name}/now/{name}"


def _short(name: str) -> str:
    """At most 120 bytes of a name: names end at 255, and more comes after it."""
    return os.fsdecode(os.fsencode(name)[:120])


def _journal(home: Path) -> dict[str, Any]:
    """The targets of a staging folder; what each is, once it is being published."""
    try:
        found = json.loads((home / _JOURNAL).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity(path: Path) -> list[int]:
    """What a file keeps when it is renamed."""
    found = path.stat()
    return [found.st_ino, found.st_mtime_ns, 0 if path.is_dir() else found.st_size]


def _is(path: Path, identity: list[int] | None) -> bool:
    try:
        return identity is not None and _identity(path) == identity
    except OSError:
        return False
