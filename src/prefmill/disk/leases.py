"""The right to write, held in a store: a small file with its owner, who renews it while he lives.

Object stores have no locks that go with their owner. So a lease names its owner, and the hour. An
owner on this machine whose process is gone is dead at once. Any other is dead where he has not
renewed his lease for `SILENT` seconds; a contender then watches it for `WATCH` more, so that a
clock that is wrong takes no lease away. Every step is a conditional put: of two contenders one has
it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from prefmill.disk.hidden import is_dead, owner_mark
from prefmill.disk.stores import Store
from prefmill.errors import RunBusy, StoreFailed

#: Seconds between two renewals; without one for how long an owner seems dead; and how long a
#: contender watches before he believes it.
BEAT, SILENT, WATCH = 15.0, 90.0, 40.0


class Lease:
    """A lease on the file `name`; taken when made, given back by `close`. Use it as a context.

    note    what its owner says of what he publishes: who takes the lease of a dead one finds it

    Costs two requests, and one each 15 seconds. Raises `refusal` where another holds it.
    """

    def __init__(self, store: Store, name: str, refusal: RunBusy) -> None:
        self._store, self._name, self._refusal = store, name, refusal
        self._owner = owner_mark()
        self._tag = ""
        self.note: dict[str, Any] = {}
        self.lost = False
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._take()
        self._beats = threading.Thread(target=self._beat, name="prefmill-lease", daemon=True)
        self._beats.start()

    def _take(self) -> None:
        while not self._store.put_new(self._name, self._text()):
            try:
                text, tag = self._store.tagged(self._name)
            except FileNotFoundError:
                continue  # it was given back just now
            if _read(text).get("owner") == self._owner:
                self._tag = tag  # ours: the answer was lost on the way
                return
            if not is_free(text) and not self._is_silent(text, tag):
                raise self._refusal
            self.note = dict(_read(text).get("note", {}))
            if self._store.replace(self._name, self._text(), tag):
                break
        self._tag = self._tag_of_mine()

    def _tag_of_mine(self) -> str:
        try:
            text, tag = self._store.tagged(self._name)
        except FileNotFoundError:
            raise self._refusal from None
        if _read(text).get("owner") != self._owner:
            raise self._refusal
        return tag

    def _is_silent(self, text: str, tag: str) -> bool:
        """Whether the owner, on another machine, has gone; watching takes a while."""
        if time.time() - float(_read(text).get("at", 0)) < SILENT:
            return False
        time.sleep(WATCH)
        try:
            return self._store.tagged(self._name)[1] == tag
        except FileNotFoundError:
            return False

    def _text(self, owner: str | None = None) -> str:
        held = {"owner": self._owner if owner is None else owner, "at": time.time()}
        return json.dumps({**held, "note": self.note})

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            # A store that does not answer now may do so at the next beat.
            with contextlib.suppress(StoreFailed):
                self._renew()

    def _renew(self, owner: str | None = None) -> None:
        with self._guard:
            if self.lost or (self._done.is_set() and owner is None):
                return
            try:
                if self._store.replace(self._name, self._text(owner), self._tag):
                    if owner is None:
                        self._tag = self._tag_of_mine()
                    return
                self._tag = self._tag_of_mine()
            except RunBusy:
                self.lost = True

    def say(self, note: Mapping[str, Any]) -> None:
        """Leave `note` for who comes after. Raises `RunBusy` where the lease is lost."""
        self.note = dict(note)
        self._renew()
        self.check()

    def check(self) -> None:
        """Raise `RunBusy` where another has taken the lease."""
        if self.lost:
            raise self._refusal

    def close(self, *, keep: bool = False) -> None:
        """Give it back; with `keep` its note stays for who comes after."""
        self._done.set()
        self._beats.join()
        if self.lost:
            return
        with contextlib.suppress(StoreFailed, FileNotFoundError):  # then it ends by itself
            if keep:
                self._renew(owner="")
            elif self._store.tagged(self._name)[1] == self._tag:
                self._store.delete(self._name)
        self.lost = True

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def is_free(text: str) -> bool:
    """Whether the text of a lease says that nobody has it, as far as can be seen at once."""
    owner = str(_read(text).get("owner", ""))
    return not owner or is_dead(owner)


def remove_dead(store: Store, name: str) -> None:
    """Remove a lease whose owner is gone; that of a living one stays. Costs a request."""
    try:
        free = is_free(store.get_text(name))
    except FileNotFoundError:
        return
    if free:
        refusal = RunBusy(f"store: another process holds {store.url(name)!r}.")
        with contextlib.suppress(RunBusy):  # somebody began just now
            Lease(store, name, refusal).close()


def note_left(store: Store, name: str) -> dict[str, Any]:
    """What a dead owner of a lease has noted; empty where he lives, or there is no lease."""
    try:
        text = store.get_text(name)
    except FileNotFoundError:
        return {}
    silent = time.time() - float(_read(text).get("at", 0)) > SILENT
    return dict(_read(text).get("note", {})) if is_free(text) or silent else {}
