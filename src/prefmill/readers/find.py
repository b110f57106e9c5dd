"""Finding inputs: paths, globs, folders with their `key=value` parts, and URLs, each with the format that its ending names.

Nothing is opened here: the cost is that of listing folders. A path that exists is itself, whatever characters it holds; hidden files
(`.x`, `_x`) are skipped unless they are named.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from prefmill.errors import BadArgument, BadInput, nearest

#: Format of each ending. The text forms may be followed by .gz or .zst.
FORMATS: Mapping[str, str] = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "ipc", ".ipc": "ipc", ".feather": "ipc",
}  # fmt: skip
#: Files for people.
_ABOUT = re.compile(r"(?i)(readme|licen[cs]e|notice|citation|changelog|copying)([._-].*)?|.*\.(md|rst)")
#: Words for splits, and one name for those that mean the same.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("heldout", "holdout"), "heldout"),
}
_SPLIT = re.compile(rf"(?i)(?:.*[-_ ])?({'|'.join(_SPLITS)})(?:[-_ ]\d+(?:[-_ ]of[-_ ]\d+)?)?")
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


def find_files(given: str, without: Collection[str] = ()) -> list[Input]:
    """The files that one input names, in order; of a folder or a pattern not those in `without`, real paths of outputs."""
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
        return _walk(given, without)
    if os.path.exists(given):
        return [_file(given)]
    if glob.has_magic(given):
        return _match(given, without)
    parent = os.path.dirname(given) or "."
    near = nearest(os.path.basename(given), os.listdir(parent)) if os.path.isdir(parent) else []
    raise BadInput(f"{given}: no such file.", hint=f"did you mean {os.path.join(os.path.dirname(given), near[0])}?" if near else None)


def _match(pattern: str, without: Collection[str]) -> list[Input]:
    said = {*pattern.split(os.sep), "", ".", ".."}  # a hidden name is meant where the pattern spells it
    matches = [
        match for match in glob.glob(pattern, recursive=True) if not any(_hidden(part) and part not in said for part in match.split(os.sep))
    ]
    if "**" in pattern:  # it matches each file once more through its folder, so only the files count
        matches = [match for match in matches if not os.path.isdir(match)]
    found: list[Input] = []
    for match in sorted(matches):
        if _is_within(match, without):
            continue
        if os.path.isdir(match):
            found += _walk(match, without)
        elif not _is_besides(match):
            found.append(_file(match))
    if not found:
        raise BadInput(f"{pattern}: no file matches.", hint="is the pattern right, and quoted for the shell?")
    return found


def _is_besides(path: str) -> bool:
    """Whether a file of a folder is about the data and is none of it: metadata and caches of `datasets`, a README."""
    folder, name = os.path.split(path)
    besides_data = name == "state.json" or (name.startswith("cache-") and name.endswith(".arrow"))
    if besides_data and os.path.exists(os.path.join(folder, "dataset_info.json")):
        return True
    return name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json") or _ABOUT.fullmatch(name) is not None


def _is_within(path: str, without: Collection[str]) -> bool:
    real = os.path.realpath(path)
    return any(real == one or real.startswith(one + os.sep) for one in without)


def _file(path: str) -> Input:
    kind = _kind(os.path.basename(path))
    if kind is None:
        raise _unknown(path)
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path}: cannot be read; permission denied.")
    return Input(os.path.abspath(path), path, *kind)


def _walk(top: str, without: Collection[str]) -> list[Input]:
    paths: list[str] = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not _hidden(name)]
        if "dataset_dict.json" in names:
            _refuse_splits(folder, _splits_of_dict(folder))
        wanted = _data_files(folder) if "state.json" in names and "dataset_info.json" in names else names
        paths += (os.path.join(folder, name) for name in wanted if not _hidden(name))
    found: list[Input] = []
    for path in sorted(paths):
        if _is_besides(path) or _is_within(path, without):
            continue
        inner = os.path.dirname(os.path.relpath(path, top)).split(os.sep)
        keys = [part.partition("=") for part in inner]
        partition = tuple((key, unquote(value)) for key, mark, value in keys if key and mark)
        found.append(replace(_file(path), partition=partition))
    if not found:
        raise BadInput(f"{top}: the folder holds no file of a known format.", hint=f"expected {', '.join(sorted(FORMATS))}.")
    splits: dict[str, str] = {}
    for item in found:
        if split := _split_of(os.path.relpath(item.path, top)):
            splits.setdefault(split, item.label)
    if len(splits) > 1:
        ending = os.path.splitext(found[0].label)[1]
        raise BadInput(
            f"{top}: the folder holds the splits {sorted(splits)}, which are read one by one; got {sorted(splits.values())}.",
            hint=f"name files of one split; '{os.path.join(top, '**', '*' + ending)}' reads all as one.",
        )
    return found


def _data_files(folder: str) -> list[str]:
    """The files that `save_to_disk` lists in its `state.json`."""
    path = os.path.join(folder, "state.json")
    try:
        with open(path, encoding="utf-8") as file:
            return [str(one["filename"]) for one in json.load(file)["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: does not say which files hold the data; {error!r}.", hint="name the .arrow files themselves.") from error


def _splits_of_dict(folder: str) -> list[str]:
    path = os.path.join(folder, "dataset_dict.json")
    try:
        with open(path, encoding="utf-8") as file:
            return [str(name) for name in json.load(file)["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: does not say which splits there are; {error!r}.", hint="name the folder of one split.") from error


def _refuse_splits(folder: str, splits: Sequence[str]) -> None:
    if len(splits) > 1:
        raise BadInput(
            f"{folder}: a data set with the splits {list(splits)}, which are read one by one.",
            hint=f"name one of them: {os.path.join(folder, splits[0])}.",
        )


def _split_of(path: str) -> str | None:
    """The split that a path inside a folder names: as a folder, or as the last word of a file's name, before its shard."""
    *folders, name = path.split(os.sep)
    stem = name.partition(".")[0]
    found = _SPLIT.fullmatch(stem)
    words = [folder.lower() for folder in folders] + ([found[1].lower()] if found else [])
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), None)


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
