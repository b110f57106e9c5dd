"""The record of a run, next to its output: what it read, what it wrote, and by which rules.

    pairs.parquet
    .pairs.parquet.prefmill/
      manifest.json    the record of the run whose output stands
      next.json        that of a run which publishes, or died while it did
      RUN/...          what a run keeps for the next one

`next.json` is written before the output appears, and becomes `manifest.json` after. A record says
what its files are, so at every instant, also after a kill, the files tell which of the two is
theirs. What fits neither was written by somebody else. `manifest.schema.json` is the record's
schema.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefmill.disk.stores import Store, store_of
from prefmill.disk.targets import is_object
from prefmill.disk.uploads import home_of, objects_of
from prefmill.errors import RunDiffers, StoreFailed

VERSION = 2
MANIFEST, NEXT = "manifest.json", "next.json"
_RUN = re.compile("[0-9a-f]{8}")
#: The record as it stands in JSON.
Document = dict[str, Any]
#: Whether an output, as a record has it, is what stands in the folder.
Still = Callable[[Mapping[str, Any], Path], bool]


def folder_of(output: Path) -> Path:
    """Where the record of an output lies; of a set, that of its first name.

    >>> folder_of(Path("out/pairs.parquet"))
    PosixPath('out/.pairs.parquet.prefmill')
    """
    return output.with_name(f".{output.name}.prefmill")


def output_of(folder: Path) -> Path:
    """The output whose record lies in `folder`: `folder_of` backwards."""
    return folder.with_name(folder.name.removeprefix(".").removesuffix(".prefmill"))


def key_hash(key: Mapping[str, Any]) -> str:
    """64 hexadecimal digits of a key: equal keys, and only they, have equal hashes.

    >>> key_hash({"a": 1, "b": 2}) == key_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(key, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_of(document: Document | None) -> str | None:
    """64 hexadecimal digits of what the first output of a record holds; None without a record."""
    if document is None:
        return None
    files = {each["path"]: each["sha256"] for each in document["outputs"][0].get("files", ())}
    return key_hash(files)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(content: Any) -> str:
    """The SHA-256 of an open file, of Arrow's too."""
    digest = hashlib.sha256()
    while part := content.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def described(
    target: Path, source: Path, before: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The files that `target` will consist of, as they are made at `source`.

    `before` are files of a record that stood when the run began, by the names in `source` that they
    are linked to: where size and time are the same their content is not hashed again.
    """
    if not source.is_dir():
        return [_file(target.name, source)]
    files = []
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            files.append(_file(f"{target.name}/{name}", path, (before or {}).get(name)))
    return files


def described_as(name: str, path: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """One file as a record has it; its SHA-256 is that of `digests`, where who made it knows it."""
    return _file(name, path, digest=digests.get(path.name))


def _file(
    name: str,
    path: Path,
    before: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    status = path.stat()
    facts = {"size": status.st_size, "modified": status.st_mtime_ns}
    if before and all(before.get(fact) == value for fact, value in facts.items()):
        return {"path": name, **facts, "sha256": before["sha256"]}
    return {"path": name, **facts, "sha256": digest or sha256_of(path)}


def with_tags(output: Mapping[str, Any], parent: Path) -> dict[str, Any]:
    """An output of objects that are there now, with what tells their versions apart."""
    if not is_object(parent):
        return dict(output)
    store, _ = home_of(parent / "x")
    files = []
    for file in output.get("files", ()):
        tagged = {name: value for name, value in file.items() if name != "modified"}
        files.append({**tagged, "etag": store.tag_of(file["path"])})
    return {**output, "files": files}


def files_stand(output: Mapping[str, Any], parent: Path) -> bool:
    """Whether all files of an output are in `parent` as the record has them.

    Of local files size and time are compared, of objects the tag; of objects that were being
    published, whose tag nobody could note, the content.
    """
    files = output.get("files") or ()
    if is_object(parent):
        return bool(files) and _objects_stand(files, parent)
    try:
        for file in files:
            status = (parent / file["path"]).stat()
            if [status.st_size, status.st_mtime_ns] != [file["size"], file["modified"]]:
                return False
    except OSError:
        return False
    return bool(files)


def _objects_stand(files: Sequence[Mapping[str, Any]], parent: Path) -> bool:
    store, _ = home_of(parent / "x")
    at = objects_of(parent / str(files[0]["path"]).partition("/")[0])
    for file in files:
        name = file["path"]
        url = at.get(name, store.url(name))
        place = url.removeprefix(f"{store.url()}/")
        tag = store.tag_of(place)
        if tag is None or (file.get("etag") and file["etag"] != tag):
            return False
        if not file.get("etag"):
            with store.open(place) as content:
                if digest_of(content) != file["sha256"]:
                    return False
    return True


def documents(store: Store) -> Iterator[tuple[str, Document]]:
    """The records in a folder, by file; what cannot be read is no record."""
    for name in (MANIFEST, NEXT):
        try:
            content = json.loads(store.get_text(name))
        except StoreFailed:
            raise
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("version") == VERSION:
            yield name, content


def standing(folder: Path, still: Still = files_stand) -> tuple[str, Document] | None:
    """The record of what stands now, and its file; None where nobody knows.

    All outputs have to be those of the record. A writer may publish meanwhile: then it is looked
    at again.
    """
    store, before = store_of(folder), None
    while True:
        found = list(documents(store))
        for name, document in found:
            outputs = document.get("outputs") or ()
            if outputs and all(still(output, folder.parent) for output in outputs):
                return name, document
        if found == before or not found:
            return None
        before = found


def of_dead_runs(folder: Path, document: Document | None) -> list[Path]:
    """Folders of what runs kept for the next one, but those of the record that stands.

    Whoever holds the folder may remove them.
    """
    wanted = {kept.partition("/")[0] for kept in (document or {}).get("kept", ())}
    try:
        inside = list(folder.iterdir())
    except FileNotFoundError:
        return []
    return [
        path
        for path in inside
        if _RUN.fullmatch(path.name) and path.name not in wanted and path.is_dir()
    ]


def record_of(output: Path, still: Still = files_stand) -> Document | None:
    """The record of the run that wrote `output` as it stands; None where nobody knows."""
    found = standing(folder_of(output), still)
    return None if found is None else found[1]


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(name, before, now) of everything that is not the same, depth first."""
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        path = f"{where}{name}"
        if name.rpartition(".")[2].startswith("on_") and (old, new) == ("error", "null"):
            continue  # what is done has no such row: it is the same with those to come left out
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{path}.")
        elif old != new:
            yield path, old, new


#: Parts of a key whose names say too little.
_KNOWN_AS = {"carried": "carried (the columns that are counted, as for --expect sources, or kept)"}


def differ(
    shown: str, changes: Sequence[tuple[str, Any, Any]], *, where: str, hint: str
) -> RunDiffers:
    """The error for an output of another run, which names the difference."""
    name, old, new = changes[0]
    name = _KNOWN_AS.get(name, name)
    others = ", ".join(dict.fromkeys(change[0] for change in changes[1:6]))
    more = f" and {len(changes) - 6} more" if len(changes) > 6 else ""
    others = others and f" (and other differences: {others}{more})"
    return RunDiffers(
        f"{where}: {shown!r} belongs to a run with another {name}; got {new}, expected"
        f" {old}{others}.",
        hint=hint,
    )
