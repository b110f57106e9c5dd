"""Frames to files, one after another: encoded on all cores, split by prompt, and published whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from prefmill.errors import BadArgument, MissingPackage, TargetExists
from prefmill.formats import Format, arrow_schema, convert, output_schema
from prefmill.hashing import check_shares, prompt_hash, split_frame

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

# A row group is what one core encodes and what memory is held for: 64 MB of text, or fewer for short rows.
_GROUP_ROWS, _GROUP_BYTES = 50_000, 64 << 20
_BATCH_BYTES = 64 << 20
_DATASET_FILE = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class Written:
    """What `write` published: for every split (`""` without splits) its path and its number of rows."""

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
) -> Written:
    """Write frames of pairs or labels, all of `schema`, to one file (or one per split), in their order.

    The kind of file follows from the name: `.parquet`, `.jsonl`/`.ndjson`, `.csv`, `.tsv` (these also with `.gz` or `.zst` behind),
    `.arrow`/`.ipc`/`.feather` (Arrow IPC file); a name without extension, or with a slash at its end, is a Hugging Face `datasets`
    directory for `load_from_disk`. Texts are `string`, scores `float64`, labels `bool`, conversations `list<struct<role, content>>`.

    Args:
        format, chat, margin_scale: the columns, see `prefmill.formats.convert`.
        split: shares by name, positive, with the sum 1. All rows of a prompt go to one split, which depends on the prompt, the shares
            and `seed` alone. `pairs.parquet` becomes `pairs-NAME.parquet`; a directory holds a `DatasetDict`.
            A split without rows is written too.
        overwrite: replace an existing target; without it, that is an error before the first frame is taken.
        file_format: one of `parquet`, `jsonl`, `csv`, `tsv`, `arrow`, `datasets`, whatever the name says.

    Everything is written under hidden names beside the target, flushed to disk and renamed at the end: on an error, or Ctrl-C,
    nothing stays behind and an old target stays as it was. (Several split files are renamed one after another.) Missing parent
    directories are made.
    Cost: for Parquet 3.1 core-seconds per GB of text, on all cores; memory of about 0.5 GB beside the frames, however long the stream
    (frames of 10 to 30 MB are best: those of 170 MB were as fast, and took three times as much).
    Raises `BadArgument`, `TargetExists`, `MissingPackage` before the first frame is taken; whatever `frames` raises, as it is.

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
        prompt_hash(pl.Series("prompt", [], dtype=schema["prompt"]), b"")  # refuses prompts that cannot be hashed
    if place.kind in ("csv", "tsv"):
        _refuse_nested(out)
    make_sink = _sink_maker(place, out)
    place.check_free(shares, overwrite)

    staging = _Staging.beside(place, shares)
    sinks: dict[str, _Sink] = {}
    rows = dict.fromkeys(shares, 0)
    try:
        for name in shares:
            sinks[name] = make_sink(staging.paths[name])
        for frame in frames:
            if frame.schema != schema:
                raise BadArgument(f"write: a frame of another schema; got {frame.schema}, expected {schema}.")
            for name, part in [("", frame)] if split is None else split_frame(frame, shares, seed):
                if part.height:
                    part = convert(part, format=format, chat=chat, margin_scale=margin_scale)
                    rows[name] += part.height
                    sinks[name].write(part)
            frame = part = None  # type: ignore[assignment]  # not kept while the next one is made
        for sink in sinks.values():
            sink.close()
        if place.kind == "datasets":
            _complete_dataset(staging, out, split is not None)
        staging.publish()
    finally:  # after a success there is nothing left to abort or remove
        for sink in sinks.values():
            sink.abort()
        staging.remove()
    return Written(paths={name: str(place.path_of(name)) for name in shares}, rows=rows)


def check_target(
    target: str | Path, *, split: Mapping[str, float] | None = None, overwrite: bool = False, file_format: str | None = None
) -> None:
    """Raise what `write` would raise about its target and its splits, so that hours of work do not end in it.

    Raises `BadArgument`, `TargetExists`, `MissingPackage`; touches nothing.

    >>> check_target("pairs.docx")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: write: cannot tell the file format from the name; got 'pairs.docx', expected one of ['.parquet', ...].
    Hint: name the file so, or end the name with a slash for a datasets directory.
    """
    place = _Place.of(target, file_format)
    shares = {"": 1.0} if split is None else check_shares(split)
    _sink_maker(place, pl.Schema())
    place.check_free(shares, overwrite)


def _refuse_nested(schema: pl.Schema) -> None:
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    if nested:
        raise BadArgument(
            f"write: CSV holds no lists; got {schema[nested[0]]} in the column {nested[0]!r}.", hint="write .jsonl or .parquet instead."
        )


