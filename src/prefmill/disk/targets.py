"""Targets of either kind, a path or an object: one door to what publishes them.

A target is a `Path`. That of an object has lost one of its slashes (`s3:/bucket/x`), and `shown`
gives it back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from prefmill.disk import settling, whole
from prefmill.disk.uploads import Manifest, ObjectStaging, give_back, home_of, standing
from prefmill.objects import is_object, refuse_unknown, url_of

__all__ = [
    "check_free",
    "give_back",
    "is_object",
    "is_there",
    "settle",
    "shown",
    "staging",
    "standing_of",
    "target_of",
    "version_of",
]


class Publisher(Protocol):
    """Where files or folders are made that become targets; see `whole.Staging`."""

    def path(self, target: Path) -> Path: ...
    def replaces(self, target: Path) -> bool: ...
    def publish(self, *, overwrite: bool) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Publisher: ...
    def __exit__(self, *error: object) -> None: ...


def target_of(target: str | Path, where: str) -> Path:
    """A target as a `Path`. Raises `BadArgument` for a URL of an unknown scheme.

    >>> target_of("s3://bucket/x.parquet", "write"), target_of("out/x.csv", "write")
    (PosixPath('s3:/bucket/x.parquet'), PosixPath('out/x.csv'))
    """
    refuse_unknown(target, where)
    path = Path(target)
    if is_object(target):
        home_of(path)  # it has a name
        return path
    # `./s3:/x` is a local file, and `Path` takes its dot away.
    return path.absolute() if is_object(path) else path


def shown(target: str | Path) -> str:
    """A target as its owner would type it."""
    return url_of(target)


def from_here(path: str) -> str:
    """A file below the working folder as people type it; any other as it is.

    >>> from_here(f"{Path.cwd()}/rows.csv"), from_here("/elsewhere/rows.csv")
    ('rows.csv', '/elsewhere/rows.csv')
    """
    return path.removeprefix(f"{Path.cwd()}{os.sep}")


def staging(targets: list[Path], *, where: str, shared: bool = False) -> Publisher:
    """Where `targets`, all of one folder, are made: raises what `whole.Staging` raises.

    Raises `MissingPackage` and `StoreFailed` too where they are objects.
    """
    make = ObjectStaging if is_object(targets[0]) else whole.Staging
    return make(targets, where=where, shared=shared)


def check_free(*targets: Path, overwrite: bool, where: str) -> None:
    """Raise `TargetExists` where a target stands already and may not be replaced."""
    if not is_object(targets[0]):
        whole.check_free(*targets, overwrite=overwrite, where=where)
        return
    if not overwrite:
        for target in standing(targets):
            raise whole.taken(target, where)
    # That there is such a bucket is known before hours of work; a head would not say.
    store, name = home_of(targets[0])
    store.names(f".{name}.prefmill/")


def settle(target: Path, *, but: list[Path]) -> None:
    """Make good what dead processes left next to a local target; of objects it waits for a writer.

    `but` are targets whose journals stay.
    """
    if not is_object(target):
        settling.settle(target.parent, but=but)


def is_there(target: Path) -> bool:
    """Whether something stands at a target."""
    return version_of(target) is not None


def standing_of(target: Path) -> Any:
    """What changes when somebody writes to a target, as plain JSON; None where there is none.

    Of a file its size and its time (ns), of a folder those of its files, of an object its tag.
    """
    if is_object(target):
        return version_of(target)
    if not target.exists():
        return None
    files = sorted(target.rglob("*")) if target.is_dir() else [target]
    stats = [(path.relative_to(target).as_posix(), path.stat()) for path in files if path.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def version_of(target: Path) -> int | str | None:
    """What tells the content of a target from another; None where there is none.

    Of a file its size, of an object its tag, of a folder of objects the run that published it.
    """
    if not is_object(target):
        return target.stat().st_size if target.exists() else None
    store, name = home_of(target)
    tag = store.tag_of(name)
    if tag is not None or not store.names(f"{name}/"):
        return tag
    manifest, _ = Manifest.read(store, name)
    return "a folder" if manifest is None else manifest.run
