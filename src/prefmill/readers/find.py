"""Finding inputs: paths, globs, folders with their `key=value` parts, and URLs, each with the format that its ending names.

Nothing is opened here: the cost is that of listing folders. A path that exists is itself, whatever characters it holds; hidden files
(`.x`, `_x`) are skipped unless they are named.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from prefmill.errors import BadArgument, BadInput, nearest

#: Format of each ending. The text forms may be followed by .gz or .zst.
FORMATS: Mapping[str, str] = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "ipc", ".ipc": "ipc", ".feather": "ipc",
}  # fmt: skip
_SCHEMES = ("s3", "hf", "https", "http", "gs", "gcs", "r2", "az", "abfss")


@dataclass(frozen=True)
class Input:
    """One file as it was found."""

    path: str  #: a path or a URL; `-` is stdin
    label: str  #: how the caller would name it
    format: str  #: csv, json, jsonl, parquet or ipc
    compression: str | None = None  #: gz or zst
    tab: bool = False  #: fields are separated by tabs
    partition: tuple[tuple[str, str], ...] = ()  #: keys and values of the folders above
    url: bool = False  #: DuckDB is to fetch it


def is_url(text: str) -> bool:
    """Whether DuckDB is to fetch `text`.

    >>> is_url("hf://datasets/a/b/c.parquet"), is_url("./s3:/x")
    (True, False)
    """
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() in _SCHEMES


def _kind(name: str) -> tuple[str, str | None, bool] | None:
    """Format, compression, and whether fields are separated by tabs, by the ending of a file name."""
    stem, ending = os.path.splitext(name.lower())
    compression = None
    if ending in (".gz", ".zst"):
        compression = ending[1:]
        ending = os.path.splitext(stem)[1]
    kind = FORMATS.get(ending)
    if kind is None or (compression and kind not in ("csv", "json", "jsonl")):
        return None
    return kind, compression, ending == ".tsv"


def _unknown(label: str) -> BadArgument:
    return BadArgument(
        f"{label}: the ending names no known format; expected one of {', '.join(sorted(FORMATS))}, text also with .gz or .zst.",
        hint="rename the file, or name the files to read one by one.",
    )


def _hidden(name: str) -> bool:
    return name.startswith(("_", ".")) and "=" not in name


def find_files(given: str) -> list[Input]:
    """The files that one input names, in order."""
    if given == "-":
        return [Input("-", "<stdin>", "jsonl")]
    if is_url(given):
        kind = _kind(urlsplit(given).path)
        if kind is None or kind[0] == "ipc":
            raise _unknown(given)
        return [Input(given, given, *kind, url=True)]
    if "\0" in given or not given:
        raise BadArgument(f"inputs: {given!r} is no path.")
    if os.path.isdir(given):
        return _walk(given)
    if os.path.exists(given):
        return [_file(given)]
    if glob.has_magic(given):
        return _match(given)
    parent = os.path.dirname(given) or "."
    near = nearest(os.path.basename(given), os.listdir(parent)) if os.path.isdir(parent) else []
    raise BadInput(f"{given}: no such file.", hint=f"did you mean {os.path.join(os.path.dirname(given), near[0])}?" if near else None)


def _match(pattern: str) -> list[Input]:
    said = {*pattern.split(os.sep), "", ".", ".."}  # a hidden name is meant where the pattern spells it
    matches = [
        match for match in glob.glob(pattern, recursive=True) if not any(_hidden(part) and part not in said for part in match.split(os.sep))
    ]
    if "**" in pattern:  # it matches each file once more through its folder, so only the files count
        matches = [match for match in matches if not os.path.isdir(match)]
    found = [item for match in sorted(matches) for item in (_walk(match) if os.path.isdir(match) else [_file(match)])]
    if not found:
        raise BadInput(f"{pattern}: no file matches.", hint="is the pattern right, and quoted for the shell?")
    return found


def _file(path: str) -> Input:
    kind = _kind(os.path.basename(path))
    if kind is None:
        raise _unknown(path)
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path}: cannot be read; permission denied.")
    return Input(os.path.abspath(path), path, *kind)


def _walk(top: str) -> list[Input]:
    paths: list[str] = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not _hidden(name)]
        paths += (os.path.join(folder, name) for name in names if not _hidden(name))
    found: list[Input] = []
    for path in sorted(paths):
        inner = os.path.dirname(os.path.relpath(path, top)).split(os.sep)
        keys = [part.partition("=") for part in inner]
        partition = tuple((key, unquote(value)) for key, mark, value in keys if key and mark)
        found.append(replace(_file(path), partition=partition))
    if not found:
        raise BadInput(f"{top}: the folder holds no file of a known format.", hint=f"expected {', '.join(sorted(FORMATS))}.")
    return found


def check_partitions(found: Sequence[Input]) -> None:
    """Engines read partition columns of all files or of none."""
    first = next((item for item in found if item.partition), None)
    if first is None:
        return
    keys = {key for key, _ in first.partition}
    for item in found:
        if {key for key, _ in item.partition} != keys or len(item.partition) != len(keys):
            raise BadInput(
                f"{item.label}: partition columns {[key for key, _ in item.partition]} differ from those of {first.label}: {sorted(keys)}.",
                hint="every file needs the same key=value folders.",
            )
