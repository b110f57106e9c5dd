"""Tables of every kind in a folder, and their rows as the format's own library reads them."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Commit, Mode, fingerprint
from prefmill.warehouse.tables import publish

KINDS = ("delta", "iceberg", "lance", "duckdb", "sqlite", "postgres")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", pa.string()),
        ("chosen_score", pa.float64()),
        ("label", pa.bool_()),
        ("votes", pa.int64()),
    ]
)


def catalog_of(folder: Path) -> dict[str, str]:
    """The variables that describe the catalog `lake` in `folder`."""
    return {
        "PYICEBERG_CATALOG__LAKE__TYPE": "sql",
        "PYICEBERG_CATALOG__LAKE__URI": f"sqlite:///{folder}/catalog.db",
        "PYICEBERG_CATALOG__LAKE__WAREHOUSE": f"file://{folder}/warehouse",
        "PYICEBERG_HOME": str(folder),
    }


def address_in(kind: str, folder: Path, table: str = "pairs") -> str:
    """Where a test keeps its table of this kind."""
    texts = {
        "delta": f"delta:{folder}/{table}",
        "lance": f"lance:{folder}/{table}.lance",
        "iceberg": f"iceberg:lake.training.{table}",
        "duckdb": f"duckdb:{folder}/all.duckdb#{table}",
        "sqlite": f"sqlite:{folder}/all.sqlite#{table}",
        # Of the server that the variables of libpq name.
        "postgres": f"postgres:dbname=postgres#{schema_of(folder)}.{table}",
    }
    return texts[kind]


def schema_of(folder: Path) -> str:
    """The schema of Postgres that stands for a folder."""
    return f"of_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def row(key: str, score: float | None = 1.0) -> dict[str, object]:
    """A row whose values follow from its key and score."""
    return {
        "pair_id": key,
        "prompt": [{"role": "user", "content": f"{key}?"}, {"role": "user", "content": "\n'\""}],
        "chosen": f"{key} é\u2028",
        "chosen_score": score,
        "label": None if key.endswith("n") else bool(len(key) % 2),
        "votes": len(key),
    }


def parquet_of(rows: list[dict[str, object]], path: Path) -> Path:
    """The rows as a file."""
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def put(
    kind: str,
    folder: Path,
    keys: str,
    *,
    run: str,
    mode: Mode,
    inputs: str = "inputs",
    score: float = 1.0,
    removed: tuple[str, ...] = (),
) -> bool:
    """Publish a row for each word of `keys`."""
    rows = [row(key, score) for key in keys.split()]
    path = parquet_of(rows, folder / f"rows-{os.getpid()}-{run}.parquet")
    commit = Commit(run, fingerprint(inputs), mode, {"plan": "p"}, removed)
    return publish(path, Address.of(address_in(kind, folder)), commit)


def rows_in(kind: str, folder: Path) -> list[dict[str, object]]:
    """The rows as the format's own library reads them, in the order of their keys."""
    address = Address.of(address_in(kind, folder))
    return sorted(_READERS[kind](address), key=lambda each: each["pair_id"])


def keys_in(kind: str, folder: Path) -> list[str]:
    """The keys in the table, sorted, each as often as it is there."""
    return [each["pair_id"] for each in rows_in(kind, folder)]


def _delta(address):
    from deltalake import DeltaTable

    return DeltaTable(address.place).to_pyarrow_table().to_pylist()


def _iceberg(address):
    from pyiceberg.catalog import load_catalog

    return load_catalog(address.place).load_table(address.name).scan().to_arrow().to_pylist()


def _lance(address):
    import lance

    return lance.dataset(address.place).to_table().to_pylist()


def _duckdb(address):
    import duckdb

    with duckdb.connect(address.place, read_only=True) as con:
        return con.sql(f"FROM {'.'.join(address.name)}").to_arrow_table().to_pylist()


def _sqlite(address):
    with sqlite3.connect(address.place) as con:
        con.row_factory = sqlite3.Row
        rows = [dict(each) for each in con.execute(f'SELECT * FROM "{address.name[0]}"')]
    con.close()
    for each in rows:
        each["prompt"] = json.loads(each["prompt"])
        each["label"] = None if each["label"] is None else bool(each["label"])
    return rows


def _postgres(address):
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(address.place, row_factory=dict_row) as con:
        return con.execute(f'SELECT * FROM "{address.name[0]}"."{address.name[1]}"').fetchall()


_READERS = {
    "delta": _delta,
    "iceberg": _iceberg,
    "lance": _lance,
    "duckdb": _duckdb,
    "sqlite": _sqlite,
    "postgres": _postgres,
}
