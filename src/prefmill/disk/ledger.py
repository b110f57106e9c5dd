"""What a resumable run keeps on disk: which run it is, and one file for every chunk that is done.

    scored.parquet             appears at once, when all chunks are done
    .scored.parquet.prefmill/  ledger.json, 000000.arrow, 000001.arrow, ...
                               and batches-0.sqlite, where answers come in batches
                               of a run that is done only ledger.json stays, next to its record

The same next to an object, with a lease for the lock. A file is whole or absent; killed at any
instant, a run loses the chunk in work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from prefmill.disk.leases import Lease
from prefmill.disk.locks import FolderLock
from prefmill.disk.records import differ, differences, folder_of
from prefmill.disk.settling import clear
from prefmill.disk.stores import Save, Store, store_of
from prefmill.disk.targets import is_object, is_there, shown, standing_of, version_of
from prefmill.errors import BadInput, RunBusy, RunDiffers, StoreFailed, TargetExists
from prefmill.redact import redacted_key

#: The columns of a chunk, and what was counted in it.
Chunk = tuple[pa.RecordBatch, dict[str, int]]
#: Chunks that are asked for at a time, of an object store.
_AHEAD = 8
_CHUNK = re.compile(r"[^/]*\.arrow")
_VERSION = 1
LEDGER = "ledger.json"
_ANEW = "--overwrite begins anew."
#: what is asked in batches; it binds a run, as a chunk does
BATCHES = "batches-*"


def key_of(output: Path) -> dict[str, Any]:
    """The key of the run to which `output` belongs; empty where there is none."""
    try:
        manifest = json.loads(store_of(folder_of(output)).get_text(LEDGER))
        key: dict[str, Any] = manifest["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return key


def key_of_finished(output: Path) -> dict[str, Any]:
    """The key of the run that wrote `output` as it stands there; empty where nobody knows."""
    try:
        manifest = json.loads(store_of(folder_of(output)).get_text(LEDGER))
        own = _is_own(manifest, output)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return key_of(output) if own else {}


def is_chunk(name: str) -> bool:
    """Whether a file next to a ledger is a chunk of its run, or what it took over."""
    return _CHUNK.fullmatch(name) is not None


def _is_own(manifest: Mapping[str, Any], output: Path) -> bool:
    """Whether `output` stands as the run of a ledger left it."""
    size = manifest["size"]
    if manifest["state"] != "done" or size is None or size != version_of(output):
        return False
    # Another content may have the same size.
    return manifest.get("standing") in (None, standing_of(output))


def is_begun(output: Path) -> bool:
    """Whether a run next to `output` is to be gone on with."""
    try:
        manifest = json.loads(store_of(folder_of(output)).get_text(LEDGER))
        return bool(manifest["state"] != "done")
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Ledger:
    """The chunks of one run, for one output. Use it as a context: it holds a lock.

    key    what decides the result, by name, nested; a ledger of another key is refused, and the
           difference is named. A name `on_...` may go from `error` to `null`: a run that a bad row
           stopped goes on without it.
    shape  what may move the last bit of a result; a run that goes on takes the values with which it
           began (`self.shape`)
    where  the command, for messages
    held   what holds the ledger's folder, where its record has been begun
           (`runs/records/recording.py`)
    grows  a finished run with the same key but for its `input` is no other run: its input grew.
           Then `grown` is True, and the caller says with `take_over` what it takes of the output as
           it stands there, or `refuse` that it takes nothing
    """

    def __init__(
        self,
        output: Path,
        key: Mapping[str, Any],
        shape: Mapping[str, Any],
        *,
        overwrite: bool = False,
        where: str = "score",
        held: FolderLock | Lease | None = None,
        grows: bool = False,
    ) -> None:
        self.output, self.where = output, where
        self.key: dict[str, Any] = redacted_key(json.loads(json.dumps(key)))
        self._held = held
        self.folder = folder_of(output)
        self.store = store_of(self.folder, where)  #: where everything of the run lies
        self._lock: FolderLock | Lease | None = None
        self.done = False  #: the output is already there, from this very run
        self.resumed = False
        self._grows = grows
        self._kept_back: Any = None  #: what stood at the output of a run that was held back
        self.grown = False  #: what this run takes over of `earlier` is yet to be settled
        #: the key and the output of the finished run from which this one took something over
        self.earlier: Mapping[str, Any] | None = None
        #: whether what stands at the output may go: asked for, or it is from an earlier life of
        #: this run
        self.replaces = overwrite
        self.shape: dict[str, Any] = dict(shape)
        self.counts: dict[str, int] = {}  #: of a run that is done
        self._begin(overwrite)

    def _begin(self, overwrite: bool) -> None:
        refusal = RunBusy(
            f"{self.where}: another process is writing {shown(self.output)!r}.",
            hint="wait for it, or name another output.",
        )
        self._lock = self._taken(refusal)
        try:
            before = self._before()
            if before is not None and not overwrite:
                self.earlier = self._grew_from(before) if self._grows else None
                if self.grown:
                    self.replaces = True
                    return
                self._go_on(before)
            if not self.done:
                self._refuse_output()
            if before is None or overwrite:
                self._forget_chunks()
            if not self.done:
                publishing = before is not None and before["state"] == "publishing"
                self._write_manifest("publishing" if self.resumed and publishing else "running")
        except BaseException:
            self.close()
            raise

    def _taken(self, refusal: RunBusy) -> FolderLock | Lease:
        if is_object(self.folder):
            return self._held or Lease(self.store, "run.lease", refusal)
        held = self._held or FolderLock(self.folder, refusal)
        try:
            clear(self.folder)
        except BaseException:
            held.close()
            raise
        return held

    def _before(self) -> dict[str, Any] | None:
        """The manifest of an earlier life; a run that has done nothing yet binds nobody."""
        try:
            manifest: dict[str, Any] = json.loads(self.store.get_text(LEDGER))
        except FileNotFoundError:
            return None
        except StoreFailed:
            raise
        except (OSError, ValueError) as error:
            path = self.store.url(LEDGER)
            raise BadInput(f"{self.where}: cannot read {path!r}; {error}.", hint=_ANEW) from error
        if manifest.get("version") != _VERSION:
            raise RunDiffers(
                f"{self.where}: {shown(self.folder)!r} is of another version of prefmill.",
                hint=_ANEW,
            )
        done = [*self._chunk_names(), *self._batches()]
        if manifest["state"] == "running" and not done and not manifest.get("earlier"):
            return None
        return manifest

    def _grew_from(self, before: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The finished run that differs in its input alone; sets `grown` where it is to be used.

        `before` is this run, or one that was killed while it took over from it.
        """
        earlier: Mapping[str, Any] | None = before if before["state"] == "done" else None
        earlier = earlier or before.get("earlier")
        if earlier is None:
            return None
        same = not any(differences(before["key"], self.key))
        if same and (before["state"] == "done" or self._taken_over in self.store.names()):
            return None if before["state"] == "done" else earlier
        others = [name for name, *_ in differences(earlier["key"], self.key)]
        standing = earlier.get("standing")
        if standing is None or standing != standing_of(self.output):
            return None
        self.grown = all(map(_is_input, others))
        return {"key": earlier["key"], "standing": standing} if self.grown else None

    @property
    def _taken_over(self) -> str:
        """The file of what was taken over, named by the run, so that no other one finds it."""
        content = json.dumps(self.key, sort_keys=True).encode()
        return f"earlier-{hashlib.sha256(content).hexdigest()[:24]}.arrow"

    def take_over(self, save: Save) -> None:
        """Keep what `save` writes, an Arrow file: what this run has of an earlier one's output.

        Raises `TargetExists` where that output was replaced meanwhile.
        """
        self._forget_chunks()
        self._check_held()
        self.store.put(self._taken_over, save)
        self.replaces = self._is_earlier()
        self._refuse_output()
        self._write_manifest("running")
        self.grown = False

    def taken_over(self) -> pa.RecordBatchFileReader:
        """What was kept by `take_over`."""
        return pa.ipc.open_file(self.store.open(self._taken_over))

    def refuse(self) -> None:
        """Raise `RunDiffers`: this run has nothing in common with the one of the output."""
        if self.earlier is not None:
            self._refuse_other(self.earlier["key"], "nothing of this input stands there")

    def _is_earlier(self) -> bool:
        """Whether the output is still that of the run from which this one took over."""
        return self.earlier is not None and self.earlier["standing"] == standing_of(self.output)

    def _go_on(self, before: Mapping[str, Any]) -> None:
        self._refuse_other(before["key"])
        self.shape = before["shape"]
        self.counts = before["counts"] or {}
        self.resumed = True
        # Killed between the output and the word that it is there; or it is that of a smaller input.
        # Or the run that was held back was allowed to replace what still stands there.
        self._kept_back = before.get("kept_back")
        same = self._kept_back is not None and self._kept_back == standing_of(self.output)
        self.replaces = before["state"] == "publishing" or self._is_earlier() or same
        self.done = _is_own(before, self.output)

    def _refuse_other(self, before: Mapping[str, Any], why: str = "") -> None:
        # An input may grow, so it is the last thing to be blamed.
        changes = sorted(differences(before, self.key), key=lambda each: _is_input(each[0]))
        if not changes:
            return
        hint = "--overwrite begins anew, or name another output."
        if _is_input(changes[0][0]):
            why = why or "that run is not finished, or its output was changed since"
            hint = f"{why}; name another output, or --overwrite begins anew."
            if self.where == "score":
                hint += " With --cache FOLDER no row is scored twice by a model."
        raise differ(shown(self.output), changes, where=self.where, hint=hint)

    def _refuse_output(self) -> None:
        if is_there(self.output) and not self.replaces:
            raise TargetExists(
                f"{self.where}: {shown(self.output)!r} is already there.",
                hint="--overwrite, or another name.",
            )

    def _write_manifest(self, state: str) -> None:
        content = {
            "version": _VERSION,
            "state": state,
            "key": self.key,
            "shape": self.shape,
            "size": version_of(self.output) if state == "done" else None,
            "standing": standing_of(self.output) if state == "done" else None,
            "counts": self.counts,
            "earlier": None if state == "done" else self.earlier,
            "kept_back": None if state == "done" else self._kept_back,
        }
        self._check_held()
        self.store.put_text(LEDGER, json.dumps(content, indent=1))

    def _check_held(self) -> None:
        if isinstance(self._lock, Lease):
            self._lock.check()

    def _chunk_names(self) -> list[str]:
        return [name for name in self.store.names() if is_chunk(name)]

    def _batches(self) -> list[Path]:
        return [] if is_object(self.folder) else list(self.folder.glob(BATCHES))

    def _forget_chunks(self) -> None:
        for name in self._chunk_names():
            self.store.delete(name)

    def write(
        self, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
    ) -> None:
        """Commit one chunk."""
        self._check_held()
        write_chunk(self.store, number, columns, counts)

    def read(self, number: int, rows: int) -> tuple[pa.RecordBatch, dict[str, int]] | None:
        """A committed chunk of `rows` rows and its counts; None where it is not there, or torn."""
        try:
            with self.store.open(chunk_name(number)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
            counts: dict[str, int] = json.loads(batch.schema.metadata[b"counts"])
        except StoreFailed:
            raise
        except (FileNotFoundError, pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
            return None
        return (batch, counts) if batch.num_rows == rows else None

    def missing(self, sizes: np.ndarray) -> list[int]:
        """The chunks that are yet to be done; `sizes` are the rows of each, shape (chunks,)."""
        there = set(self.store.names())
        return [
            number
            for number, rows in enumerate(sizes.tolist())
            if chunk_name(number) not in there or not self._is_whole(number, rows)
        ]

    def _is_whole(self, number: int, rows: int) -> bool:
        """Whether a chunk can be read; of an object, which is never torn, by its footer alone."""
        if not is_object(self.folder):
            return self.read(number, rows) is not None
        with self.store.open(chunk_name(number)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata or {}
        return bool(metadata.get(b"rows") == str(rows).encode())

    def chunks(self, sizes: np.ndarray) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
        """All chunks, in order, each with its counts. Raises `BadInput` for one that is gone."""
        read = self._read_ahead(sizes.tolist())
        for number, chunk in enumerate(read):
            if chunk is None:
                raise BadInput(
                    f"{self.where}: chunk {number} went away while it was needed;"
                    f" got no such file in {shown(self.folder)!r}."
                )
            yield chunk

    def _read_ahead(self, sizes: list[int]) -> Iterator[Chunk | None]:
        """Every chunk; of objects the next few are under way meanwhile."""
        if not is_object(self.folder):
            yield from (self.read(number, rows) for number, rows in enumerate(sizes))
            return
        with ThreadPoolExecutor(_AHEAD) as pool:
            asked: deque[Future[Chunk | None]] = deque()
            for number, rows in enumerate(sizes):
                asked.append(pool.submit(self.read, number, rows))
                if len(asked) >= _AHEAD:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()

    def publishing(self) -> None:
        """All chunks are there, and the output is next: from here on it is this run's own."""
        self._refuse_output()
        self._write_manifest("publishing")
        self.replaces = True

    def hold_back(self) -> None:
        """The output is not published after all: what stands there may go later, if it stays so."""
        self.counts, self._kept_back = {}, standing_of(self.output)
        self._write_manifest("running")

    def finish(self, counts: Mapping[str, int]) -> None:
        """The output is published: keep the manifest, so that the same run is known to be done."""
        self.counts = dict(counts)
        self._write_manifest("done")
        self._forget_chunks()
        if not is_object(self.folder):  # what killed workers left half-written
            clear(self.folder)
        for path in self._batches():
            path.unlink()

    def keep(self, name: str, text: str) -> None:
        """Keep a text next to the manifest, for the same run when it is done."""
        self._check_held()
        self.store.put_text(name, text)

    def kept(self, name: str) -> str | None:
        """A text that was kept; None where there is none."""
        try:
            return self.store.get_text(name)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let others have the output."""
        if self._lock is not None and self._lock is not self._held:
            self._lock.close()
        self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_input(name: str) -> bool:
    """Whether a difference is one of the input."""
    return name.split(".")[0] == "input"


def chunk_name(number: int) -> str:
    """The file that holds the columns of a chunk."""
    return f"{number:06d}.arrow"


def write_chunk(
    store: Store, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
) -> None:
    """Commit one chunk: the columns that were made, and what was counted in it."""
    batch = pa.record_batch(dict(columns))
    metadata = {"counts": json.dumps(dict(counts)), "rows": str(batch.num_rows)}
    batch = batch.replace_schema_metadata(metadata)

    def save(file: IO[bytes]) -> None:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    store.put(chunk_name(number), save)
