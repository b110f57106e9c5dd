"""A run that writes keeps a record next to its output: done before, it does nothing.

    with recording("pairs", outputs, key, overwrite=overwrite) as record:
        if record.done:
            return record.restored(RunReport)
        ...
        writers.write(..., publish=record.publisher(lambda written: RunReport(...)))
        return record.made

The record appears with the output: before, the old record holds, or none. See `disk/records.py`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prefmill.disk import records
from prefmill.disk.leases import Lease, remove_dead
from prefmill.disk.ledger import is_chunk
from prefmill.disk.locks import FolderLock
from prefmill.disk.records import MANIFEST, NEXT, Document, Still, files_stand
from prefmill.disk.settling import clear, sync
from prefmill.disk.stores import Save, Store, store_of
from prefmill.disk.targets import (
    Publisher,
    give_back,
    is_object,
    is_there,
    settle,
    shown,
    target_of,
)
from prefmill.disk.whole import linked
from prefmill.errors import RunBusy
from prefmill.redact import redacted, redacted_key
from prefmill.runs.records.inputs import IN_MEMORY, is_certain
from prefmill.runs.records.recorded import (
    WORDS,
    changed,
    input_told,
    instant,
    options_of,
    outputs_of,
    plain,
    restored,
    versions,
)
from prefmill.telemetry.watch import note
from prefmill.writers.write import Staged, Written

_Report = TypeVar("_Report")
#: What a report says of a run that was done before.
NOTHING_TO_DO = "this run was done before: nothing was to do."
_LEASE = "run.lease"


class Recording:
    """The record of one run over `outputs`, while it runs.

    key        what decides the output, by name, nested; `run_key` is its hash
    previous   the record of what stands at the outputs; None where nothing does, or a stranger's
    done       what stands is from this very run
    overwrites what stands may be replaced: as asked, or it is from this very run
    store      where the record lies; None where nothing is recorded (no output, stdin, stdout)
    facts      further parts of the record: `inputs`, `plan`, `fingerprints`, `seed`, `read_as`
    made       the report, once the output is published
    document   the record, once the output is published
    """

    def __init__(
        self,
        command: str,
        outputs: Sequence[Path],
        key: Mapping[str, Any],
        *,
        overwrite: bool,
        still: Still = files_stand,
        finished: Callable[[], bool] | None = None,
    ) -> None:
        self._finished = finished
        self.command, self.outputs = command, list(outputs)
        self.key: dict[str, Any] = redacted_key(json.loads(json.dumps(key, default=plain)))
        self.run_key = records.key_hash(self.key)
        self.run = secrets.token_hex(4)
        self.overwrite, self.still = overwrite, still
        self.folder = records.folder_of(self.outputs[0]) if self.outputs else None
        self.store: Store | None = None
        self.previous: Document | None = None
        self.done = False
        self.overwrites = overwrite
        self.dangling = False  #: a run died as it published, or left what it kept
        self.lock: FolderLock | Lease | None = None  #: held while the run lasts
        self.facts: dict[str, Any] = {}
        self.made: Any = None
        self.document: Document | None = None
        self._kept: list[str] = []
        self._started, self._clock = time.time(), time.perf_counter()

    @property
    def certain(self) -> bool:
        """Whether the inputs are told apart by their content."""
        return is_certain([*self.key.get("inputs", ()), *self.key.get("joined", ())])

    def look(self, free: Collection[str] | None) -> None:
        """Look at what stands. Raises `RunDiffers` where it is from a run of another key.

        `free` are parts of the key that may differ; None: all of them.
        """
        assert self.folder is not None
        found = records.standing(self.folder, self.still)
        self.previous = found[1] if found else None
        self.dangling = found is not None and found[0] == NEXT
        if not is_object(self.folder):
            dead = records.of_dead_runs(self.folder, found and found[1])
            self.dangling |= bool(dead) or (self.folder / NEXT).exists()
        if self.previous is None or self.overwrite:
            return
        same = self.done = self.certain and self._is_of(self.previous)
        if self.done and self._finished and not self._finished():
            self.done, self.overwrites = False, True
        if self.done and not all(map(is_there, self.rejects)):
            self.done, self.overwrites = False, True  # a part of the run is to be made again
        if same or free is None:
            return
        changes = self.differences(free)
        if changes and self.certain:
            raise records.differ(
                shown(self.outputs[0]),
                changes,
                where=self.command,
                hint="--overwrite begins anew, or name another output.",
            )

    def _is_of(self, before: Document) -> bool:
        """Whether a record is of this very run."""
        return self.run_key in (before["run_key"], records.key_hash(self._key_of(before)))

    def _key_of(self, before: Document) -> dict[str, Any]:
        """The key of a record; with the words that its run guessed, where now some are typed.

        What a run guesses it prints as options, so typing those asks for the same run.
        """
        key, words = before.get("key", {}), self.key.get("rows")
        read_as = before.get("read_as")
        if not words or not read_as or words == key.get("rows"):
            return dict(key)
        return {**key, "rows": words if options_of(read_as) == options_of(words) else read_as}

    def differences(self, free: Collection[str]) -> list[tuple[str, Any, Any]]:
        """What of the key, `free` left out, is another than in the record before."""
        before = self._key_of(self.previous or {})
        bound, now = ({n: v for n, v in k.items() if n not in free} for k in (before, self.key))
        return list(changed(bound, now))

    def refuse_other_words(self) -> None:
        """Raise `RunDiffers` where a run that goes on would read other columns than before.

        Files that come may change what is guessed, and the parts of one output are read alike.
        """
        before = (self.previous or {}).get("read_as")
        was, now = options_of(before), options_of(self.facts["read_as"])
        if before and was != now and not self.overwrite:
            raise records.differ(
                shown(self.outputs[0]),
                [(WORDS, was, now)],
                where=self.command,
                hint="these are guesses: type the options that are meant. Those of before go on;"
                " others need --overwrite, which begins anew.",
            )

    def hold(self, store: Store) -> None:
        """Be the writer: a record that a dead one left next to its output is put in its place."""
        self.store = store
        found = records.standing(self._folder, self.still)
        if found and found[0] == NEXT:
            self._put(MANIFEST, found[1])
        if not is_object(self._folder):
            clear(self._folder)
            for left in records.of_dead_runs(self._folder, found and found[1]):
                shutil.rmtree(left, ignore_errors=True)
        self.store.delete(NEXT)

    @property
    def rejects(self) -> list[Path]:
        """Where rows that cannot be read are put, if anywhere."""
        place = self.key.get("rejects")
        return [target_of(place, self.command)] if place else []

    def rest(self, store: Store) -> list[str]:
        """What a run left in a store of objects, killed once it had published."""
        if not is_object(self._folder):
            return []  # `clear` knows
        return [name for name in store.names() if is_chunk(name) or name == NEXT]

    @property
    def _folder(self) -> Path:
        assert self.folder is not None
        return self.folder

    def _put(self, name: str, document: Document) -> None:
        assert self.store is not None
        content = redacted(json.loads(json.dumps(document, default=plain)))
        # In ASCII: a name that is no UTF-8 has characters that no file takes.
        self.store.put_text(name, json.dumps(content, indent=1))

    def read(self, inputs: Iterable[tuple[str, int]]) -> None:
        """Note how many rows each input has, by what readers call it."""
        if self.store is None:
            return
        inputs = list(inputs)
        counts = {
            str(Path(label).absolute()) if "://" not in label else label: count
            for label, count in inputs
        }
        counts[IN_MEMORY] = sum(count for _, count in inputs)
        self.facts["inputs"] = [
            {**input_told(known), "rows": counts.get(str(known[0]))} for known in self.key["inputs"]
        ]

    def keep(self, name: str, save: Save) -> None:
        """Keep a file for the next run: it comes and goes with the record. See `kept`."""
        assert self.store is not None
        self.store.put(f"{self.run}/{name}", save)
        self._kept.append(f"{self.run}/{name}")

    def keep_file(self, name: str, path: Path) -> None:
        """`keep` of a file that stays as it is: a link, where there can be one."""
        assert self.store is not None
        if is_object(self._folder):
            self.store.put_file(f"{self.run}/{name}", path)
        else:
            home = self._folder / self.run
            home.mkdir(parents=True, exist_ok=True)
            linked(path, home / name)
            sync(home / name)
        self._kept.append(f"{self.run}/{name}")

    def kept(self, name: str) -> Path | None:
        """A file that the run of `previous` kept; None where there is none."""
        at = [each for each in (self.previous or {}).get("kept", ()) if each.endswith(f"/{name}")]
        return self._folder / at[0] if at else None

    def publisher(self, report: Callable[[Written], Any]) -> Callable[[Staged, bool], None]:
        """How `writers.write` publishes; `report` makes the report of what is to be published."""

        def publish(staged: Staged, overwrite: bool) -> None:
            self.made = report(staged.written)
            self.publish_staged(staged, overwrite, report=asdict(self.made))
            if hasattr(self.made, "seconds"):
                seconds = round(time.perf_counter() - self._clock, 3)
                self.made = replace(self.made, seconds=seconds)

        return publish

    def publish_staged(self, staged: Staged, overwrite: bool, *, report: Mapping[str, Any]) -> None:
        """`publish` of what `writers.write` made."""
        outputs = [] if self.store is None else outputs_of(staged)
        self.publish(outputs, lambda: staged.publish(overwrite=overwrite), report=report)

    def publish_files(
        self,
        stage: Publisher,
        *,
        overwrite: bool,
        report: Mapping[str, Any],
        rows: int | None = None,
        schema: Mapping[str, str] | None = None,
    ) -> None:
        """`publish` of the files that were made at `stage`; of `rows` and `schema` where known."""
        told = {"split": None, "rows": rows, **({"schema": dict(schema)} if schema else {})}
        made = [] if self.store is None else self.outputs
        outputs = [
            {"path": each.name, **told, "files": records.described(each, stage.path(each))}
            for each in made
        ]
        self.publish(outputs, lambda: stage.publish(overwrite=overwrite), report=report)

    def publish(
        self,
        outputs: Sequence[Mapping[str, Any]],
        publish: Callable[[], object],
        *,
        report: Mapping[str, Any],
    ) -> None:
        """Let `publish` make `outputs` what readers see, and the record with them.

        Each output has a `path` (in the folder of the record), `rows`, `schema`, and what `still`
        compares. The record of a commit that the outputs themselves tell apart needs nothing else.
        """
        if self.store is None:
            publish()
            return
        document = self._document(outputs, report)
        self._put(NEXT, document)
        publish()
        parent = self._folder.parent
        document["outputs"] = [records.with_tags(output, parent) for output in outputs]
        document |= self._times()
        if "seconds" in report:
            document["report"] = {**report, "seconds": document["seconds"]}
        self._put(MANIFEST, document)
        self.store.delete(NEXT)
        self._forget()
        self.document = document

    def _document(
        self, outputs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]
    ) -> Document:
        facts = dict(self.facts)
        inputs = facts.pop("inputs", [input_told(known) for known in self.key.get("inputs", ())])
        return {
            "version": records.VERSION,
            "command": self.command,
            "state": "done",
            "run": self.run,
            "run_key": self.run_key,
            "key": self.key,
            "inputs": inputs,
            "outputs": list(outputs),
            **facts,
            "versions": versions(),
            "report": dict(report),
            "kept": list(self._kept),
            **self._times(),
        }

    def _times(self) -> dict[str, Any]:
        return {
            "started": instant(self._started),
            "ended": instant(time.time()),
            "seconds": round(time.perf_counter() - self._clock, 3),
        }

    def _forget(self) -> None:
        """Remove what earlier runs kept."""
        assert self.store is not None
        for kept in (self.previous or {}).get("kept", ()):
            if kept not in self._kept:
                self.store.delete(kept)
                if not is_object(self._folder):
                    with suppress(OSError):
                        (self._folder / kept).parent.rmdir()

    def restored(self, kind: type[_Report]) -> _Report:
        """The report of the run that wrote what stands, with a note that nothing was to do."""
        return self.restored_by(partial(restored, kind))

    def restored_by(self, read: Callable[[Mapping[str, Any]], _Report]) -> _Report:
        """`restored` of a report that `read` makes of what was recorded."""
        assert self.previous is not None
        self.document = self.previous
        report = read(self.previous["report"])
        notes = type(report.notes)([*report.notes, NOTHING_TO_DO])  # type: ignore[attr-defined]
        return replace(report, notes=notes)  # type: ignore[type-var]


@contextmanager
def recording(
    command: str,
    outputs: Sequence[Path],
    key: Mapping[str, Any],
    *,
    overwrite: bool = False,
    free: Collection[str] | None = (),
    still: Still = files_stand,
    finished: Callable[[], bool] | None = None,
) -> Iterator[Recording]:
    """The record of a run that writes `outputs`, the files or the folder that will appear.

    Args:
        command: as people know it; also in errors.
        outputs: none for a run that only reports, and of stdout: then nothing is recorded.
        key: what decides the output: `inputs` (and `joined`) of `inputs.known_of`, the plan, the
            words as they were given, and every option that changes what is written.
        free: parts of the key that may differ from those of what stands; None: all of them, where
            the caller looks itself.
        still: whether an output of a record is what stands; for targets that are no files.
        finished: whether a run that published has also put away what it kept to go on with; one
            that has not is gone on with, and publishes again.

    A run that was done before is known without the lock. Any other holds it until the end, so of
    two writers one gets `RunBusy`. Raises `RunDiffers` for the output of another key, `RunBusy`. A
    run that ends without an output leaves nothing.
    """
    targets = list(outputs)
    record = Recording(command, targets, key, overwrite=overwrite, still=still, finished=finished)
    if record.folder is None:
        yield record
        return
    note(run_key=record.run_key)
    if not is_object(targets[0]):
        settle(targets[0], but=targets)
    record.look(free)
    store = store_of(record.folder, command)
    if record.done:
        settle(targets[0], but=[])  # what a dead writer could not remove
        with suppress(RunBusy):  # then a living one is at it
            if record.dangling or record.rest(store):
                with _held(store, record.folder, _busy(record)):
                    record.hold(store)
                    for name in record.rest(store):
                        store.delete(name)
        if is_object(targets[0]):
            remove_dead(store, _LEASE)
            give_back([*targets, *filter(is_object, record.rejects)])
        yield record
        return
    with _held(store, record.folder, _busy(record)) as record.lock:
        record.look(free)  # another may have finished meanwhile
        record.hold(store)
        yield record


def _busy(record: Recording) -> RunBusy:
    return RunBusy(
        f"{record.command}: another process is writing {shown(record.outputs[0])!r}.",
        hint="wait for it, or name another output.",
    )


@contextmanager
def _held(store: Store, folder: Path, refusal: RunBusy) -> Iterator[FolderLock | Lease]:
    if is_object(folder):
        with Lease(store, _LEASE, refusal) as lease:
            yield lease
        return
    with contextlib.closing(FolderLock(folder, refusal)) as held:
        yield held
