"""Finding inputs: paths, globs, folders and URLs, each with the format that its ending names.

Nothing is opened here: the cost is that of listing folders. A path that exists is itself, whatever
characters it holds; hidden files (`.x`, `_x`) are skipped unless they are named.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefmill.disk.settling import settle
from prefmill.errors import BadArgument, BadInput, near_file
from prefmill.objects import refuse_unknown
from prefmill.warehouse.address import Address

#: Format of each ending. The text forms may be followed by .gz or .zst.
ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
    ".xlsx": "excel",
}
#: Files for people.
_ABOUT = re.compile(
    r"(?i)(readme|licen[cs]e|notice|citation|changelog|copying)([._-].*)?|.*\.(md|rst)"
)
#: Words for splits, and one name for those that mean the same.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("heldout", "holdout"), "heldout"),
}
_SPLIT = re.compile(rf"(?i)(?:.*[-_ ])?({'|'.join(_SPLITS)})(?:[-_ ]\d+(?:[-_ ]of[-_ ]\d+)?)?")
#: Formats whose files may hold several tables: a name after `#` chooses one.
_CHOSEN = ("json", "jsonl", "excel")
_SCHEMES = ("hf", "https", "http", "r2")


@dataclass(frozen=True)
class Input:
    """One file as it was found."""

    path: str  #: a path or a URL; `-` is stdin
    label: str  #: how the caller would name it
    format: str  #: csv, json, jsonl, parquet, ipc, excel, or a table of a warehouse
    compression: str | None = None  #: gz or zst
    tab: bool = False  #: fields are separated by tabs
    partition: tuple[tuple[str, str], ...] = ()  #: keys and values of the folders above
    url: bool = False  #: DuckDB is to fetch it
    object: bool = False  #: it lies in an object store, and is fetched first
    select: str | None = None  #: the key, or the sheet, that holds the records


def is_url(text: str) -> bool:
    """Whether DuckDB is to fetch `text`.

    >>> is_url("hf://datasets/a/b/c.parquet"), is_url("./s3:/x")
    (True, False)
    """
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() in _SCHEMES


def _kind(name: str) -> tuple[str, str | None, bool] | None:
    """Format, compression, and whether fields are separated by tabs, by the ending of a name."""
    stem, ending = os.path.splitext(name.lower())
    compression = None
    if ending in (".gz", ".zst"):
        compression = ending[1:]
        ending = os.path.splitext(stem)[1]
    kind = ENDINGS.get(ending)
    if kind is None or (compression and kind not in ("csv", "json", "jsonl")):
        return None
    return kind, compression, ending == ".tsv"


def _unknown(label: str) -> BadArgument:
    return BadArgument(
        f"{label}: the ending names no known format; expected one of"
        f" {', '.join(sorted(ENDINGS))}, text also with .gz or .zst.",
        hint="rename the file, or name the files to read one by one.",
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is read only where it is named."""
    # `_key=value` is a folder of a partition.
    return name.startswith(("_", ".")) and "=" not in name


def find_files(
    given: str, without: Collection[str | Path] = (), notes: list[str] | None = None
) -> list[Input]:
    """The files that one input names, in order.

    Of a folder or a pattern not those in `without`, of which `notes` are taken. Raises
    `BadArgument` where the input itself is in `without`, or holds nothing else.
    """
    if given == "-":
        return [Input("-", "<stdin>", "jsonl")]
    if is_url(given):
        kind = _kind(urlsplit(given).path)
        if kind is None or kind[0] in ("ipc", "excel"):
            raise _unknown(given)
        return [Input(given, given, *kind, url=True)]
    if "\0" in given or not given:
        raise BadArgument(f"inputs: {given!r} is no path.")
    if not os.path.exists(given) and (address := Address.of(given)):
        return [Input(given, address.shown, "table")]
    if os.path.isdir(given):
        return _apart(given, _walk, without, notes)
    if os.path.exists(given):
        if any(is_same(given, one) for one in without):
            raise written(given)
        return [_file(given)]
    refuse_unknown(given, "inputs", _SCHEMES)
    if (parts := chosen_in(given)) is not None:
        base, name = parts
        return [
            replace(item, label=f"{item.label}#{name}", select=name)
            for item in find_files(base, without, notes)
        ]
    if glob.has_magic(given):
        return _apart(given, _match, without, notes)
    parent = os.path.dirname(given) or "."
    settle(Path(parent))
    # A writer died while it replaced the folder, on a system that cannot do that in one step.
    if os.path.exists(given):
        return find_files(given, without, notes)
    raise BadInput(f"{given}: no such file.", hint=near_file(given))