# --- where ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A target and what its name says: kind of file, extension, compression."""

    path: Path
    kind: str
    extension: str
    compression: Literal["uncompressed", "gzip", "zstd"]

    @classmethod
    def of(cls, target: str | Path, file_format: str | None) -> _Place:
        path = Path(target)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        packed = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
        extension = suffixes[-2] if packed and len(suffixes) > 1 else "" if packed or not suffixes else suffixes[-1]
        kinds = [*dict.fromkeys(FILE_FORMATS.values()), "datasets"]
        if file_format is not None and file_format not in kinds:
            raise BadArgument(f"write: unknown file format; got {file_format!r}, expected one of {kinds}.")
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
        ends = path.name[len(path.name) - sum(map(len, path.suffixes[-2:] if packed else path.suffixes[-1:])) :]
        return cls(path, kind, "" if kind == "datasets" else ends, packed or "uncompressed")

    def path_of(self, split: str) -> Path:
        """The published path of a split."""
        if not split:
            return self.path
        if self.kind == "datasets":
            return self.path / split
        return self.path.with_name(f"{self.path.name.removesuffix(self.extension)}-{split}{self.extension}")

    def outputs(self, splits: Iterable[str]) -> list[Path]:
        """What is renamed at the end: a file per split, or one directory."""
        return [self.path] if self.kind == "datasets" else [self.path_of(name) for name in splits]

    def check_free(self, splits: Iterable[str], overwrite: bool) -> None:
        """Raise unless every output can be created, or replaced without destroying anything else."""
        for path in self.outputs(splits):
            if not (path.exists() or path.is_symlink()):
                continue
            if self.kind == "datasets":
                if not path.is_dir():
                    raise BadArgument(f"write: {str(path)!r} is a file; expected a datasets directory.", hint="give the name an extension.")
                ours = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")) or not any(path.iterdir())
                if overwrite and not ours:  # never delete a folder of somebody's other files
                    raise BadArgument(f"write: {str(path)!r} is a directory, but none of `datasets`.", hint="write to a name inside it.")
            elif not path.is_file():
                raise BadArgument(f"write: {str(path)!r} is no regular file; got a format of files.", hint="write to another name.")
            if not overwrite:
                raise TargetExists(f"write: {str(path)!r} is already there.", hint="use --overwrite, or another name.")


@dataclass(frozen=True)
class _Staging:
    """Hidden names beside the target: `paths` to write to, per split, and the renames that publish them."""

    paths: dict[str, Path]
    renames: dict[Path, Path]

    @classmethod
    def beside(cls, place: _Place, splits: Iterable[str]) -> _Staging:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        mark = f"{os.getpid()}-{secrets.token_hex(4)}"

        def hidden(path: Path) -> Path:
            return path.with_name(f".{path.name}.{mark}.tmp")

        if place.kind != "datasets":
            return cls({name: hidden(place.path_of(name)) for name in splits}, {hidden(p): p for p in place.outputs(splits)})
        folder = hidden(place.path)
        paths = {name: folder / name / _DATASET_FILE for name in splits}
        try:
            for path in paths.values():
                path.parent.mkdir(parents=True)
        except BaseException:
            _remove(folder)
            raise
        return cls(paths, {folder: place.path})

    def publish(self) -> None:
        """Flush, rename, flush the directory: after a crash there is the old target or the new one, and never half of it."""
        for source in self.renames:
            for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
                _fsync(path)
        for source, target in self.renames.items():
            if source.is_dir() and target.exists():
                old = source.with_suffix(".old")
                os.rename(target, old)
                try:
                    os.rename(source, target)
                except BaseException:
                    os.rename(old, target)
                    raise
                _remove(old)
            else:
                os.replace(source, target)
        _fsync(next(iter(self.renames.values())).parent)

    def remove(self) -> None:
        for path in self.renames:
            _remove(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- how --------------------------------------------------------------------------------------------------------------------------


class _Sink(Protocol):
    """One open file: frames in, in order; `close` finishes it; `abort` gives it up, and does nothing after `close`."""

    def write(self, frame: pl.DataFrame) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def _sink_maker(place: _Place, schema: pl.Schema) -> Callable[[Path], _Sink]:
    """How to open one file of this kind. Raises MissingPackage here, before any work."""
    packed: Literal["uncompressed", "gzip", "zstd"] = place.compression
    if place.kind == "arrow":
        return lambda path: _ArrowSink(path, arrow_schema(schema), stream=False)
    if place.kind == "datasets":
        try:
            import datasets
        except ImportError:
            raise MissingPackage.for_extra("write: a datasets directory", "datasets", "datasets") from None
        features = datasets.Features.from_arrow_schema(arrow_schema(schema))
        return lambda path: _ArrowSink(path, features.arrow_schema, stream=True)
    if place.kind == "parquet":
        # Polars would label every text `large_string`, which `datasets` takes over as a type of its own.
        metadata = {"ARROW:schema": base64.b64encode(arrow_schema(schema).serialize().to_pybytes()).decode()}

        # Level 1 takes half the CPU of level 3 for 10 % more bytes, and pages of 4 MB instead of 1 save 7 %. Statistics of long
        # texts serve nobody.
        cheap: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "data_page_size": 4 << 20, "statistics": False}

        def sink(lazy: pl.LazyFrame, file: BinaryIO, rows: int) -> None:
            lazy.sink_parquet(file, row_group_size=rows, metadata=metadata, **cheap)

    elif place.kind == "jsonl":

        def sink(lazy: pl.LazyFrame, file: BinaryIO, rows: int) -> None:
            lazy.sink_ndjson(file, compression=packed, check_extension=False)

    else:

        def sink(lazy: pl.LazyFrame, file: BinaryIO, rows: int) -> None:
            lazy.sink_csv(file, separator="\t" if place.kind == "tsv" else ",", compression=packed, check_extension=False)

    return lambda path: _PolarsSink(path, schema, sink)


