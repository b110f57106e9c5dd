"""Where output goes: what a target's name says, and which files it comes to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefmill.disk.targets import check_free, is_object, settle, shown, target_of
from prefmill.disk.uploads import home_of
from prefmill.errors import BadArgument
from prefmill.warehouse.address import TABLES, Address
from prefmill.writers.hive import is_partitioned

#: What stands where the kind of a table does; `x:/` is a scheme, which has its own error.
_WORD = re.compile(r"([A-Za-z][A-Za-z0-9+]+):(?!/)")
Packed = Literal["uncompressed", "gzip", "zstd"]

#: The kind of file that each ending names.
KINDS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_PACKED: dict[str, Packed] = {".gz": "gzip", ".zst": "zstd"}
_TEXT_KINDS = ("jsonl", "csv", "tsv")
_OF_DATASETS = ("dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class Place:
    """A target and what its name says: kind of file, extension, compression."""

    path: Path
    kind: str  #: one of `KINDS`, or a folder: "datasets" of `datasets`, "partitions" of Parquet
    extension: str
    compression: Packed = "uncompressed"

    @classmethod
    def of(cls, target: str | Path, kind: str | None = None) -> Place:
        """The place that `target` names; with `kind`, a file of that kind whatever the name says.

        >>> place = Place.of("out/pairs.jsonl.gz")
        >>> place.kind, place.extension, place.compression
        ('jsonl', '.jsonl.gz', 'gzip')
        """
        _refuse_table(target)
        path = target_of(target, "write")
        *_, last = "", *path.suffixes
        packed = _PACKED.get(last.lower())
        ends = path.suffixes[-2:] if packed else path.suffixes[-1:]
        kinds = [*dict.fromkeys(KINDS.values()), "datasets"]
        if kind is not None and kind not in kinds:
            raise BadArgument(f"write: unknown file format; got {kind!r}, expected one of {kinds}.")
        if str(target).endswith(("/", os.sep)) or not ends:
            named = "datasets"
        else:
            named = KINDS.get(ends[0].lower(), "")
        kind = kind or named
        if not kind or not path.name or (packed and kind not in _TEXT_KINDS):
            known = [*KINDS, ".jsonl.gz", ".csv.gz"]
            raise BadArgument(
                f"write: cannot tell the file format from the name; got {str(target)!r},"
                f" expected one of {known}.",
                hint="name the file so, or end the name with a slash for a datasets directory.",
            )
        extension = "" if kind == "datasets" else "".join(ends)
        return cls(path, kind, extension, packed or "uncompressed")

    @classmethod
    def of_partitions(cls, target: str | Path) -> Place:
        """The folder that `target` names for Parquet in partitions.

        >>> Place.of_partitions("out/pairs/").kind
        'partitions'
        """
        _refuse_table(target)
        path = target_of(target, "write")
        if not path.name or path.suffix not in ("", ".parquet"):
            raise BadArgument(
                f"write: partitions are a folder of Parquet; got {str(target)!r}.",
                hint="name a folder: pairs/.",
            )
        return cls(path, "partitions", "")

    @property
    def is_folder(self) -> bool:
        """Whether it comes to a folder."""
        return self.kind in ("datasets", "partitions")

    def path_of(self, split: str) -> Path:
        """The published path of a split."""
        if not split:
            return self.path
        if self.kind == "datasets":
            return self.path / split
        stem = self.path.name.removesuffix(self.extension)
        return self.path.with_name(f"{stem}-{split}{self.extension}")

    def outputs(self, splits: Iterable[str]) -> list[Path]:
        """What is renamed at the end: a file per split, or one directory."""
        if self.is_folder:
            return [self.path]
        return [self.path_of(name) for name in splits]

    def check_free(self, splits: Iterable[str], overwrite: bool) -> None:
        """Raise unless every output can be created, or replaced and nothing else is destroyed."""
        outputs = self.outputs(splits)
        if is_object(self.path):
            if self.is_folder:
                _check_objects(self, overwrite)
            check_free(*outputs, overwrite=overwrite, where="write")
            return
        settle(self.path, but=outputs)
        for path in filter(os.path.lexists, outputs):
            if self.is_folder:
                _check_folder(self, overwrite)
            elif not path.is_file():
                raise BadArgument(
                    f"write: {str(path)!r} is no regular file; got a format of files.",
                    hint="write to another name.",
                )
        check_free(*outputs, overwrite=overwrite, where="write")


def _refuse_table(target: str | Path) -> None:
    """Raise for a table where files are written, and for a word that names no kind of table."""
    text = str(target)
    if (address := Address.of(text)) is not None:
        raise BadArgument(
            f"write: the output is a table, and files are written here; got {address.shown!r}.",
            hint="plans (pairs, unpair, best, advantages, values) go to tables; write .parquet.",
        )
    word = _WORD.match(text)
    if word and not Path(text).suffix:
        raise BadArgument(
            f"write: no kind of table is called {word[1]!r}; got {text!r}, expected one of"
            f" {', '.join(TABLES)}.",
            hint=f"a local folder of that name is './{text}'.",
        )


def _check_objects(place: Place, overwrite: bool) -> None:
    """Never delete a folder of somebody's other objects."""
    store, name = home_of(place.path)
    inside = [each.removeprefix(f"{name}/") for each in store.names(f"{name}/")]
    if overwrite and inside and not _is_ours(place, inside):
        raise BadArgument(
            f"write: {shown(place.path)!r} is a folder, but none of {_OF[place.kind]}.",
            hint="write to a name inside it.",
        )


def _check_folder(place: Place, overwrite: bool) -> None:
    path = place.path
    if not path.is_dir():
        raise BadArgument(
            f"write: {str(path)!r} is a file; expected a {_DIRECTORY[place.kind]}.",
            hint="give the name an extension, or write to another name.",
        )
    inside = [each.relative_to(path).as_posix() for each in path.rglob("*") if not each.is_dir()]
    # Never delete a folder of somebody's other files.
    if overwrite and inside and not _is_ours(place, inside):
        raise BadArgument(
            f"write: {str(path)!r} is a directory, but none of {_OF[place.kind]}.",
            hint="write to a name inside it.",
        )


_OF = {"datasets": "`datasets`", "partitions": "Parquet in partitions"}
_DIRECTORY = {"datasets": "datasets directory", "partitions": "directory of partitions"}


def _is_ours(place: Place, names: Sequence[str]) -> bool:
    """Whether a folder with files of these names may be replaced."""
    if place.kind == "partitions":
        return is_partitioned(names)
    return any(name in _OF_DATASETS for name in names)