def chosen_in(given: str) -> tuple[str, str] | None:
    """The file, or the pattern, and the name after it, of `FILE#NAME`."""
    for match in re.finditer("#", given):
        base, name = given[: match.start()], given[match.end() :]
        kind = _kind(os.path.basename(base))
        if kind is not None and kind[0] in _CHOSEN and name:
            return base, name
    return None


def _apart(
    given: str,
    find: Callable[[str, Without], list[Input]],
    outputs: Collection[str | Path],
    notes: list[str] | None,
) -> list[Input]:
    """What `find` finds but for the outputs, and a note of each of them."""
    without = Without(outputs)
    try:
        files = find(given, without)
    except BadInput:
        if without.met:
            raise written(given) from None
        raise
    if notes is not None:
        notes += [
            f"{path!r} is left out of the input: it is an output of this command."
            for path in without.met
        ]
    return files


def written(given: str) -> BadArgument:
    """The error for an input that is the output."""
    return BadArgument(
        f"inputs: {given!r} is what would be written; got it as input and as output.",
        hint="write to another name: the input would be destroyed.",
    )


class Without:
    """Outputs, and those of them that were met."""

    def __init__(self, outputs: Collection[str | Path]) -> None:
        self.outputs = outputs
        self.met: list[str] = []
        self._real = [os.path.realpath(one) for one in outputs]
        self._ids = {_id_of(one) for one in outputs} - {None}
        self._folders: dict[str, bool] = {}

    def __contains__(self, path: str) -> bool:
        # `is_same` in fewer looks: there may be 100,000 files, in few folders.
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = self._holds(folder)
        if not (
            self._folders[folder]
            or (self._ids and _id_of(path) in self._ids)
            or (os.path.islink(path) and self._holds(path))
        ):
            return False
        self.met.append(path)
        return True

    def _holds(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == one or real.startswith(one + os.sep) for one in self._real)


