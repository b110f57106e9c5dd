"""Frames to files, one after another: encoded on all cores, split by prompt, and published whole or
not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from prefmill.disk.settling import settle
from prefmill.disk.whole import Staging, check_free, check_name
from prefmill.errors import BadArgument
from prefmill.table.chance import check_shares, prompt_hash, split_frame
from prefmill.table.messages import is_json_text
from prefmill.writers.layouts import Format, arrow_schema, convert, output_schema
from prefmill.writers.sinks import Sink, sink_maker, writing

FILE_FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSIBLE = ("jsonl", "csv", "tsv")

_DATASET_FILE = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class Written:
    """What `write` published: for every split (`""` without splits) its path and its number of
    rows.
    """

    paths: dict[str, str]
    rows: dict[str, int]


def write(
    frames: Iterable[pl.DataFrame],
    schema: pl.Schema,
    target: str | Path,
    *,
    format: Format = "trl",
    chat: bool = False,
    margin_scale: float | None = None,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    file_format: str | None = None,
    prompt: str = "prompt",
    publish_empty: bool = True,
) -> Written:
    """Write frames of pairs, labels or picks, all of `schema`, to one file (or one per split), in
    their order.

    The kind of file follows from the name: `.parquet`, `.jsonl`/`.ndjson`, `.csv`, `.tsv` (these
    also with `.gz` or `.zst` behind), `.arrow`/`.ipc`/`.feather` (Arrow IPC file); a name without
    extension, or with a slash at its end, is a Hugging Face `datasets` directory for
    `load_from_disk`. Texts are `string`, scores `float64`, labels `bool`, conversations
    `list<struct<role, content>>`.

    Args:
        format, chat, margin_scale: the columns, see `prefmill.writers.layouts.convert`.
        split: shares by name, positive, with the sum 1. All rows of a prompt go to one split, which
            depends on the prompt, the shares and `seed` alone. `pairs.parquet` becomes
            `pairs-NAME.parquet`; a directory holds a `DatasetDict`. A split without rows is written
            too.
        prompt: the column that splits go by.
        overwrite: replace an existing target; without it, that is an error before the first frame
            is taken.
        file_format: one of `parquet`, `jsonl`, `csv`, `tsv`, `arrow`, `datasets`, whatever the name
            says.
        publish_empty: write a target without rows too; else nothing is written then, and an old
            target stays.

    Everything is written in a hidden folder next to the target, flushed to disk, and published in
    one step, all splits together (`prefmill.disk.whole`). On an error, or Ctrl-C, nothing stays
    behind and an old target stays as it was. Missing parent directories are made.
    Cost: for Parquet 3.1 core-seconds per GB of text, on all cores; memory of about 0.5 GB beside
    the frames, however long the stream (frames of 10 to 30 MB are best: those of 170 MB were as
    fast, and took three times as much). Raises `BadArgument`, `TargetExists`, `MissingPackage`
    before the first frame is taken; whatever `frames` raises, as it is.

    >>> import tempfile
    >>> pairs = pl.DataFrame({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], "chosen_score": [5.0], "rejected_score": [1.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write([pairs], pairs.schema, f"{folder}/pairs.parquet")
    ...     pl.read_parquet(written.paths[""]).rows(), written.rows
    ([('p', 'a', 'b', 5.0, 1.0)], {'': 1})
    """
    place = _Place.of(target, file_format)
    shares = {"": 1.0} if split is None else check_shares(split)
    out = output_schema(schema, format=format, chat=chat, margin_scale=margin_scale)
    if split is not None:
        prompt_hash(
            pl.Series("prompt", [], dtype=schema[prompt]), b""
        )  # refuses prompts that cannot be hashed
    if place.kind in ("csv", "tsv"):
        _refuse_nested(out)
    if place.kind in ("csv", "tsv", "jsonl"):
        _refuse_bytes(out)
    make_sink = sink_maker(place.kind, place.compression, out)
    place.check_free(shares, overwrite)

    sinks: dict[str, Sink] = {}
    rows = dict.fromkeys(shares, 0)
    with Staging(place.outputs(shares), where="write") as staging:
        paths = _paths_in(staging, place, shares)
        try:
            for name in shares:
                sinks[name] = make_sink(paths[name])
            for frame in frames:
                if frame.schema != schema:
                    raise BadArgument(
                        f"write: a frame of another schema; got {frame.schema}, expected {schema}."
                    )
                for name, part in (
                    [("", frame)]
                    if split is None
                    else split_frame(frame, shares, seed, prompt=prompt)
                ):
                    if part.height:
                        part = convert(part, format=format, chat=chat, margin_scale=margin_scale)
                        rows[name] += part.height
                        with writing(place.path_of(name)):
                            sinks[name].write(part)
                frame = part = None  # type: ignore[assignment]  # not kept while the next one is made
            for name, sink in sinks.items():
                with writing(place.path_of(name)):
                    sink.close()
        finally:  # after a success there is nothing left to abort
            for sink in sinks.values():
                with contextlib.suppress(OSError):  # of a full disk we know
                    sink.abort()
        if not (any(rows.values()) or publish_empty):
            return Written(paths={}, rows=rows)
        if place.kind == "datasets":
            _complete_dataset(staging.path(place.path), paths, out, split is not None)
        staging.publish(overwrite=overwrite)
    return Written(paths={name: str(place.path_of(name)) for name in shares}, rows=rows)


def check_target(
    target: str | Path,
    *,
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    file_format: str | None = None,
) -> None:
    """Raise what `write` would raise about its target and its splits, so that hours of work do not
    end in it.

    Raises `BadArgument`, `TargetExists`, `MissingPackage`. What dead processes left next to the
    target is settled.

    >>> check_target("pairs.docx")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: cannot tell the file format from the name; got 'pairs.docx', expected one of ['.parquet', ...].
    Hint: name the file so, or end the name with a slash for a datasets directory.
    """
    place = _Place.of(target, file_format)
    shares = {"": 1.0} if split is None else check_shares(split)
    sink_maker(place.kind, place.compression, pl.Schema())
    place.check_free(shares, overwrite)


def outputs_of(target: str | Path, split: Mapping[str, float] | None = None) -> list[str]:
    """The files, or the folder, that `write` publishes for these arguments; an input folder does
    not read them.

    >>> outputs_of("pairs.parquet", {"train": 0.9, "test": 0.1})
    ['pairs-train.parquet', 'pairs-test.parquet']
    """
    return [str(path) for path in _Place.of(target, None).outputs(split or {"": 1.0})]


def _refuse_nested(schema: pl.Schema) -> None:
    nested = [
        name for name, dtype in schema.items() if dtype.is_nested() and not is_json_text(dtype)
    ]
    if nested:
        raise BadArgument(
            f"write: CSV holds no lists; got {schema[nested[0]]} in the column {nested[0]!r}.",
            hint="write .jsonl or .parquet instead.",
        )


def _refuse_bytes(schema: pl.Schema) -> None:
    held = [name for name, dtype in schema.items() if _holds_bytes(dtype)]
    if held:
        raise BadArgument(
            f"write: text files hold no bytes; got {schema[held[0]]} in the column {held[0]!r}.",
            hint="write .parquet or a datasets folder, or leave that column out.",
        )


def _holds_bytes(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    inner = getattr(dtype, "inner", None)
    return dtype == pl.Binary or (inner is not None and _holds_bytes(inner))


# --- where
# ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A target and what its name says: kind of file, extension, compression."""

    path: Path
    kind: str
    extension: str
    compression: Literal["uncompressed", "gzip", "zstd"]

    @classmethod
    def of(cls, target: str | Path, file_format: str | None) -> _Place:
        check_name(target, "write")
        path = Path(target)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        packed = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
        extension = (
            suffixes[-2]
            if packed and len(suffixes) > 1
            else ""
            if packed or not suffixes
            else suffixes[-1]
        )
        kinds = [*dict.fromkeys(FILE_FORMATS.values()), "datasets"]
        if file_format is not None and file_format not in kinds:
            raise BadArgument(
                f"write: unknown file format; got {file_format!r}, expected one of {kinds}."
            )
        if str(target).endswith(("/", os.sep)) or not (extension or packed):
            kind = file_format or "datasets"
        else:
            kind = file_format or FILE_FORMATS.get(extension, "")
        if not kind or not path.name or (packed and kind not in _COMPRESSIBLE):
            known = [*FILE_FORMATS, ".jsonl.gz", ".csv.gz"]
            raise BadArgument(
                f"write: cannot tell the file format from the name; got {str(target)!r}, expected one of {known}.",
                hint="name the file so, or end the name with a slash for a datasets directory.",
            )
        ends = path.name[
            len(path.name) - sum(map(len, path.suffixes[-2:] if packed else path.suffixes[-1:])) :
        ]
        return cls(path, kind, "" if kind == "datasets" else ends, packed or "uncompressed")

    def path_of(self, split: str) -> Path:
        """The published path of a split."""
        if not split:
            return self.path
        if self.kind == "datasets":
            return self.path / split
        return self.path.with_name(
            f"{self.path.name.removesuffix(self.extension)}-{split}{self.extension}"
        )

    def outputs(self, splits: Iterable[str]) -> list[Path]:
        """What is renamed at the end: a file per split, or one directory."""
        return [self.path] if self.kind == "datasets" else [self.path_of(name) for name in splits]

    def check_free(self, splits: Iterable[str], overwrite: bool) -> None:
        """Raise unless every output can be created, or replaced without destroying anything
        else.
        """
        outputs = self.outputs(splits)
        settle(self.path.parent, but=outputs)
        for path in filter(os.path.lexists, outputs):
            if self.kind == "datasets":
                if not path.is_dir():
                    raise BadArgument(
                        f"write: {str(path)!r} is a file; expected a datasets directory.",
                        hint="give the name an extension.",
                    )
                ours = any(
                    (path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")
                ) or not any(path.iterdir())
                if overwrite and not ours:  # never delete a folder of somebody's other files
                    raise BadArgument(
                        f"write: {str(path)!r} is a directory, but none of `datasets`.",
                        hint="write to a name inside it.",
                    )
            elif not path.is_file():
                raise BadArgument(
                    f"write: {str(path)!r} is no regular file; got a format of files.",
                    hint="write to another name.",
                )
        check_free(*outputs, overwrite=overwrite, where="write")


def _paths_in(staging: Staging, place: _Place, splits: Iterable[str]) -> dict[str, Path]:
    """Where each split is written to."""
    if place.kind != "datasets":
        return {name: staging.path(place.path_of(name)) for name in splits}
    paths = {name: staging.path(place.path) / name / _DATASET_FILE for name in splits}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    return paths


def _complete_dataset(
    folder: Path, paths: Mapping[str, Path], schema: pl.Schema, split: bool
) -> None:
    """What `load_from_disk` reads beside the data: features, and a state whose fingerprint (of
    cached `map`s) is that of the data.
    """
    import datasets
    import xxhash  # `datasets` depends on it

    features = datasets.Features.from_arrow_schema(arrow_schema(schema))
    for name, path in paths.items():
        datasets.DatasetInfo(features=features).write_to_directory(str(path.parent))
        with path.open("rb") as data:
            fingerprint = hashlib.file_digest(data, xxhash.xxh64).hexdigest()
        state: dict[str, object] = {
            "_data_files": [{"filename": path.name}],
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": name or None,
        }
        (path.parent / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    if split:
        (folder / "dataset_dict.json").write_text(
            json.dumps({"splits": list(paths)}), encoding="utf-8"
        )
