"""Objects that appear whole or not at all, one by one; sets of them, by a manifest.

    s3://bucket/data/
      pairs-train.parquet, pairs-test.parquet     what readers see
      .pairs-train.parquet.prefmill/
        write.lease                               whose the target is, while somebody writes it
        new/RUN/pairs-train.parquet, ...          a set that is not published yet
        outputs.json                              the set that is valid, and where its objects are

What is written is made in a local temporary folder first. A single object goes up in one request,
or in parts that appear together. Of a set, or a folder, every object goes up under a hidden name;
then the manifest is put, on the condition that it is still the one that was read: from here on the
new set is valid. Then each object is copied to its place, and the manifest says so. Who reads by
the manifest (`objects_of`) finds old or new at every instant. Who reads plain names finds every
object whole, and for the seconds of copying some old and some new.

A kill before the manifest leaves the old set; one after it is made good by the next start.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.disk.hidden import claim, release, sweep
from prefmill.disk.leases import Lease, note_left, remove_dead
from prefmill.disk.stores import ObjectStore
from prefmill.disk.whole import taken
from prefmill.errors import BadArgument, BadInput, RunBusy
from prefmill.objects import bucket, split_url, url_of

_MANIFEST = "outputs.json"
_LEASE = "write.lease"


def home_of(target: str | Path) -> tuple[ObjectStore, str]:
    """The folder of a target as a store, and the target's name in it."""
    url = url_of(target)
    root, key = split_url(url)
    folder, _, name = key.rpartition("/")
    if not name:
        raise BadArgument(f"write: {url!r} names a bucket; expected the name of an object in it.")
    bucket(root, "write")
    return ObjectStore(root, folder), name


def _aside(name: str, inside: str) -> str:
    return f".{name}.prefmill/{inside}"


@dataclass(frozen=True)
class Manifest:
    """What is valid of a set: the objects by their names, each with the name it is found under."""

    run: str
    moved: bool  #: every object is at its own name
    objects: dict[str, str]
    dropped: tuple[str, ...] = ()  #: names of the old set that go

    @classmethod
    def read(cls, store: ObjectStore, name: str) -> tuple[Manifest | None, str | None]:
        """The manifest of a target and its tag; None where there is none."""
        try:
            text, tag = store.tagged(_aside(name, _MANIFEST))
        except FileNotFoundError:
            return None, None
        try:
            content = json.loads(text)
            objects = {str(each): str(at) for each, at in content["objects"].items()}
            dropped = tuple(map(str, content["dropped"]))
            return cls(str(content["run"]), bool(content["moved"]), objects, dropped), tag
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"write: {store.url(_aside(name, _MANIFEST))} says nothing that can be used;"
                f" {error!r}.",
                hint="remove it where the objects next to it are whole.",
            ) from error

    def put(self, store: ObjectStore, name: str, tag: str | None) -> bool:
        """Make it valid where the manifest is still that of `tag`; False where it is not."""
        content = {
            "version": 1,
            "run": self.run,
            "moved": self.moved,
            "objects": self.objects,
            "dropped": list(self.dropped),
        }
        text, place = json.dumps(content, indent=1), _aside(name, _MANIFEST)
        if store.put_new(place, text) if tag is None else store.replace(place, text, tag):
            return True
        try:  # the store may have taken it, and its answer been lost
            return store.get_text(place) == text
        except FileNotFoundError:
            return False


def objects_of(target: str | Path) -> dict[str, str]:
    """Where the objects of a set are to be read now: URLs by their names; empty without a manifest.

    `target` is the first of the set's names, or its folder. Old or new at every instant; an object
    that goes away while it is read was of the old set: ask again.
    """
    store, name = home_of(target)
    manifest, _ = Manifest.read(store, name)
    if manifest is None:
        return {}
    return {each: store.url(at) for each, at in manifest.objects.items()}


def standing(targets: Sequence[Path]) -> list[Path]:
    """The targets at which something stands, but what a dead run published and could not say."""
    notes = []
    for target in targets:
        store, name = home_of(target)
        notes.append((store, note_left(store, _aside(name, _LEASE))))
    found = []
    for target in targets:
        store, name = home_of(target)
        if _stands(store, name) and not any(_is_left(name, *note) for note in notes):
            found.append(target)
    return found


def give_back(targets: Sequence[Path]) -> None:
    """Remove the leases of dead writers of `targets`, which they had published: a request each."""
    for target in targets:
        store, name = home_of(target)
        remove_dead(store, _aside(name, _LEASE))


def _stands(store: ObjectStore, name: str) -> bool:
    return store.tag_of(name) is not None or bool(store.names(f"{name}/"))


def _is_left(name: str, store: ObjectStore, note: dict[str, Any]) -> bool:
    """Whether what stands at `name` is what the owner of `note` was about to publish."""
    if "run" in note:
        manifest, _ = Manifest.read(store, str(note["first"]))
        names = {each.split("/")[0] for each in manifest.objects} if manifest else set()
        return manifest is not None and manifest.run == note["run"] and name in names
    if note.get("name") != name or store.tag_of(name) in (None, note["before"]):
        return False
    return bool(store.size(name) == note["size"])


