"""What an input is told apart by before it is opened: a run that was done is known at once.

Of a file its size and time are asked, of an object its tag, of a table of a warehouse its version.
A table in memory is hashed. Of what is behind another URL, and of what can be read once only,
nothing is known: such a run is never done.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefmill.disk.stores import ObjectStore
from prefmill.objects import is_object, split_url, url_of
from prefmill.pools.stream import reader_of
from prefmill.readers.find import Input, find_files
from prefmill.readers.remote import find_objects
from prefmill.shapes.source import parsed_join
from prefmill.warehouse.address import Address, version_of
from prefmill.warehouse.tables import opened

#: Name, and what changes with the content; None where nobody knows.
Known = list[Any]
IN_MEMORY = "a table in memory"
STDIN = "-"
_AT_ONCE = 16


def listed(inputs: Any) -> list[str] | None:
    """`inputs` as paths; None where they are in memory."""
    if isinstance(inputs, str | Path):
        return [str(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return [str(each) for each in inputs]
    return None


def is_stdin(inputs: Any) -> bool:
    """Whether some input is stdin."""
    return STDIN in (listed(inputs) or ())


def known_of(
    inputs: Any, *, without: Collection[str | Path] = (), in_place: bool = False
) -> list[Known]:
    """Every file that `inputs` name, in order: name, then size and time, or a tag, or a hash.

    `without` are outputs, which are no inputs; `in_place` as in `readers.open_source`. Costs a
    listing and a look at each file; a request for each object. Raises what reading would raise
    about the names.

    >>> known_of(pa.table({"a": [1]})) == known_of(pa.table({"a": [1]}))
    True
    >>> known_of(iter([1]))
    [['a table in memory', None]]
    """
    paths = listed(inputs)
    if paths is None:
        return [[IN_MEMORY, _content(inputs)]]
    once = in_place and len(paths) == 1
    items: list[Input] = []
    for given in paths:
        outputs = () if once and os.path.isfile(given) else without
        items += (find_objects if is_object(given) else find_files)(given, outputs)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tags = pool.map(_tag, [item.path for item in items if item.object])
        return [_known(item, tags) for item in items]


def _known(item: Input, tags: Iterator[str | None]) -> Known:
    name = item.path + (f"#{item.select}" if item.select else "")
    if item.object:
        return [name, next(tags)]
    if item.format == "table":
        return [item.label, _version(item.path)]  # without a password
    if item.url:
        return [name, None]
    return [name, *stat_of(item.path)]


def _version(address: str) -> str | None:
    """What tells the version of a table; None where there is none, and reading says so.

    Of a database it is size and time of its file, which is not opened: that may change them.
    """
    table = Address.of(address)
    assert table is not None
    if table.kind in ("duckdb", "sqlite"):
        return version_of(table.place) or None
    with opened(table) as found:
        return found.version() if found.columns() is not None else None


def stat_of(path: str | Path) -> Known:
    """Size and time of a file; None of what is none."""
    try:
        status = os.stat(path)
    except OSError:
        return [None]
    return [status.st_size, status.st_mtime_ns]


def _tag(url: str) -> str | None:
    root, key = split_url(url_of(url))
    return ObjectStore(root, "").tag_of(key)


def joined(words: Mapping[str, Any], where: str) -> list[Known]:
    """The files that the words join to records."""
    joins = words.get("join") or ()
    texts = [joins] if isinstance(joins, str) else list(joins)
    return [each for text in texts for each in known_of(parsed_join(text, where)[1])]


def read_by(reading: Mapping[str, Any]) -> dict[str, Any]:
    """The options of reading that decide what rows are."""
    named = {name: reading.get(name) for name in ("encoding", "delimiter", "rejects")}
    return {name: str(value) for name, value in named.items() if value is not None}


def is_certain(known: Sequence[Known]) -> bool:
    """Whether all of them are told apart by their content."""
    return all(each[-1] is not None for each in known)


def part_known(part: Any) -> dict[str, Any]:
    """A scorer or sampler, without loading it where that can be spared.

    Of one with a model in a folder its options, and size and time of every file that they name;
    else its fingerprint.
    """
    model = getattr(part, "model", None)
    if not (is_dataclass(part) and isinstance(model, str | Path) and Path(model).is_dir()):
        return dict(part.fingerprint)
    known: dict[str, Any] = {"kind": type(part).__name__}
    for each in fields(part):
        value = getattr(part, each.name)
        if each.init and isinstance(value, str | int | float | Path):
            known[each.name] = str(value) if isinstance(value, Path) else value
            if isinstance(value, str | Path) and value and (files := _files(Path(value))):
                known[f"{each.name}_files"] = files
        elif each.init and value is not None:
            known[each.name] = repr(value)
    return known


def _files(path: Path) -> list[Known]:
    """Name, size and time of a file, or of those in a folder."""
    inside = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    files = [(each, each.stat()) for each in inside if each.is_file()]
    return [[str(each), status.st_size, status.st_mtime_ns] for each, status in files]


class _Digest:
    """A file that hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


def _content(table: Any) -> str | None:
    """A hash of a table that can be read again; None of one that cannot, or is a query."""
    module, kind = type(table).__module__.partition(".")[0], type(table).__name__
    again = {
        "polars": ("DataFrame",),
        "pandas": ("DataFrame",),
        "pyarrow": ("Table", "RecordBatch"),
        "datasets": ("Dataset",),
    }
    if kind not in again.get(module, ()):
        return None
    digest = _Digest()
    try:
        reader = reader_of(table)
        with pa.ipc.new_stream(pa.PythonFile(digest, mode="w"), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except (ValueError, pa.ArrowException):
        return None  # reading says what is wrong with it
    return digest.hash.hexdigest()
