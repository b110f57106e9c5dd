"""What a resumable run keeps on disk: a manifest that says which run this is, and one file for
every chunk that is done.

    scored.parquet             appears at once, when all chunks are done
    .scored.parquet.prefmill/  manifest.json, lock, 00000.arrow, 00001.arrow, ...; of a run that is
    done only the manifest stays

A file is written under another name, flushed and renamed, so that it is whole or absent; killed at
any instant, a run loses the chunk in work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefmill.disk import whole
from prefmill.errors import BadInput, RunBusy, RunDiffers, TargetExists

_VERSION = 1


def key_of(output: Path) -> dict[str, Any]:
    """The key of the run to which `output` belongs; empty where there is none."""
    try:
        found = json.loads(
            (output.with_name(f".{output.name}.prefmill") / "manifest.json").read_text("utf-8")
        )
        key: dict[str, Any] = found["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return key


class Ledger:
    """The chunks of one run, for one output. Use it as a context: it holds a lock.

    key    what decides the result, by name, nested; a ledger of another key is refused, and the
    difference is named. A name `on_...` may
           go from `error` to `null`: a run that a bad row stopped goes on without it.
    shape  what may move the last bit of a result; a run that goes on takes the values with which it
    began (`self.shape`). where  the command, for messages.
    """

    def __init__(
        self,
        output: Path,
        key: Mapping[str, Any],
        shape: Mapping[str, Any],
        *,
        overwrite: bool = False,
        where: str = "score",
    ) -> None:
        self.output, self.key, self.where = output, json.loads(json.dumps(key)), where
        self.folder = output.with_name(f".{output.name}.prefmill")
        self._lock: Any = None
        self.done = False  #: the output is already there, from this very run
        self.resumed = False
        #: whether what stands at the output may go: asked for, or it is from an earlier life of
        #: this run
        self.replaces = overwrite
        self.shape: dict[str, Any] = dict(shape)
        self.counts: dict[str, int] = {}  #: of a run that is done
        self._begin(overwrite)

    def _begin(self, overwrite: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        refusal = RunBusy(
            f"{self.where}: another process is writing {str(self.output)!r}.",
            hint="wait for it, or name another output.",
        )
        self._lock = whole.lock(self.folder / "lock", refusal)
        try:
            whole.clear(self.folder)
            before = self._manifest()
            if (
                before is not None
                and before["state"] == "running"
                and not any(self.folder.glob("*.arrow"))
            ):
                before = None  # a run that has done nothing yet binds nobody
            if before is not None and not overwrite:
                self._same(before["key"])
                self.shape = before["shape"]
                self.counts = before["counts"] or {}
                self.resumed = True
                self.replaces = (
                    before["state"] == "publishing"
                )  # killed between the output and the word that it is there
                self.done = (
                    before["state"] == "done"
                    and self.output.exists()
                    and before["size"] == self.output.stat().st_size
                )
            if not self.done:
                self._refuse_output()
            if before is None or overwrite:
                for path in self.folder.glob("*.arrow"):
                    path.unlink()
            if not self.done:
                self._write_manifest("publishing" if self.resumed and self.replaces else "running")
        except BaseException:
            self.close()
            raise

    def _manifest(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self.where}: cannot read {str(self.folder / 'manifest.json')!r}; {error}.",
                hint="--overwrite begins anew.",
            ) from error
        if found.get("version") != _VERSION:
            raise RunDiffers(
                f"{self.where}: {str(self.folder)!r} is of another version of prefmill.",
                hint="--overwrite begins anew.",
            )
        return found

    def _same(self, before: Mapping[str, Any]) -> None:
        said = list(_differences(before, self.key))
        if said:
            raise RunDiffers(
                f"{self.where}: {str(self.output)!r} belongs to a run with another {said[0][0]}; got {said[0][2]}, expected {said[0][1]}"
                f"{' (and other differences: ' + ', '.join(name for name, *_ in said[1:]) + ')' if len(said) > 1 else ''}.",
                hint=self._another(said[0][0]),
            )

    def _another(self, what: str) -> str:
        """What to do about a run that differs in `what`."""
        if what.startswith("input") and self.where == "score":
            return (
                "name another output; with --cache FOLDER on this run and the next, rows that were scored before are not scored"
                " again. --overwrite begins anew."
            )
        return "--overwrite begins anew, or name another output."

    def _write_manifest(self, state: str) -> None:
        size = self.output.stat().st_size if state == "done" else None
        content = {
            "version": _VERSION,
            "state": state,
            "key": self.key,
            "shape": self.shape,
            "size": size,
            "counts": self.counts,
        }
        whole.put(
            self.folder / "manifest.json",
            lambda path: path.write_text(json.dumps(content, indent=1), encoding="utf-8"),
        )

    def write(
        self, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
    ) -> None:
        """Commit one chunk."""
        write_chunk(self.folder, number, columns, counts)

    def read(self, number: int, rows: int) -> tuple[pa.RecordBatch, dict[str, int]] | None:
        """A committed chunk of `rows` rows and its counts; None if it is not there, or not
        whole.
        """
        try:
            with pa.OSFile(str(self._path(number)), "rb") as source:
                batch = pa.ipc.open_file(source).get_batch(0)
            counts: dict[str, int] = json.loads(batch.schema.metadata[b"counts"])
        except (FileNotFoundError, pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
            return None
        return (batch, counts) if batch.num_rows == rows else None

    def missing(self, sizes: np.ndarray) -> list[int]:
        """The chunks that are yet to be done; `sizes` are the rows of each, shape (chunks,)."""
        return [
            number for number, rows in enumerate(sizes.tolist()) if self.read(number, rows) is None
        ]

    def publishing(self) -> None:
        """All chunks are there, and the output is what comes next: from here on it is this run's
        own.
        """
        self._refuse_output()
        self._write_manifest("publishing")
        self.replaces = True

    def _refuse_output(self) -> None:
        if self.output.exists() and not self.replaces:
            raise TargetExists(
                f"{self.where}: {str(self.output)!r} is already there.",
                hint="--overwrite, or another name.",
            )

    def finish(self, counts: Mapping[str, int]) -> None:
        """The output is published: keep the manifest, so that the same run is known to be done."""
        self.counts = dict(counts)
        self._write_manifest("done")
        for path in self.folder.glob("*.arrow"):
            path.unlink()

    def _path(self, number: int) -> Path:
        return chunk_path(self.folder, number)

    def close(self) -> None:
        """Let others have the output."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def chunk_path(folder: Path, number: int) -> Path:
    """Where the columns of a chunk lie."""
    return folder / f"{number:06d}.arrow"


def write_chunk(
    folder: Path, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
) -> None:
    """Commit one chunk: the columns that were made, and what was counted in it."""
    batch = pa.record_batch(dict(columns)).replace_schema_metadata(
        {"counts": json.dumps(dict(counts))}
    )

    def save(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)

    whole.put(chunk_path(folder, number), save)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> Any:
    """(name, before, now) of everything that is not the same, depth first."""
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        path = f"{where}{name}"
        if name.rpartition(".")[2].startswith("on_") and (old, new) == ("error", "null"):
            continue  # what is done has no such row: it is the same with those to come left out
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{path}.")
        elif old != new:
            yield path, old, new
