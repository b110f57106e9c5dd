"""What a plan, or words alone, make of a `Dataset`: at once, and kept in its cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill._version import __version__
from prefmill.datasets.records import HEAD, Reading, identity, reading_of, schema_of_rows, tell
from prefmill.datasets.tables import (
    Layout,
    dtypes_of,
    frame_of,
    info_of,
    package,
    plain_types,
    record_table,
    tables_of,
    used_table,
)
from prefmill.disk.whole import Staging
from prefmill.engines.frames import report
from prefmill.engines.steps import kept_columns, kept_names
from prefmill.shapes.tables import Reshaping, long_form
from prefmill.shapes.words import Rows
from prefmill.table.fits import fits_table
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames, Roles, named
from prefmill.writers.arrow import arrow_schema


def whole(ds: Any, layout: Layout, names: RoleNames) -> Any:
    """What `layout`'s plan makes of the `Dataset` `ds`: read from its cache, or made at once."""
    reading = reading_of_dataset(ds, layout, names)
    roles, how = reading.roles, reading.how
    layout = reading.of(layout)
    if how is None:
        kept_names(layout.keep, ds.column_names, where="datasets")
        table, there = used_table(ds, reading.columns), ds.column_names
        dtypes = dtypes_of(plain_types(table.schema))
    else:
        table = record_table(ds, reading.columns)
        dtypes = schema_of_rows(how, dtypes_of(table.schema))
        there = dtypes.names()
    kept_columns(layout.plan.program(roles).output, layout.keep, there, (), where="datasets")
    features = layout.features(dtypes, roles)

    def rows() -> pl.DataFrame:
        frame: pl.DataFrame | pl.LazyFrame = frame_of(ds, table)
        if how is not None:
            frame = _told(how, frame)
        return layout(layout.lazily(layout.plan, frame, roles).collect())

    content = _content(ds, layout, roles)
    return _made(ds, features, _hash([*content, *(identity(how) if how else ())]), rows)


def report_of(ds: Any, layout: Layout, names: RoleNames) -> PairReport:
    """What `layout`'s plan uses of the `Dataset` `ds`, and why it drops the rest."""
    reading = reading_of_dataset(ds, layout, names)
    roles = named(reading.roles)
    if reading.how is None:
        frame = frame_of(ds, used_table(ds, reading.columns))
        return report(reading.plan, frame, **roles)
    rowed = reading.how.rows(frame_of(ds, record_table(ds, reading.columns)))
    return replace(report(reading.plan, rowed.frame, **roles), records=rowed.report())


def reading_of_dataset(ds: Any, layout: Layout, names: RoleNames) -> Reading:
    """How the plan of `layout` reads the `Dataset` `ds`."""

    def head(values: bool) -> pl.DataFrame:
        return frame_of(ds, record_table(ds, ds.column_names), HEAD)

    return reading_of(layout, names, ds.column_names, fits_table(ds.data.table), head)


def long_dataset(ds: Any, words: Rows) -> Any:
    """The rows that the records of the `Dataset` `ds` become: read from its cache, or made."""
    table = record_table(ds, ds.column_names)
    how = long_form(frame_of(ds, table, HEAD), words, where="datasets")
    empty = pl.DataFrame(schema=dtypes_of(table.schema))
    schema = how.rows(empty).long().collect_schema()
    features = package().Features.from_arrow_schema(arrow_schema(schema))

    def rows() -> pl.DataFrame:
        rowed = how.rows(frame_of(ds, table))
        tell(rowed.account())
        return rowed.long().collect()

    content = ["prefmill", "rows", __version__, ds._fingerprint, *identity(how)]
    return _made(ds, features, _hash(content), rows)


def _told(how: Reshaping, records: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
    rowed = how.rows(records)
    tell(rowed.account())
    return rowed.frame.lazy()


def _made(ds: Any, features: Any, fingerprint: str, rows: Callable[[], pl.DataFrame]) -> Any:
    """The `Dataset` of `rows()`, which is called where the cache has none."""
    datasets = package()
    info = info_of(features, ds.info)
    path = _cache_file(ds, fingerprint)
    if path is None or not path.exists():
        tables = tables_of(rows(), features.arrow_schema)
        # In memory there is no folder to keep the result in.
        if path is None:
            table = pa.concat_tables([pa.Table.from_batches([], features.arrow_schema), *tables])
            return datasets.Dataset(table, info=info, split=ds.split, fingerprint=fingerprint)
        write_file(tables, features, path, fingerprint)
    return datasets.Dataset.from_file(str(path), info=info, split=ds.split)


def _content(ds: Any, layout: Layout, roles: Roles) -> list[object]:
    """The input's fingerprint, the plan's hash, roles and layout: they decide the result."""
    return [
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


def _hash(content: Sequence[object]) -> str:
    from datasets.fingerprint import Hasher

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
