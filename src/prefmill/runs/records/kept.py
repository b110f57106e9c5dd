"""The records under a place: listed, compared with what stands, and what dead runs left removed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.disk import records
from prefmill.disk.hidden import MARK, left_in
from prefmill.disk.ledger import LEDGER
from prefmill.disk.locks import FolderLock
from prefmill.disk.records import MANIFEST, NEXT, Document
from prefmill.disk.settling import settle
from prefmill.disk.stores import store_of
from prefmill.disk.targets import is_object, is_there, shown, target_of
from prefmill.errors import BadInput, RunBusy, near_file
from prefmill.objects import url_of
from prefmill.warehouse.address import Address

_SUFFIX = ".prefmill"
#: Whose rows and columns a file's own end tells.
_FOOTERS = (".parquet", ".arrow", ".ipc", ".feather")


@dataclass(frozen=True)
class Found:
    """A record, or what is left of a run.

    state   `done`: the output stands as the record has it; `changed`: it does not; `gone`: nothing
            stands there; `begun`: a run that the same command goes on with
    """

    output: str
    state: str
    document: Document

    def as_json(self) -> dict[str, Any]:
        """For programs: the record's main parts."""
        told = {name: self.document.get(name) for name in ("command", "run_key", "ended")}
        outputs = self.document.get("outputs") or ()
        # Of splits all are the output; else the first is, and a change file may stand beside it.
        counted = [output for output in outputs if output.get("split")] or outputs[:1]
        rows = sum(output.get("rows") or 0 for output in counted) if outputs else None
        return {"output": self.output, "state": self.state, **told, "rows": rows}


def found_in(place: str | Path) -> Iterator[Found]:
    """All records below a folder, by name. Costs a look at each file of their outputs.

    Raises `BadInput` for a place that is no folder.

    >>> list(found_in("/nowhere/at/all"))
    Traceback (most recent call last):
    ...
    prefmill.errors.BadInput: runs: no folder '/nowhere/at/all'.
    Hint: prefmill runs alone lists what is below this folder.
    """
    top = target_of(place, "runs")
    _check_folder(top)
    for folder in _folders(top):
        output = records.output_of(folder)
        standing = records.standing(folder)
        if standing is not None:
            yield Found(shown(output), "done", standing[1])
            continue
        store = store_of(folder)
        known = [document for _, document in records.documents(store)]
        if known:
            there = any(_stands(folder.parent, each) for each in known[0].get("outputs", ()))
            yield Found(shown(output), "changed" if there else "gone", known[0])
            continue
        with contextlib.suppress(OSError, ValueError):
            ledger = json.loads(store.get_text(LEDGER))
            yield Found(shown(output), _LIFE.get(ledger["state"], "begun"), {"ledger": ledger})


_LIFE = {"done": "done", "running": "begun", "publishing": "begun"}


def _stands(parent: Path, output: dict[str, Any]) -> bool:
    return is_there(parent / output["path"])


def _check_folder(place: Path) -> None:
    if is_object(place) or place.is_dir():
        return
    hint = "prefmill runs alone lists what is below this folder."
    if place.exists():
        hint = f"prefmill runs show {shown(place)} prints the record of a file."
    raise BadInput(f"runs: no folder {shown(place)!r}.", hint=hint)


def _folders(place: Path) -> Iterator[Path]:
    """The folders of records below a place."""
    if is_object(place):
        store = store_of(url_of(place))
        names = {
            name.rpartition("/")[0]
            for name in store.names()
            if name.rpartition("/")[2] in (MANIFEST, NEXT, LEDGER)
        }
        yield from (place / name for name in sorted(names) if name.endswith(_SUFFIX))
        return
    for above, folders, _ in os.walk(place):
        folders.sort()
        yield from (Path(above, name) for name in folders if _is_ours(name))
        folders[:] = [name for name in folders if not _is_ours(name) and not MARK.fullmatch(name)]


def _is_ours(name: str) -> bool:
    return name.startswith(".") and name.endswith(_SUFFIX) and len(name) > len(_SUFFIX) + 1


def record_named(output: str | Path) -> tuple[Document, Path]:
    """The record of an output, also of one of several files, and the folder that the output is in.

    Raises `BadInput` where there is none.
    """
    target = target_of(output, "runs")
    for folder in (records.folder_of(target), *_beside(target)):
        for _, document in records.documents(store_of(folder)):
            paths = {each["path"] for each in document.get("outputs", ())}
            if folder == records.folder_of(target) or target.name in paths:
                found = records.standing(folder)
                return (found[1] if found else document), folder.parent
    hint = "prefmill runs FOLDER lists those that are there."
    if not is_there(target):
        hint = near_file(shown(target)) or hint
    if Address.of(output) is not None:
        hint = "a table holds the keys of its runs itself (docs/tables.md)."
    raise BadInput(f"runs: no record of {shown(target)!r}.", hint=hint)


def _beside(target: Path) -> list[Path]:
    if is_object(target) or not target.parent.is_dir():
        return []
    return sorted(each for each in target.parent.iterdir() if _is_ours(each.name))