def _id_of(path: str | Path) -> tuple[int, int] | None:
    """What tells a file from all others, by whatever name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_same(path: str | Path, output: str | Path) -> bool:
    """Whether `path` is the output or lies in it: by name, a link, or a second name of the file."""
    real, written = os.path.realpath(path), os.path.realpath(output)
    if real == written or real.startswith(written + os.sep):
        return True
    try:
        return os.path.samefile(path, output)
    except OSError:
        return False


def check_apart(inputs: Iterable[str | Path], output: str | Path, *, where: str) -> None:
    """Refuse inputs, as paths, that are `output` or lie in it: raises `BadArgument`."""
    for given in map(str, inputs):
        paths = [given]
        if not os.path.exists(given):
            paths = glob.glob(given, recursive=True)
        for path in paths:
            if is_same(path, output):
                raise BadArgument(
                    f"{where}: {path!r} is in what would be written; got it as input and as"
                    " output.",
                    hint="write to another name: the input would be destroyed.",
                )


def _match(pattern: str, without: Without) -> list[Input]:
    # A hidden name is meant where the pattern spells it.
    spelled = {*pattern.split(os.sep), "", ".", ".."}
    matches = [
        match
        for match in glob.glob(pattern, recursive=True)
        if not any(is_hidden(part) and part not in spelled for part in match.split(os.sep))
    ]
    # Two stars match each file once more through its folder, so only the files count.
    if "**" in pattern:
        matches = [match for match in matches if not os.path.isdir(match)]
    files: list[Input] = []
    for match in sorted(matches):
        if match in without:
            continue
        if os.path.isdir(match):
            files += _walk(match, without)
        elif not _is_besides(match):
            files.append(_file(match))
    if not files:
        hint = "is the pattern right, and quoted for the shell?"
        raise BadInput(f"{pattern}: no file matches.", hint=hint)
    return files


def _is_besides(path: str) -> bool:
    """Whether a file of a folder is about the data: metadata and caches of `datasets`, a README."""
    folder, name = os.path.split(path)
    besides_data = name == "state.json" or (name.startswith("cache-") and name.endswith(".arrow"))
    if besides_data and os.path.exists(os.path.join(folder, "dataset_info.json")):
        return True
    return is_about(name)


def is_about(name: str) -> bool:
    """Whether a file of this name is about data: metadata of `datasets`, a README."""
    return (
        name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
        or _ABOUT.fullmatch(name) is not None
    )


def input_named(url: str) -> Input:
    """The input that a URL names, by the ending of the name. Raises `BadArgument`."""
    kind = _kind(url.rpartition("/")[2])
    if kind is None:
        raise _unknown(url)
    return Input(url, url, *kind)


def _file(path: str) -> Input:
    kind = _kind(os.path.basename(path))
    if kind is None:
        raise _unknown(path)
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path}: cannot be read; permission denied.")
    return Input(os.path.abspath(path), path, *kind)


def _walk(top: str, without: Without) -> list[Input]:
    paths: list[str] = []
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if "dataset_dict.json" in names:
            path = os.path.join(folder, "dataset_dict.json")
            refuse_splits(folder, splits_named(_text_of(path), path))
        if {"state.json", "dataset_info.json"} <= set(names):
            path = os.path.join(folder, "state.json")
            names = data_files_of(_text_of(path), path)
        paths += (os.path.join(folder, name) for name in names if not is_hidden(name))
    found: list[Input] = []
    for path in sorted(paths):
        if _is_besides(path) or path in without:
            continue
        inner = os.path.dirname(os.path.relpath(path, top)).split(os.sep)
        keys = [part.partition("=") for part in inner]
        partition = tuple((key, unquote(value)) for key, mark, value in keys if key and mark)
        found.append(replace(_file(path), partition=partition))
    return one_split(found, top, os.sep)


def one_split(found: list[Input], top: str, slash: str) -> list[Input]:
    """The inputs `found` below `top`; raises `BadInput` where there are none, or several splits."""
    if not found:
        raise BadInput(
            f"{top}: the folder holds no file of a known format.",
            hint=f"expected {', '.join(sorted(ENDINGS))}.",
        )
    splits: dict[str, str] = {}
    for item in found:
        if split := _split_of(_below(item.path, top, slash).split(slash)):
            splits.setdefault(split, item.label)
    if len(splits) > 1:
        ending = os.path.splitext(found[0].label)[1]
        every = slash.join((top.rstrip(slash), "**", f"*{ending}"))
        raise BadInput(
            f"{top}: the folder holds the splits {sorted(splits)}, which are read one by one; got"
            f" {sorted(splits.values())}.",
            hint=f"name files of one split; '{every}' reads all as one.",
        )
    return found


def _below(path: str, top: str, slash: str) -> str:
    if slash == os.sep:
        return os.path.relpath(path, top)
    return path.removeprefix(top).lstrip(slash)


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read; {error!r}.") from error


def data_files_of(text: str, path: str) -> list[str]:
    """The files that `save_to_disk` lists in its `state.json`."""
    try:
        return [str(one["filename"]) for one in json.loads(text)["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: does not say which files hold the data; {error!r}.",
            hint="name the .arrow files themselves.",
        ) from error


def splits_named(text: str, path: str) -> list[str]:
    """The splits that a `dataset_dict.json` lists."""
    try:
        return [str(name) for name in json.loads(text)["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: does not say which splits there are; {error!r}.",
            hint="name the folder of one split.",
        ) from error


def refuse_splits(folder: str, splits: Sequence[str]) -> None:
    """Raise `BadInput` for several splits."""
    if len(splits) > 1:
        raise BadInput(
            f"{folder}: a data set with the splits {list(splits)}, which are read one by one.",
            hint=f"name one of them: {os.path.join(folder, splits[0])}.",
        )


def _split_of(parts: Sequence[str]) -> str | None:
    """The split that a path names: a folder, or a file's last word before its shard."""
    *folders, name = parts
    words = [folder.lower() for folder in folders]
    if match := _SPLIT.fullmatch(name.partition(".")[0]):
        words.append(match[1].lower())
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
                f"{item.label}: partition columns {[key for key, _ in item.partition]} differ"
                f" from those of {first.label}: {sorted(keys)}.",
                hint="every file needs the same key=value folders.",
            )
