"""A `Dataset` as a frame over the same memory, and a plan's rows as a `Dataset` in its cache."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill._version import __version__
from prefmill.disk.whole import Staging
from prefmill.engines.frames import apply
from prefmill.engines.steps import kept_columns
from prefmill.errors import MissingPackage
from prefmill.plans.feedback import FeedbackPlan
from prefmill.readers.json_lines import decoded_table
from prefmill.readers.staging import plain_schema
from prefmill.table.context import CARRIED, SYSTEM
from prefmill.table.fits import fits_table
from prefmill.table.json_values import holds, is_marked, without_marks
from prefmill.table.roles import RoleNames, Roles, named
from prefmill.writers.arrow import arrow_schema, arrow_tables
from prefmill.writers.formats import Format
from prefmill.writers.layouts import convert

_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Layout:
    """A plan and how its rows are laid out; picks take the names that `convert` knows them by."""

    plan: FeedbackPlan
    format: Format
    chat: bool
    margin_scale: float | None
    keep: tuple[str, ...] = ()

    @property
    def trainer(self) -> bool:
        """Whether rows are laid out for a trainer, and not as rows of a pool."""
        return self.format != "pool" or self.plan.layout != "pool"

    def columns(self, roles: Roles, there: Sequence[str]) -> list[str]:
        """Those of the columns `there` that are read."""
        context = [name for name in (*SYSTEM, *CARRIED) if name in there and self.trainer]
        read = self.plan.program(roles).read.columns().values()
        return list(dict.fromkeys([*read, *self.keep, *context]))

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if not self.trainer:
            return rows
        if self.plan.layout == "pool":
            rows = rows.rename({"score": "_score", "rank": "_rank"}, strict=False)
            rows = rows.drop("adjusted_score", strict=False)
        return convert(rows, format=self.format, chat=self.chat, margin_scale=self.margin_scale)

    def features(self, schema: pa.Schema, roles: Roles) -> Any:
        """The features of what comes out of columns of the types of `schema`."""
        dtypes = pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema
        rows = self.lazily(self.plan, pl.LazyFrame(schema=dtypes), roles).collect_schema()
        laid_out = arrow_schema(self(pl.DataFrame(schema=rows)).schema)
        return package().Features.from_arrow_schema(laid_out)

    def lazily(
        self, plan: FeedbackPlan, frame: pl.LazyFrame | pl.DataFrame, roles: Roles, first: int = 0
    ) -> pl.LazyFrame:
        """The rows of `plan`, which is this one or settled, over `frame`."""
        columns = named(roles)
        return apply(plan, frame, keep=self.keep, trainer=self.trainer, first=first, **columns)


def package() -> Any:
    """The package `datasets`, or `MissingPackage`."""
    try:
        import datasets
    except ImportError:
        raise MissingPackage.for_extra("datasets", "datasets", "datasets") from None
    return datasets


def tables_of(rows: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.Table]:
    """`rows` in the Arrow types of `schema`, in slices whose texts a 32-bit offset can reach."""
    yield from arrow_tables(rows, schema, _BATCH_BYTES)


def info_of(features: Any, of: Any) -> Any:
    """What is known of the data besides its features: description and license of the source."""
    about = {name: getattr(of, name) for name in ("description", "citation", "homepage", "license")}
    return package().DatasetInfo(features=features, **about)


def whole(ds: Any, layout: Layout, names: RoleNames) -> Any:
    """What `layout`'s plan makes of the `Dataset` `ds`: read from its cache, or made at once."""
    datasets = package()
    plan = layout.plan
    fits = fits_table(ds.data.table)
    roles = plan.roles(names, ds.column_names, where="datasets", fits=fits)
    output = plan.program(roles).output
    kept_columns(output, layout.keep, ds.column_names, (), where="datasets")
    columns = layout.columns(roles, ds.column_names)
    table = used_table(ds, columns)
    features = layout.features(plain_types(table.schema), roles)
    info = info_of(features, ds.info)
    fingerprint = _fingerprint(ds, layout, roles)
    path = _cache_file(ds, fingerprint)
    if path is None or not path.exists():
        rows = layout(layout.lazily(plan, frame_of(ds, table), roles).collect())
        tables = tables_of(rows, features.arrow_schema)
        # In memory there is no folder to keep the result in.
        if path is None:
            table = pa.concat_tables([pa.Table.from_batches([], features.arrow_schema), *tables])
            return datasets.Dataset(table, info=info, split=ds.split, fingerprint=fingerprint)
        write_file(tables, features, path, fingerprint)
    return datasets.Dataset.from_file(str(path), info=info, split=ds.split)


def used_table(ds: Any, columns: list[str]) -> pa.Table:
    """These columns of `ds` as they lie in memory; those of Arrow's type for JSON decoded."""
    table = ds.data.table.select(columns)
    marked = any(holds(field.type, is_marked) for field in table.schema)
    return decoded_table(table, "datasets") if marked else table


def plain_types(schema: pa.Schema) -> pa.Schema:
    """Arrow types without views and dictionaries; a column of nothing but nulls is text."""
    fields = []
    for field in plain_schema(schema):
        text = pa.types.is_null(field.type)
        fields.append((field.name, pa.string() if text else field.type))
    return pa.schema(fields)


def frame_of(ds: Any, table: pa.Table) -> pl.DataFrame:
    """The rows of `ds` in `table`, which has some of its columns.

    An indices mapping picks rows without touching their texts.
    """
    frame = pl.DataFrame(pl.from_arrow(without_marks(table), rechunk=False))
    frame = frame.cast({pl.Null: pl.String})
    if ds._indices is not None:  # the one private name: `ds[:]` would copy all texts
        # In one chunk: from several, Polars gathers by copying the texts.
        frame = frame.rechunk()[pl.Series(ds._indices.column(0))]
    return frame


def _fingerprint(ds: Any, layout: Layout, roles: Roles) -> str:
    """Of the input's fingerprint, the plan's hash, roles and layout, and of nothing else."""
    from datasets.fingerprint import Hasher

    content = [
        "prefmill",
        __version__,
        ds._fingerprint,
        layout.plan.kind,
        layout.plan.hash(),
        named(roles),
        layout.format,
        layout.chat,
        layout.margin_scale,
        layout.keep,
    ]
    return str(Hasher.hash_bytes(json.dumps(content, sort_keys=True).encode()))


def _cache_file(ds: Any, fingerprint: str) -> Path | None:
    """Where the result is kept: next to the first file of `ds`.

    None where `ds` is in memory, or caching is off.
    """
    datasets = package()
    if not ds.cache_files or not datasets.is_caching_enabled():
        return None
    return Path(ds.cache_files[0]["filename"]).parent / f"cache-{fingerprint}.arrow"


def write_file(tables: Iterable[pa.Table], features: Any, path: Path, fingerprint: str) -> None:
    """An Arrow stream as `datasets` writes its own, there at once or not at all."""
    about = json.dumps({"info": {"features": features.to_dict()}, "fingerprint": fingerprint})
    schema = features.arrow_schema.with_metadata({"huggingface": about})
    # Shared: the ranks of a training all map.
    with Staging([path], where="datasets", shared=True) as staging:
        hidden = str(staging.path(path))
        with pa.OSFile(hidden, "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for table in tables:
                stream.write_table(table.replace_schema_metadata(schema.metadata))
        staging.publish(overwrite=True)