class ObjectStaging:
    """`whole.Staging` for targets in one folder of an object store; see there.

    shared    several processes may make the same targets at once, and the last one stays
    """

    def __init__(self, targets: Sequence[Path], *, where: str, shared: bool = False) -> None:
        self.where, self._targets, self._shared = where, list(targets), shared
        self._store, self._first = home_of(targets[0])
        self._run = secrets.token_hex(8)
        self._published = False
        self._leases: dict[str, Lease] = {}
        self._own: set[str] = set()
        self._home = claim(sweep(), "", 0o700)
        try:
            (self._home / "new").mkdir()
            if not shared:
                self._lease()
            self._settle()
            notes = [lease.note for lease in self._leases.values()]
            self._own = {
                target.name
                for target in targets
                if any(_is_left(target.name, self._store, note) for note in notes)
            }
        except BaseException:
            self.close()
            raise

    def _lease(self) -> None:
        for target in sorted(self._targets):
            refusal = RunBusy(
                f"{self.where}: another process is writing {url_of(target)!r}.",
                hint="wait for it, or name another output.",
            )
            place = _aside(target.name, _LEASE)
            self._leases[target.name] = Lease(self._store, place, refusal)

    def path(self, target: Path) -> Path:
        """Where to write what becomes `target`."""
        return self._home / "new" / target.name

    def replaces(self, target: Path) -> bool:
        """Whether what stands at `target` is of a run that died before it could say so."""
        return target.name in self._own

    def publish(self, *, overwrite: bool) -> None:
        """Upload everything, then make it what readers see. Raises `TargetExists`, `RunBusy`."""
        for target in self._targets:
            free = overwrite or self._shared or target.name in self._own
            if not free and _stands(self._store, target.name):
                raise taken(target, self.where)
        for lease in self._leases.values():
            lease.check()
        if len(self._targets) == 1 and self.path(self._targets[0]).is_file():
            self._put_one(self._targets[0], overwrite)
        else:
            self._put_set()
        self._published = True

    def _put_one(self, target: Path, overwrite: bool) -> None:
        name, path = target.name, self.path(target)
        before = self._store.tag_of(name)
        for lease in self._leases.values():
            lease.say({"name": name, "size": path.stat().st_size, "before": before})
        if overwrite or self._shared or name in self._own:
            self._store.put_file(name, path)
        elif not self._store.put_where_none(name, path):
            raise taken(target, self.where)
        # A set that once had this name is no more.
        if Manifest.read(self._store, self._first)[0] is not None:
            self._store.delete(_aside(self._first, _MANIFEST))

    def _put_set(self) -> None:
        _, tag = Manifest.read(self._store, self._first)
        files, dropped = self._files()
        hidden = {name: _aside(self._first, f"new/{self._run}/{name}") for name in files}
        for name, path in files.items():
            self._store.put_file(hidden[name], path)
        for lease in self._leases.values():
            lease.say({"run": self._run, "first": self._first})
        manifest = Manifest(self._run, False, hidden, tuple(dropped))
        if not manifest.put(self._store, self._first, tag):
            raise RunBusy(
                f"{self.where}: another process has written {url_of(self._targets[0])!r}.",
                hint="run the same command again, or name another output.",
            )
        self._move(manifest)

    def _files(self) -> tuple[dict[str, Path], list[str]]:
        """The files to upload by the names they get, and the names of old ones that go."""
        files: dict[str, Path] = {}
        old: list[str] = []
        for target in self._targets:
            source = self.path(target)
            if source.is_file():
                files[target.name] = source
                continue
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    files[f"{target.name}/{path.relative_to(source).as_posix()}"] = path
            old += self._store.names(f"{target.name}/")
        return files, [name for name in old if name not in files]

    def _move(self, manifest: Manifest) -> None:
        """What is valid to its place, and then the manifest says so."""
        store = self._store
        for name, at in manifest.objects.items():
            store.copy(at, name)
        for name in manifest.dropped:
            store.delete(name)
        _, tag = Manifest.read(store, self._first)
        there = {name: name for name in manifest.objects}
        Manifest(manifest.run, True, there).put(store, self._first, tag)
        self._clear()

    def _settle(self) -> None:
        """Make good what a dead process has begun: it is moved on, or removed."""
        manifest, _ = Manifest.read(self._store, self._first)
        if manifest is not None and not manifest.moved:
            self._move(manifest)
        else:
            self._clear()

    def _clear(self) -> None:
        if not self._shared:
            for name in self._store.names(_aside(self._first, "new/")):
                self._store.delete(name)

    def close(self) -> None:
        """Remove what was not published, and let others have the targets."""
        shutil.rmtree(self._home, ignore_errors=True)
        release(self._home)
        kept = not self._published and bool(self._own)
        # What the first one notes is true of all.
        with ExitStack() as closing:
            for name in sorted(self._leases, key=lambda name: name != self._first):
                closing.callback(self._leases[name].close, keep=kept)

    def __enter__(self) -> ObjectStaging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