class _GaveUp(Exception):
    pass


def frames_source(schema: pl.Schema, pull: Callable[[], pl.DataFrame | None]) -> pl.LazyFrame:
    """The frames that `pull` returns one by one, until None, as a LazyFrame; each is asked for when the engine has room for it.

    The one use of the unstable `register_io_source`. Order is kept; `pull` runs on a thread of the engine, and what it raises
    comes out of the sink as it is.

    >>> feed = iter([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]}), None])
    >>> frames_source(pl.Schema({"a": pl.Int64}), lambda: next(feed)).collect()["a"].to_list()
    [1, 2]
    """

    def source(columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None) -> Iterator[pl.DataFrame]:
        while (frame := pull()) is not None:
            yield frame

    return register_io_source(source, schema=schema, explain_name="PREFMILL")


class _PolarsSink:
    """A Polars `sink_*` on a thread of its own, fed through a queue of one frame, so that making and encoding frames overlap.

    The frames' maker thus stays on the caller's thread, where its exceptions (and Ctrl-C) need no passing on.
    """

    def __init__(self, path: Path, schema: pl.Schema, sink: Callable[[pl.LazyFrame, BinaryIO, int], None]) -> None:
        # Given a path instead, an engine that was stopped early may create the file after `abort`, and so after its removal.
        self._file = path.open("wb")
        self._schema = schema
        self._sink = sink
        self._frames: queue.Queue[pl.DataFrame | None] = queue.Queue(1)
        self._gave_up = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(self, frame: pl.DataFrame) -> None:
        self._put(frame, frame)

    def close(self) -> None:
        self._put(None, pl.DataFrame(schema=self._schema))
        assert self._thread is not None
        self._thread.join()
        self._file.close()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        self._gave_up = True
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # else the thread takes the frame that is there, and then sees the flag
                self._frames.put_nowait(None)
            self._thread.join()
        self._file.close()

    def _put(self, frame: pl.DataFrame | None, sample: pl.DataFrame) -> None:
        if self._thread is None:  # the first frame tells how long the texts are
            rows = min(_GROUP_ROWS, _rows_in(_GROUP_BYTES, sample)) if sample.height else _GROUP_ROWS
            self._thread = threading.Thread(target=self._run, args=(rows,), name="prefmill-sink", daemon=True)
            self._thread.start()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=0.2)
                return
        raise self._error or RuntimeError("the writing thread ended before its frames did")

    def _pull(self) -> pl.DataFrame | None:
        frame = self._frames.get()
        if self._gave_up:
            raise _GaveUp
        return frame

    def _run(self, group_rows: int) -> None:
        try:
            self._sink(frames_source(self._schema, self._pull), self._file, group_rows)
        except BaseException as error:  # raised where the caller sees it
            self._error = error


def _rows_in(size_bytes: int, frame: pl.DataFrame) -> int:
    """How many rows like those of `frame` fill so many bytes, at least 1.

    By the length of 500 of them as JSON: `estimated_size` counts the whole buffers that slices share.
    """
    sample = frame.gather_every(max(1, frame.height // 500)).head(500)
    return max(1, size_bytes * sample.height // max(1, len(sample.write_ndjson())))


class _ArrowSink:
    """An Arrow IPC file, or a stream (which is what `datasets` maps into memory); nothing to encode, so no thread."""

    def __init__(self, path: Path, schema: pa.Schema, *, stream: bool) -> None:
        self._schema = schema
        self._file = path.open("wb")
        self._writer = pa.ipc.new_stream(self._file, schema) if stream else pa.ipc.new_file(self._file, schema)
        self._closed = False

    def write(self, frame: pl.DataFrame) -> None:
        for part in frame.iter_slices(_rows_in(_BATCH_BYTES, frame)):  # far below the 2 GB that a `string` column of one batch holds
            self._writer.write_table(part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema))

    def close(self) -> None:
        self._closed = True
        self._writer.close()
        self._file.close()

    def abort(self) -> None:
        if not self._closed:
            self._file.close()


def _complete_dataset(staging: _Staging, schema: pl.Schema, split: bool) -> None:
    """What `load_from_disk` reads beside the data: features, and a state whose fingerprint (of cached `map`s) is that of the data."""
    import datasets
    import xxhash  # `datasets` depends on it

    features = datasets.Features.from_arrow_schema(arrow_schema(schema))
    for name, path in staging.paths.items():
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
        folder = next(iter(staging.renames))
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(staging.paths)}), encoding="utf-8")