def verify(output: str | Path) -> list[str]:
    """What differs between an output and its record; empty where nothing does.

    Reads every byte. Raises `BadInput` where there is no record.
    """
    document, parent = record_named(output)
    problems: list[str] = []
    for made in document["outputs"]:
        problems += _rows_differ(made, parent)
        for file in made.get("files", ()):
            problems += _file_differs(file, parent)
    return problems


def _file_differs(file: dict[str, Any], parent: Path) -> Iterator[str]:
    store, name = store_of(parent), file["path"]
    try:
        size = store.size(name)
        if size != file["size"]:
            yield f"{name}: another size; got {size:,} bytes, recorded {file['size']:,}"
            return
        with store.open(name) as content:
            digest = records.digest_of(content)
    except FileNotFoundError:
        yield f"{name}: no such file"
        return
    if digest != file["sha256"]:
        yield f"{name}: another content; got sha256 {digest}, recorded {file['sha256']}"


def _rows_differ(made: dict[str, Any], parent: Path) -> Iterator[str]:
    """Rows and columns, as far as files say how many they have."""
    files = [file["path"] for file in made.get("files", ()) if file["path"].endswith(_FOOTERS)]
    if not files or made.get("rows") is None:
        return
    rows = 0
    for name in files:
        try:
            count, schema = _footer(parent, name)
        except (OSError, ValueError) as error:
            yield f"{name}: cannot be read; {str(error).partition(chr(10))[0]}"
            return
        rows += count
        if schema != made["schema"]:
            yield f"{name}: other columns; got {schema}, recorded {made['schema']}"
    if rows != made["rows"]:
        yield f"{made['path']}: another number of rows; got {rows:,}, recorded {made['rows']:,}"


def _footer(parent: Path, name: str) -> tuple[int, dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store_of(parent).open(name) as source:
        if name.endswith(".parquet"):
            file = pq.ParquetFile(source)
            rows, schema = file.metadata.num_rows, file.schema_arrow
        else:
            try:
                batches = pa.ipc.open_file(source)
                rows = sum(
                    batches.get_batch(at).num_rows for at in range(batches.num_record_batches)
                )
            except pa.ArrowInvalid:  # what `datasets` reads is a stream
                source.seek(0)
                batches = pa.ipc.open_stream(source)
                rows = sum(batch.num_rows for batch in batches)
            schema = batches.schema
    return rows, {field.name: str(field.type) for field in schema}


def clean(place: str | Path, *, dry_run: bool = False) -> list[str]:
    """Remove what dead runs left below a folder; the paths that went, or would go.

    Temporary folders of dead processes, what they left half-written (a set that was being published
    is made whole first), records of outputs that are gone, and folders of runs that had done
    nothing. A run that the same command goes on with stays, and so does what another machine left.
    Of objects nothing is removed: their leases and sets are settled by the next writer.
    Raises `BadInput` for a place that is no folder.
    """
    top = target_of(place, "runs")
    _check_folder(top)
    if is_object(top):
        return []
    gone: list[str] = []
    for above, folders, _ in os.walk(top):
        for path, state in left_in(Path(above)):
            if state == "dead":
                gone.append(str(path))
                if not dry_run and path.name.startswith("prefmill-"):
                    shutil.rmtree(path, ignore_errors=True)
        if not dry_run:
            settle(Path(above))
        for name in sorted(folders):
            if _is_ours(name):
                gone += _cleaned(Path(above, name), dry_run=dry_run)
        folders[:] = [each for each in folders if not _is_ours(each) and not MARK.fullmatch(each)]
    return gone


def _cleaned(folder: Path, *, dry_run: bool) -> list[str]:
    """What goes of the folder of one record."""
    if dry_run:
        left = list(_left(folder))
        return [str(path) for path in left] or _if_empty(folder)
    try:
        with contextlib.closing(FolderLock(folder, RunBusy("runs: in use."))):
            left = list(_left(folder))
            gone = [str(path) for path in left] or _if_empty(folder)
            for path in left:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    except RunBusy:
        return []
    return gone


def _if_empty(folder: Path) -> list[str]:
    """The folder itself, which goes where nothing is in it."""
    return [] if any(folder.iterdir()) else [str(folder)]


def _left(folder: Path) -> Sequence[Path]:
    inside = list(folder.iterdir())
    hidden = [path for path in inside if MARK.fullmatch(path.name)]
    others = [path for path in inside if path not in hidden]
    standing = records.standing(folder)
    if standing is not None:
        # Of earlier runs; and what a dead one kept that never published.
        return [*hidden, *records.of_dead_runs(folder, standing[1])]
    chunks = any(path.suffix in (".arrow", ".sqlite") or path.is_dir() for path in others)
    known = [document for _, document in records.documents(store_of(folder))]
    if chunks or any(_stands(folder.parent, each) for doc in known for each in doc["outputs"]):
        return hidden
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / LEDGER).read_text("utf-8"))["state"] == "done":
            return hidden
    return inside
