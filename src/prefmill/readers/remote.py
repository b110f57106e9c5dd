"""Objects as inputs: single ones, globs and folders are found, then fetched, then read as files.

An object is fetched once, in one version, to the temporary folder, whatever its format: so it means
what a local copy of it would mean, on every engine, with the lines of malformed rows.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from prefmill.disk.stores import ObjectStore
from prefmill.errors import BadInput, StoreFailed, nearest
from prefmill.objects import ObjectReader, bucket, split_url, url_of
from prefmill.readers.find import (
    Input,
    chosen_in,
    data_files_of,
    input_named,
    is_about,
    is_hidden,
    one_split,
    refuse_splits,
    splits_named,
    written,
)
from prefmill.readers.staging import Context, Version

_MAGIC = re.compile(r"[*?\[]")
_OF_DATASETS = {"state.json", "dataset_info.json"}
#: What one request fetches, and how many are under way.
_PIECE, _AT_ONCE = 16 << 20, 4


def find_objects(
    given: str, without: Collection[str | Path] = (), notes: list[str] | None = None
) -> list[Input]:
    """The objects that a URL names: itself, those of a pattern, or of a folder; in order.

    As `find.find_files`, which see. Costs a request for a single object, else one for each 1,000
    objects below the folder. Raises `BadInput`, `StoreFailed`.
    """
    url = url_of(given)
    root, key = split_url(url)
    bucket(root, "inputs")
    store = ObjectStore(root, "")
    if key and not url.endswith("/") and _is_there(store, key):
        if any(_is_in(url, one) for one in without):
            raise written(given)
        return [_object(url)]
    if (parts := chosen_in(given)) is not None and not given.endswith("/"):
        base, name = parts
        return [
            replace(item, label=f"{item.label}#{name}", select=name)
            for item in find_objects(base, without, notes)
        ]
    pattern = bool(_MAGIC.search(key))
    found = _match(store, key) if pattern else _walk(store, key)
    met = [item.path for item in found if any(_is_in(item.path, one) for one in without)]
    found = [item for item in found if item.path not in met]
    if met and not found:
        raise written(given)
    if notes is not None:
        notes += [
            f"{path!r} is left out of the input: it is an output of this command." for path in met
        ]
    if not found and pattern:
        hint = "is the pattern right, and quoted for the shell?"
        raise BadInput(f"{url}: no object matches.", hint=hint)
    return found


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.size(key)
    except FileNotFoundError:
        return False
    return True


def _is_in(url: str, output: str | Path) -> bool:
    """Whether `url` is the output, or lies in it."""
    whole = url_of(output).rstrip("/")
    return url == whole or url.startswith(f"{whole}/")


def _match(store: ObjectStore, pattern: str) -> list[Input]:
    parts = [part for part in pattern.split("/") if part]
    plain = list(takewhile(lambda part: not _MAGIC.search(part), parts))
    spelled, files, folders = set(parts), set(), set()
    for key in store.names("/".join([*plain, ""]) if plain else ""):
        names = key.split("/")
        for end in range(len(plain) + 1, len(names) + 1):
            inside = names[:end]
            if any(is_hidden(name) and name not in spelled for name in inside):
                break
            if _fits(inside, parts):
                # Two stars match each object once more through its folder.
                if end == len(names):
                    files.add(key)
                elif "**" not in parts:
                    folders.add("/".join(inside))
    found: list[Input] = []
    for key in sorted(files | folders):
        if key in folders:
            found += _walk(store, key)
        elif not is_about(key.rpartition("/")[2]):
            found.append(_object(f"{store.bucket}/{key}"))
    return found


def _fits(names: list[str], pattern: list[str]) -> bool:
    """Whether a key matches a glob, both in parts."""
    if not pattern:
        return not names
    first, *rest = pattern
    if first == "**":
        return _fits(names, rest) or (bool(names) and _fits(names[1:], pattern))
    return bool(names) and fnmatchcase(names[0], first) and _fits(names[1:], rest)


def _object(url: str) -> Input:
    return replace(input_named(url), object=True)


def _walk(store: ObjectStore, top: str) -> list[Input]:
    prefix = f"{top}/" if top else ""
    url = f"{store.bucket}/{top}".rstrip("/")
    names = [key.removeprefix(prefix) for key in store.names(prefix)]
    if not names:
        hint = None
        folder = top.rpartition("/")[0]
        siblings = store.names(f"{folder}/" if folder else "") if top else []
        if near := nearest(top, siblings):
            hint = f"did you mean {store.bucket}/{near[0]}?"
        raise BadInput(f"{url}: no such object, and no folder of that name.", hint=hint)
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if not any(is_hidden(part) for part in folder.split("/") if part):
            folders.setdefault(folder, []).append(last)
    found: list[Input] = []
    for folder, inside in sorted(folders.items()):
        there = f"{prefix}{folder}/" if folder else prefix
        shown = f"{store.bucket}/{there}".rstrip("/")
        if "dataset_dict.json" in inside:
            text = store.get_text(f"{there}dataset_dict.json")
            refuse_splits(shown, splits_named(text, f"{shown}/dataset_dict.json"))
        if set(inside) >= _OF_DATASETS:
            listed = data_files_of(store.get_text(f"{there}state.json"), f"{shown}/state.json")
        else:
            listed = [name for name in sorted(inside) if not is_hidden(name) and not is_about(name)]
        folded = [part.partition("=") for part in folder.split("/")]
        partition = tuple((key, unquote(value)) for key, mark, value in folded if key and mark)
        found += [replace(_object(f"{shown}/{name}"), partition=partition) for name in listed]
    return one_split(found, url, "/")


def fetched(item: Input, context: Context) -> Input:
    """`item` as a local copy, under its label; of one version of the object, whatever its size.

    Costs a request for each 16 MB, four at a time; 64 MB of memory.
    """
    ending = os.path.basename(item.path)
    stem = ending[ending.index(".") :] if "." in ending else ""
    # The name of an object may be any text; only its endings say something.
    path = context.new_path(item.partition, f"object{''.join(Path(stem).suffixes[-2:])}")
    context.progress(f"fetching {item.label}")
    try:
        fetch(item.path, path)
    except FileNotFoundError:
        raise BadInput(f"{item.label}: the object went away.") from None
    return replace(item, path=str(path), object=False)


def reader_of(version: Version) -> ObjectReader:
    """An object in the version that was looked at; nothing is fetched that is not asked for.

    Raises `StoreFailed` where it is another one.
    """
    reader: ObjectReader | None = None
    with contextlib.suppress(FileNotFoundError):
        reader = ObjectReader(version.url, ahead=0)
    if reader is None or (reader.tag, reader.size) != (version.tag, version.size):
        became = "went away" if reader is None else "was replaced"
        raise StoreFailed(
            f"store: {version.url}: the object {became} while it was read.",
            hint="run the same command again.",
            again=True,
        )
    return reader


def fetch(url: str, path: Path) -> None:
    """Copy an object to a file. Raises `FileNotFoundError`, `StoreFailed`."""
    copy_all(ObjectReader(url), path)


def copy_all(reader: ObjectReader, path: Path) -> None:
    """Copy what `reader` reads to a file. Raises `StoreFailed`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def copy(start: int) -> None:
        piece = reader.piece(start, min(reader.size, start + _PIECE))
        while piece:
            done = os.pwrite(handle, piece, start)
            piece, start = piece[done:], start + done

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(copy, range(0, reader.size, _PIECE)):
                pass
    finally:
        os.close(handle)
