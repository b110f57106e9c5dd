"""Plans over Hugging Face `datasets`: whole prompt groups although batches cut them, features declared, fingerprints that hit the cache.

    import prefmill.datasets as pmd

    pairs = pmd.pairs(load_dataset("org/feedback", split="train"), completion="answer", score="rating", min_margin=0.5)

| what comes in             | how it runs                                                                                       |
|---------------------------|---------------------------------------------------------------------------------------------------|
| `Dataset`                 | Polars over its Arrow table as it is (memory-mapped where it is), at once; cached as `map` caches |
| `IterableDataset`         | nothing until it is read; then a temporary Parquet file, ranked out of core by DuckDB             |
| the same, `clustered=True`| as a stream: rows of one prompt stand together, a chunk of whole prompts at a time                |
| a dictionary of splits    | split by split                                                                                    |

There is no rule here: the meaning is in `docs/semantics.md`. There is no `num_proc` either, because a process would see half a prompt:
Polars and DuckDB use all cores of one process. What `map(num_proc=...)` made goes in, and what comes out can go there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill._version import __version__
from prefmill.errors import BadArgument, BadInput, MissingPackage
from prefmill.formats import Format, arrow_schema, convert
from prefmill.plans import (
    Aggregate,
    BestOf,
    Normalize,
    OnInvalid,
    Pairs,
    Pick,
    Plan,
    Scope,
    StagesUsed,
    Strategy,
    TieBreak,
    Unpaired,
    named,
    plan_and_roles,
    roles_of,
)
from prefmill.polars import apply as lazily
from prefmill.polars import report as frame_report
from prefmill.readers.staging import plain_schema
from prefmill.schema import RoleNames, Roles
from prefmill.stream import reader_of, starts_of_groups, whole_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefmill.cards import Reports

_D = TypeVar("_D")

CHUNK_ROWS = 4096
_READ_ROWS, _PEEK_ROWS = 8192, 1000
_BATCH_BYTES = 64 << 20


def pairs(
    ds: _D,
    *,
    chosen_min: float | None = 4,
    rejected_below: float | None = 4,
    strategy: Strategy = "best_worst",
    min_margin: float = 0,
    max_pairs_per_prompt: int | None = None,
    top_k: int | None = None,
    bottom_k: int | None = None,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
) -> _D:
    """Preference pairs of a dataset: the plan `Pairs` and the roles as arguments; the rest is in `apply`.

    | prompt | completion | score |      | prompt | chosen | rejected | chosen_score | rejected_score |
    |   p    |     a      |   5   |  ->  |   p    |   a    |    b     |      5       |       1        |
    |   p    |     b      |   1   |

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p"], "answer": ["a", "b"], "score": [5, 1]})
    >>> pairs(feedback)[0]
    {'prompt': 'p', 'chosen': 'a', 'rejected': 'b', 'chosen_score': 5.0, 'rejected_score': 1.0}
    """
    return _given(Pairs, ds, locals())


def unpaired(
    ds: _D,
    *,
    chosen_min: float | None = 4,
    rejected_below: float | None = 4,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
) -> _D:
    """Labels for KTO: the plan `Unpaired` and the roles as arguments; the rest is in `apply`.

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p"], "answer": ["a", "b"], "score": [5, 1]})
    >>> unpaired(feedback)["label"][:]
    [True, False]
    """
    return _given(Unpaired, ds, locals())


def best_of(
    ds: _D,
    *,
    k: int = 1,
    pick: Pick = "best",
    scope: Scope = "prompt",
    min_score: float | None = None,
    stages: StagesUsed = "all",
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
) -> _D:
    """The k best completions of every prompt: the plan `BestOf` and the roles as arguments; the rest is in `apply`.

    >>> import datasets
    >>> pool = datasets.Dataset.from_dict({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [0.2, 0.9]})
    >>> best_of(pool)[0]
    {'prompt': 'p', 'completion': 'b', 'score': 0.9, 'rank': 1}
    """
    return _given(BestOf, ds, locals())


def _given(kind: type[Pairs] | type[Unpaired] | type[BestOf], ds: _D, given: Mapping[str, Any]) -> _D:
    plan, roles = plan_and_roles(kind, given)
    return apply(
        plan, ds, clustered=given["clustered"], format=given["format"], chat=given["chat"], margin_scale=given.get("margin_scale"), **roles
    )


def apply(
    plan: Plan, ds: _D, *, clustered: bool = False, format: Format | None = None, chat: bool = False, margin_scale: float | None = None,
    chunk_rows: int = CHUNK_ROWS, **roles: Unpack[RoleNames],
) -> _D:  # fmt: skip
    """`plan` over `ds`; what comes back is of the same kind, and its features are known.

    Args:
        ds: a `Dataset`, `IterableDataset`, `DatasetDict` or `IterableDatasetDict`. Select, shuffle, filter, shards: as `ds` gives its rows.
        clustered: of an `IterableDataset`: rows of one prompt stand together. Then it runs as a stream, and a prompt that comes back is
            an error. Plans that look at all rows (`normalize`, `stages="last"`, `scope="pool"`) cannot run so.
        format: the columns (`prefmill.formats.convert`); by default `trl` for pairs, `kto` for labels, and for picks prompt, completion,
            score, rank (and stage, where that role is mapped). As in files, an answer beside a message-list prompt is a message.
        chat, margin_scale: as `prefmill.run` takes them.
        chunk_rows: with `clustered`, so many rows at a time, and more where a prompt has more. Labels are in order inside a chunk.

    Text is `string`, scores `float64`, whatever the input had. A `Dataset` that lies in files keeps the result beside them, under a
    fingerprint made of its own, the plan, the roles and the layout: the same call in another process reads it back.
    An `IterableDataset` runs anew on every pass; of several passes over a large one, keep the first (`to_parquet`).
    """
    datasets = _package()
    _refuse_fork()
    if isinstance(ds, dict):
        more: dict[str, Any] = {"clustered": clustered, "format": format, "chat": chat, "margin_scale": margin_scale, **roles}
        made = {name: apply(plan, split, chunk_rows=chunk_rows, **more) for name, split in ds.items()}
        return type(ds)(made)
    layout = _Layout(plan, format or _FORMATS[plan.kind], chat, margin_scale)
    if isinstance(ds, datasets.IterableDataset):
        return _streamed(ds, layout, roles, clustered, chunk_rows)  # type: ignore[no-any-return]
    if isinstance(ds, datasets.Dataset):
        if clustered:
            raise BadArgument("datasets: clustered is for streams; got a Dataset, which is read as a whole.", hint="leave clustered out.")
        return _whole(ds, layout, roles)  # type: ignore[no-any-return]
    expected = "a Dataset, IterableDataset, DatasetDict or IterableDatasetDict"
    raise BadArgument(f"datasets: cannot run over a {type(ds).__name__}; expected {expected}.", hint="of Polars frames: plan.lazy(frame).")


def report(plan: Plan, ds: Any, **roles: Unpack[RoleNames]) -> Any:
    """What `plan` uses of `ds` and why it drops the rest: a `PairReport`, or of a dictionary of splits one for each. Reads `ds` once.

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 5]})
    >>> dict(report(Pairs(), feedback).dropped)
    {'single_completion': 1}
    """
    datasets = _package()
    _refuse_fork()
    if isinstance(ds, dict):
        return {name: report(plan, split, **roles) for name, split in ds.items()}
    if isinstance(ds, datasets.Dataset):
        found = roles_of(plan, roles, ds.column_names, where="datasets")
        return frame_report(plan, _frame(ds, _used(plan, found)), **named(found))
    if not isinstance(ds, datasets.IterableDataset):
        raise BadArgument(f"datasets: cannot report on a {type(ds).__name__}; expected a Dataset, IterableDataset or a dictionary of them.")
    stream = _Stream.over(ds, _Layout(plan, _FORMATS[plan.kind], False, None), roles, False, CHUNK_ROWS)
    with tempfile.TemporaryDirectory(prefix="prefmill-") as home, stream.job(Path(home)) as job:
        return job.report()


def push_to_hub(
    ds: Any, repo_id: str, *, plan: Plan, report: Reports, source: str | Sequence[str] = (), license: str | None = None,
    title: str = "Preference data", **options: Any,
) -> Any:  # fmt: skip
    """`ds.push_to_hub(repo_id, **options)`, then the card of `plan` and `report` into the README there; what the push returned.

    The README keeps what `datasets` wrote about configurations and features, and words of your own (`prefmill.cards.write_card`).
    """
    from prefmill.cards import card, merged

    _package()
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import EntryNotFoundError

    text = card(plan, report, source=source, license=license, title=title)
    done = ds.push_to_hub(repo_id, **options)
    access = {name: options[name] for name in ("token", "revision") if options.get(name) is not None}
    try:
        there = str(DatasetCard.load(repo_id, repo_type="dataset", ignore_metadata_errors=True, token=options.get("token")))
    except EntryNotFoundError:
        there = ""
    DatasetCard(merged(there, text) if there else text, ignore_metadata_errors=True).push_to_hub(repo_id, repo_type="dataset", **access)
    return done


# -- layout -----------------------------------------------------------------------------------------------------------------------------

_FORMATS: dict[str, Format] = {"pairs": "trl", "unpaired": "kto", "best_of": "pool"}


@dataclass(frozen=True)
class _Layout:
    """A plan and how its rows are laid out; picks take the names that `convert` knows them by."""

    plan: Plan
    format: Format
    chat: bool
    margin_scale: float | None

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self.format == "pool" and isinstance(self.plan, BestOf):
            return rows
        if isinstance(self.plan, BestOf):
            rows = rows.rename({"score": "_score", "rank": "_rank"})
        return convert(rows, format=self.format, chat=self.chat, margin_scale=self.margin_scale)

    def features(self, schema: pa.Schema, roles: Roles) -> Any:
        """The features of what comes out where the columns of `roles` have the types of `schema`."""
        dtypes = pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema
        rows = lazily(self.plan, pl.LazyFrame(schema=dtypes), **named(roles)).collect_schema()
        return _package().Features.from_arrow_schema(arrow_schema(self(pl.DataFrame(schema=rows)).schema))


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingPackage.for_extra("datasets", "datasets", "datasets") from None
    return datasets


def _used(plan: Plan, roles: Roles) -> list[str]:
    """The columns that `plan` reads, each once."""
    scores = list(plan.weights) if plan.weights and not roles.aspect else [roles.score]
    others = [name for role in ("id", "annotator", "aspect", "stage") if (name := getattr(roles, role))]
    return list(dict.fromkeys([roles.prompt, roles.completion, *scores, *others, *roles.group]))


def _tables(rows: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.Table]:
    """`rows` in the Arrow types of `schema`, in slices whose texts a 32-bit offset can reach."""
    step = max(1, rows.height * _BATCH_BYTES // max(rows.estimated_size(), _BATCH_BYTES))
    for part in rows.iter_slices(step):
        yield part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _info(features: Any, of: Any) -> Any:
    """What is known of the data besides its features: description, license and the like stay those of the source."""
    about = {name: getattr(of, name) for name in ("description", "citation", "homepage", "license")}
    return _package().DatasetInfo(features=features, **about)


# -- Dataset ----------------------------------------------------------------------------------------------------------------------------


def _whole(ds: Any, layout: _Layout, names: RoleNames) -> Any:
    datasets = _package()
    plan = layout.plan
    roles = roles_of(plan, names, ds.column_names, where="datasets")
    columns = _used(plan, roles)
    features = layout.features(_plain(ds.features, columns), roles)
    info = _info(features, ds.info)
    fingerprint = _fingerprint(ds, layout, roles)
    path = _cache_file(ds, fingerprint)
    if path is None or not path.exists():
        rows = layout(lazily(plan, _frame(ds, columns), **named(roles)).collect())
        tables = _tables(rows, features.arrow_schema)
        if path is None:
            table = pa.concat_tables([features.arrow_schema.empty_table(), *tables])
            return datasets.Dataset(table, info=info, split=ds.split, fingerprint=fingerprint)
        _write(tables, features, path, fingerprint)
    return datasets.Dataset.from_file(str(path), info=info, split=ds.split)


def _plain(features: Any, columns: Sequence[str]) -> pa.Schema:
    plain = plain_schema(pa.schema([features.arrow_schema.field(name) for name in columns]))
    return pa.schema([(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in plain])


def _frame(ds: Any, columns: list[str]) -> pl.DataFrame:
    """These columns of `ds` as a frame over the same memory; an indices mapping picks rows without touching their texts."""
    table = ds.data.table.select(columns)
    frame = pl.DataFrame(pl.from_arrow(table, rechunk=False)).cast({pl.Null: pl.String})
    if ds._indices is not None:  # the one private name: `ds[:]` would copy all texts
        frame = frame[pl.Series(ds._indices.column(0))]
    return frame


def _fingerprint(ds: Any, layout: _Layout, roles: Roles) -> str:
    """Of the input's fingerprint, the plan's hash, roles and layout; nothing in it depends on the process."""
    from datasets.fingerprint import Hasher

    said = ["prefmill", __version__, ds._fingerprint, layout.plan.kind, layout.plan.hash(), named(roles), layout.format, layout.chat]
    return str(Hasher.hash_bytes(json.dumps([*said, layout.margin_scale], sort_keys=True).encode()))


def _cache_file(ds: Any, fingerprint: str) -> Path | None:
    """Where the result is kept: beside the first file of `ds`; None where `ds` is in memory, or caching is off."""
    datasets = _package()
    if not ds.cache_files or not datasets.is_caching_enabled():
        return None
    return Path(ds.cache_files[0]["filename"]).parent / f"cache-{fingerprint}.arrow"


def _write(tables: Iterable[pa.Table], features: Any, path: Path, fingerprint: str) -> None:
    """An Arrow stream as `datasets` writes its own, there at once or not at all."""
    said = json.dumps({"info": {"features": features.to_dict()}, "fingerprint": fingerprint})
    schema = features.arrow_schema.with_metadata({"huggingface": said})
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for table in tables:
                stream.write_table(table.cast(schema))
        umask = os.umask(0o666)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# -- IterableDataset --------------------------------------------------------------------------------------------------------------------


def _streamed(ds: Any, layout: _Layout, names: RoleNames, clustered: bool, chunk_rows: int) -> Any:
    from datasets.iterable_dataset import ArrowExamplesIterable

    stream = _Stream.over(ds, layout, names, clustered, chunk_rows)
    info = _info(stream.features, ds.info)
    return _package().IterableDataset(ArrowExamplesIterable(stream.tables, {}), info=info, split=ds.split)


@dataclass(frozen=True)
class _Stream:
    """What an `IterableDataset` of ours reads from; it can be pickled, and read any number of times."""

    ds: Any
    layout: _Layout
    roles: Roles
    schema: pa.Schema
    features: Any
    clustered: bool
    chunk_rows: int
    read_rows: int  # at a time

    @classmethod
    def over(cls, ds: Any, layout: _Layout, names: RoleNames, clustered: bool, chunk_rows: int) -> _Stream:
        plan = layout.plan
        if clustered and (wide := _wide(plan)):
            raise BadArgument(
                f"datasets: {wide} looks at all rows; got clustered, which sees one prompt at a time.", hint="leave clustered out."
            )
        if type(chunk_rows) is not int or chunk_rows < 1:
            raise BadArgument(f"datasets: chunk_rows must be a whole number >= 1; got {chunk_rows!r}.")
        # Without features, the first rows say what the types are: here and whenever it is read, as many of them.
        read_rows = _READ_ROWS if ds.features else _PEEK_ROWS
        columns = ds.column_names or reader_of(ds, rows=read_rows).schema.names
        roles = roles_of(plan, names, columns, where="datasets")
        used = _used(plan, roles)
        narrow = ds.select_columns(used)
        features = ds.features or _package().Features.from_arrow_schema(reader_of(narrow, rows=read_rows).schema)
        schema = _plain(features, used)
        return cls(narrow, layout, roles, schema, layout.features(schema, roles), clustered, chunk_rows, read_rows)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Keys and tables, as `ArrowExamplesIterable` wants them."""
        for number, table in enumerate(self.made() if not _forked else self._made_elsewhere()):
            yield str(number), table

    def made(self) -> Iterator[pa.Table]:
        for rows in self._clustered() if self.clustered else self._clustering():
            yield from _tables(self.layout(rows), self.features.arrow_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader_of(self.ds, rows=self.read_rows):
                yield batch if batch.schema.equals(self.schema) else batch.cast(self.schema)
        except pa.ArrowInvalid as error:
            raise BadInput(
                f"datasets: a row does not have the types of the first ones; {error}; expected {self.schema.to_string()!r}.",
                hint="say what the types are: ds.cast(Features(...)), or Features where the dataset is made.",
            ) from None

    def _clustered(self) -> Iterator[pl.DataFrame]:
        key = list(self.roles.group) or [self.roles.prompt]
        seen, first = _Seen(key), 0
        for chunk in whole_groups(self._batches(), prompt=key, rows=self.chunk_rows, largest=None):
            seen.refuse_return(chunk, first)
            frame = pl.DataFrame(pl.from_arrow(chunk))
            yield lazily(self.layout.plan, frame, first=first, **named(self.roles)).collect(engine="in-memory")
            first += chunk.num_rows

    def _clustering(self) -> Iterator[pl.DataFrame]:
        with tempfile.TemporaryDirectory(prefix="prefmill-") as home, self.job(Path(home)) as job:
            names = lazily(self.layout.plan, pl.LazyFrame(schema=job.dtypes), **named(self.roles)).collect_schema().names()
            for frame in job.frames():
                frame.columns = names
                yield frame

    def job(self, home: Path) -> Any:
        """The run over a file of all rows that are read."""
        import pyarrow.parquet as pq

        from prefmill.job import opened

        path = home / "rows.parquet"
        with pq.ParquetWriter(path, self.schema, compression="zstd") as file:
            for batch in self._batches():
                file.write_batch(batch)
        keep = [self.roles.stage] if self.roles.stage and isinstance(self.layout.plan, BestOf) else []
        return opened(self.layout.plan, path, roles=named(self.roles), engine="duckdb", keep=keep, temp_dir=home)

    def _made_elsewhere(self) -> Iterator[pa.Table]:
        """`made` in a fresh process: this one was forked, and Polars' threads did not come along (a DataLoader's workers are such)."""
        import dill

        with tempfile.TemporaryDirectory(prefix="prefmill-") as home:
            payload, failure = Path(home, "stream"), Path(home, "failure")
            payload.write_bytes(dill.dumps(self, recurse=True))
            code = "import sys; sys.path[:] = sys.argv[3:]; from prefmill.datasets import _serve; _serve(*sys.argv[1:3])"
            command = [sys.executable, "-c", code, str(payload), str(failure), *sys.path]
            worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            assert worker.stdout is not None
            try:
                with worker.stdout:
                    for batch in _batches_from(worker.stdout):
                        yield pa.Table.from_batches([batch])
                if worker.wait() != 0:
                    raise BadInput(
                        failure.read_text() if failure.exists() else f"datasets: the reading process ended with {worker.returncode}."
                    )
            finally:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()


def _batches_from(pipe: Any) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.ipc.open_stream(pipe)
    except pa.ArrowInvalid:  # it ended early; why, its exit code and its last words say
        return


def _serve(payload: str, failure: str) -> None:
    """The other end of `_made_elsewhere`: the stream that `payload` holds, as Arrow IPC on stdout."""
    import dill

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print does not belong in there
    try:
        stream: _Stream = dill.loads(Path(payload).read_bytes())
        with out, pa.ipc.new_stream(out, stream.features.arrow_schema) as file:
            for table in stream.made():
                file.write_table(table)
    except Exception as error:
        Path(failure).write_text(str(error))
        raise SystemExit(1) from None


def _wide(plan: Plan) -> str:
    """What of `plan` needs more than one prompt's rows, if anything does."""
    if plan.normalize != "none":
        return f"normalize {plan.normalize!r}"
    if isinstance(plan, BestOf) and plan.scope == "pool":
        return "scope 'pool'"
    if isinstance(plan, BestOf) and plan.stages == "last":
        return "stages 'last'"
    return ""


class _Seen:
    """Which prompts went by, as 64-bit hashes (8 bytes each): they decide nothing but an error, which names what to do."""

    def __init__(self, key: list[str]) -> None:
        self.key = key
        self.old: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.new: list[npt.NDArray[np.uint64]] = []

    def refuse_return(self, chunk: pa.Table, first: int) -> None:
        """Raise for a prompt of `chunk` that had its run of rows before; `first` is the position of the chunk."""
        heads = np.logical_or.reduce([starts_of_groups(chunk[name].combine_chunks()) for name in self.key])
        keys = pl.DataFrame(pl.from_arrow(chunk.select(self.key))).with_row_index("_row").filter(pl.Series(heads)).drop_nulls(self.key)
        hashes = keys.select(self.key).hash_rows().to_numpy()
        again = np.zeros(len(hashes), bool)
        again[np.setdiff1d(np.arange(len(hashes)), np.unique(hashes, return_index=True)[1])] = True
        for known in [self.old, *self.new]:
            if len(known):
                at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                again |= known[at] == hashes
        if again.any():
            row = first + int(keys["_row"][int(np.flatnonzero(again)[0])])
            raise BadInput(
                f"datasets: the prompt of row {row} comes back after other prompts; got clustered, expected its rows side by side.",
                hint="leave clustered out: the rows are then put together first.",
            )
        self.new.append(np.sort(hashes))
        if sum(map(len, self.new)) > len(self.old) // 8 + 65_536:
            self.old, self.new = np.sort(np.concatenate([self.old, *self.new])), []


# -- processes --------------------------------------------------------------------------------------------------------------------------

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _refuse_fork() -> None:
    """Polars in a forked process waits for threads that stayed behind, for ever: an error is better."""
    if _forked:
        raise BadArgument(
            "datasets: this process was forked after Polars had been loaded, and Polars' threads did not come along.",
            hint="call this in the main process, or start workers with the method 'spawn'.",
        )
