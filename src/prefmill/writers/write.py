"""Frames to files: encoded on all cores, split by prompt, and published whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from prefmill.disk.targets import Publisher, shown, staging
from prefmill.errors import BadArgument
from prefmill.table.chance import check_shares, prompt_hash, split_frame
from prefmill.table.messages import is_json_text
from prefmill.writers.arrow import arrow_schema
from prefmill.writers.formats import Format
from prefmill.writers.hive import check_columns
from prefmill.writers.layouts import convert, output_schema
from prefmill.writers.partitions import PartitionsSink
from prefmill.writers.place import Place
from prefmill.writers.sinks import Sink, group_bytes_in, sink_maker, writing
from prefmill.writers.spreadsheets import refuse_other_kinds, safe, safe_schema, told

_DATASET_FILE = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class Written:
    """What `write` published, for every split (`""` without splits).

    `marked` are the texts with an apostrophe in front, of CSV that is safe in a spreadsheet.
    """

    paths: dict[str, str]
    rows: dict[str, int]
    marked: int | None = None

    @property
    def notes(self) -> list[str]:
        """What people have to know of what is written."""
        return [] if self.marked is None else [told(self.marked)]


@dataclass(frozen=True)
class Staged:
    """What is made, and not published yet.

    `targets` are what appears, a file for each split or one folder; `schema` is that of the files.
    """

    stage: Publisher
    targets: list[Path]
    written: Written
    schema: pl.Schema

    def publish(self, *, overwrite: bool) -> None:
        """Make it what readers see. Raises what the publisher raises."""
        self.stage.publish(overwrite=overwrite)


#: Publishes what is made, `overwrite` as it was given: who keeps a record does so around it.
Publish = Callable[[Staged, bool], None]


def _published(staged: Staged, overwrite: bool) -> None:
    staged.publish(overwrite=overwrite)


def write(
    frames: Iterable[pl.DataFrame],
    schema: pl.Schema,
    target: str | Path,
    *,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    file_format: str | None = None,
    prompt: str = "prompt",
    publish_empty: bool = True,
    memory_bytes: int | None = None,
    together: str | None = None,
    spreadsheet_safe: bool = False,
    partition_by: Sequence[str] = (),
    publish: Publish = _published,
) -> Written:
    """Write frames of pairs, labels or picks, all of `schema`, in their order to one file or more.

    The kind of file follows from the name: `.parquet`, `.jsonl`/`.ndjson`, `.csv`, `.tsv` (these
    also with `.gz` or `.zst` after them), `.arrow`/`.ipc`/`.feather` (Arrow IPC file); a name
    without extension, or with a slash at its end, is a Hugging Face `datasets` directory for
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
        together: the column whose equal values stand together, for the metadata of Parquet.
        spreadsheet_safe: of CSV, texts and names of columns that begin like a formula get an
            apostrophe in front (`prefmill.writers.spreadsheets`).
        publish_empty: write a target without rows too; else nothing is written then, and an old
            target stays.
        memory_bytes: what the process is to hold at most: row groups are smaller then.
        partition_by: columns of the output; the target is a folder then, of hive partitions
            (`prefmill.writers.partitions`).
        publish: how it is published, once all is made.

    Everything is written in a hidden folder next to the target, flushed to disk, and published in
    one step, all splits together (`prefmill.disk.whole`). On an error, or Ctrl-C, nothing is left
    and an old target stays as it was. Missing parent directories are made.
    Cost: for Parquet 3.1 core-seconds per GB of text, on all cores; memory of about 0.5 GB as well
    as the frames, however long the stream (frames of 10 to 30 MB are best: those of 170 MB were as
    fast, and took three times as much). Raises `BadArgument`, `TargetExists`, `MissingPackage`
    before the first frame is taken; whatever `frames` raises, as it is.

    >>> import tempfile
    >>> texts = {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}
    >>> pairs = pl.DataFrame(texts | {"chosen_score": [5.0], "rejected_score": [1.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write([pairs], pairs.schema, f"{folder}/pairs.parquet")
    ...     pl.read_parquet(written.paths[""]).rows(), written.rows
    ([('p', 'a', 'b', 5.0, 1.0)], {'': 1})
    """
    place = _place_of(target, split, file_format, partition_by)
    shares = {"": 1.0} if split is None else check_shares(split)
    layout = partial(convert, format=format, chat=chat, margin_scale=margin_scale)
    out = output_schema(schema, format=format, chat=chat, margin_scale=margin_scale)
    # Refuse prompts that cannot be hashed.
    if split is not None:
        prompt_hash(pl.Series("prompt", [], dtype=schema[prompt]), b"")
    if place.kind in ("csv", "tsv"):
        _refuse_nested(out)
    if place.kind in ("csv", "tsv", "jsonl"):
        _refuse_bytes(out)
    if spreadsheet_safe:
        refuse_other_kinds(place)
        out = safe_schema(out)
    group_bytes = group_bytes_in(memory_bytes, len(shares))
    kind = "parquet" if partition_by else place.kind
    make_sink = sink_maker(kind, place.compression, out, group_bytes, together)
    if partition_by:
        check_columns(partition_by, out)
        make_sink = partial(
            PartitionsSink,
            schema=out,
            columns=partition_by,
            make=make_sink,
            room=group_bytes,
        )
    place.check_free(shares, overwrite)

    sinks: dict[str, Sink] = {}
    rows, marked = dict.fromkeys(shares, 0), 0
    with staging(place.outputs(shares), where="write") as stage:
        paths = _paths_in(stage, place, shares)
        try:
            for name in shares:
                sinks[name] = make_sink(paths[name])
            for frame in frames:
                if frame.schema != schema:
                    raise BadArgument(
                        f"write: a frame of another schema; got {frame.schema}, expected {schema}."
                    )
                parts = iter([("", frame)])
                if split is not None:
                    parts = split_frame(frame, shares, seed, prompt=prompt)
                for name, part in parts:
                    if part.height:
                        part = layout(part)
                        if spreadsheet_safe:
                            part, more = safe(part)
                            marked += more
                        rows[name] += part.height
                        with writing(place.path_of(name)):
                            sinks[name].write(part)
                # Not kept while the next one is made.
                frame = part = parts = None  # type: ignore[assignment]
            for name, sink in sinks.items():
                with writing(place.path_of(name)):
                    sink.close()
        finally:  # after a success there is nothing left to abort
            for sink in sinks.values():
                # Of a full disk we know.
                with contextlib.suppress(OSError):
                    sink.abort()
        if not (any(rows.values()) or publish_empty):
            return Written(paths={}, rows=rows)
        if place.kind == "datasets":
            _complete_dataset(stage.path(place.path), paths, out, split is not None)
        paths_out = {name: shown(place.path_of(name)) for name in shares}
        written = Written(paths_out, rows, marked if spreadsheet_safe else None)
        publish(Staged(stage, place.outputs(shares), written, out), overwrite)
    return written


def check_target(
    target: str | Path,
    *,
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    file_format: str | None = None,
    spreadsheet_safe: bool = False,
    partition_by: Sequence[str] = (),
) -> None:
    """Raise what `write` would raise about its target and its splits, before hours of work.

    Raises `BadArgument`, `TargetExists`, `MissingPackage`. What dead processes left next to the
    target is settled.

    >>> check_target("pairs.docx")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: cannot tell the file format from the name; got...
    Hint: name the file so, or end the name with a slash for a datasets directory.
    """
    place = _place_of(target, split, file_format, partition_by)
    shares = {"": 1.0} if split is None else check_shares(split)
    if spreadsheet_safe:
        refuse_other_kinds(place)
    sink_maker("parquet" if partition_by else place.kind, place.compression, pl.Schema())
    place.check_free(shares, overwrite)


def outputs_of(
    target: str | Path,
    split: Mapping[str, float] | None = None,
    partition_by: Sequence[str] = (),
) -> list[str]:
    """The files, or the folder, that `write` publishes: an input folder does not read them.

    >>> outputs_of("pairs.parquet", {"train": 0.9, "test": 0.1})
    ['pairs-train.parquet', 'pairs-test.parquet']
    """
    place = _place_of(target, split, None, partition_by)
    return [shown(path) for path in place.outputs(split or {"": 1.0})]


def _place_of(
    target: str | Path,
    split: Mapping[str, float] | None,
    file_format: str | None,
    partition_by: Sequence[str],
) -> Place:
    if not partition_by:
        return Place.of(target, file_format)
    if split is not None:
        raise BadArgument(
            "write: splits and partitions are two ways to part an output; got both.",
            hint="leave --split or --partition-by out.",
        )
    return Place.of_partitions(target)


def _refuse_nested(schema: pl.Schema) -> None:
    for name, dtype in schema.items():
        if dtype.is_nested() and not is_json_text(dtype):
            raise BadArgument(
                f"write: CSV holds no lists; got {dtype} in the column {name!r}.",
                hint="write .jsonl or .parquet instead.",
            )


def _refuse_bytes(schema: pl.Schema) -> None:
    for name, dtype in schema.items():
        if _holds_bytes(dtype):
            raise BadArgument(
                f"write: text files hold no bytes; got {dtype} in the column {name!r}.",
                hint="write .parquet or a datasets folder, or leave that column out.",
            )


def _holds_bytes(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    inner = getattr(dtype, "inner", None)
    return dtype == pl.Binary or (inner is not None and _holds_bytes(inner))


def _paths_in(stage: Publisher, place: Place, splits: Iterable[str]) -> dict[str, Path]:
    """Where each split is written to."""
    if place.kind != "datasets":
        return {name: stage.path(place.path_of(name)) for name in splits}
    paths = {name: stage.path(place.path) / name / _DATASET_FILE for name in splits}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    return paths


def _complete_dataset(
    folder: Path, paths: Mapping[str, Path], schema: pl.Schema, split: bool
) -> None:
    """What `load_from_disk` reads as well as the data: features, and a state.

    The state's fingerprint, which names cached `map`s, is that of the data.
    """
    import datasets

    # `datasets` depends on it.
    import xxhash

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
        splits = json.dumps({"splits": list(paths)})
        (folder / "dataset_dict.json").write_text(splits, encoding="utf-8")
