"""Objects as inputs are what local copies of them are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3_serving import S3

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, StoreFailed
from prefmill.objects import ObjectReader
from prefmill.readers import remote
from prefmill.readers.find import find_files
from prefmill.readers.remote import find_objects

ROWS = pl.DataFrame(
    {
        "prompt": [f"question {n // 4}" for n in range(80)],
        "completion": [f"answer {n}" for n in range(80)],
        "score": [float(n * 7 % 10) for n in range(80)],
    }
)
TREE = {
    "d/a.parquet": "parquet",
    "d/b.parquet": "parquet",
    "d/README.md": "about",
    "d/_hidden.parquet": "parquet",
    "d/.x/c.parquet": "parquet",
    "d/sub/c.parquet": "parquet",
    "d/sub/deep/d.parquet": "parquet",
    "e/x.csv": "csv",
    "e/y[1].csv": "csv",
    "h/day=1/a.parquet": "parquet",
    "h/day=2/a.parquet": "parquet",
    "h/day=a%2Fb/a.parquet": "parquet",
    "s/train.parquet": "parquet",
    "s/test.parquet": "parquet",
}


def encoded(kind: str, path: Path, rows: pl.DataFrame = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "about":
        path.write_text("# about\n")
    elif kind == "json":
        path.write_text(json.dumps(rows.to_dicts()))
    elif kind == "jsonl":
        rows.write_ndjson(path)
    elif kind == "jsonl.gz":
        rows.write_ndjson(path, compression="gzip")
    elif kind == "arrow":
        rows.write_ipc(path)
    else:
        getattr(rows, f"write_{kind}")(path)


@pytest.fixture
def tree(s3: S3, tmp_path: Path) -> Path:
    """The same files in a folder, and as objects."""
    for name, kind in TREE.items():
        encoded(kind, tmp_path / name)
        s3.put(name, (tmp_path / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        "d/a.parquet",
        "d",
        "d/",
        "d/*.parquet",
        "d/**/*.parquet",
        "d/**",
        "*/[ab].parquet",
        "d/s?b",
        "e/*",
        "e/y[1].csv",
        "h",
        "h/day=*",
        "h/*/*.parquet",
        "s/*.parquet",
    ],
)
def test_the_same_files_are_found(s3: S3, tree: Path, given: str) -> None:
    local = find_files(f"{tree}/{given}")
    away = find_objects(f"{s3.url}/{given}")
    assert local
    cut = [
        (item.path.removeprefix(f"{tree}/"), item.format, item.partition, item.compression)
        for item in local
    ]
    assert [
        (item.path.removeprefix(f"{s3.url}/"), item.format, item.partition, item.compression)
        for item in away
    ] == cut


@pytest.mark.parametrize(
    "given", ["nothing", "d/_*.parquet", "d/*.nothing", "d/c.parquet", "s", "d/README.md"]
)
def test_the_same_is_refused(s3: S3, tree: Path, given: str) -> None:
    with pytest.raises((BadInput, BadArgument)) as local:
        find_files(f"{tree}/{given}")
    with pytest.raises(type(local.value)):
        find_objects(f"{s3.url}/{given}")


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "jsonl", "jsonl.gz", "arrow"])
def test_every_format(s3: S3, tmp_path: Path, kind: str, by: Any) -> None:
    encoded(kind, tmp_path / f"x.{kind}")
    s3.put(f"in/x.{kind}", (tmp_path / f"x.{kind}").read_bytes())
    outs = []
    for number, given in enumerate((f"{tmp_path}/x.{kind}", f"{s3.url}/in/x.{kind}")):
        out = tmp_path / f"{number}.parquet"
        pm.run(pm.Pairs(strategy="all"), given, out, engine=by)
        outs.append(pl.read_parquet(out))
    assert outs[0].height
    assert outs[0].equals(outs[1])


def test_partitions_are_columns(s3: S3, tree: Path, tmp_path: Path) -> None:
    by_day: Any = {"roles": {"group": "day"}, "keep": ["day"]}
    report = pm.run(pm.Pairs(), f"{s3.url}/h", tmp_path / "out.parquet", **by_day)
    local = pm.run(pm.Pairs(), tree / "h", tmp_path / "own.parquet", **by_day)
    assert pl.read_parquet(tmp_path / "out.parquet").equals(
        pl.read_parquet(tmp_path / "own.parquet")
    )
    assert report.pairs_out == local.pairs_out > 0


def test_a_malformed_row_has_its_line_and_its_url(s3: S3, tmp_path: Path) -> None:
    s3.put("x.jsonl", ROWS.write_ndjson().encode() + b"{broken\n")
    with pytest.raises(BadInput, match=rf"{s3.url}/x.jsonl.*81"):
        pm.run(pm.Pairs(), f"{s3.url}/x.jsonl", tmp_path / "out.parquet")
    report = pm.run(
        pm.Pairs(), f"{s3.url}/x.jsonl", tmp_path / "out.parquet", rejects=tmp_path / "bad.jsonl"
    )
    assert report.rows_in == 80
    assert f"{s3.url}/x.jsonl" in (tmp_path / "bad.jsonl").read_text()


def test_large_objects_are_fetched_in_pieces(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PIECE", 300_000)
    data = bytes(n * 13 % 251 for n in range(2_345_678))
    s3.put("x", data)
    remote.fetch(f"{s3.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    s3.put("empty", b"")
    remote.fetch(f"{s3.url}/empty", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""


def test_an_object_is_read_in_one_version(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PIECE", 300_000)
    s3.put("x", b"a" * 1_000_000)
    piece = ObjectReader.piece

    def replaced(self: ObjectReader, start: int, end: int) -> memoryview:
        s3.put("x", b"b" * 1_000_000)
        return piece(self, start, end)

    monkeypatch.setattr(ObjectReader, "piece", replaced)
    with pytest.raises(StoreFailed, match="replaced while it was read"):
        remote.fetch(f"{s3.url}/x", tmp_path / "x")


def test_paths_with_one_slash_are_urls(s3: S3, tree: Path, tmp_path: Path) -> None:
    report = pm.run(pm.Pairs(), Path(f"{s3.url}/d/a.parquet"), tmp_path / "out.parquet")
    assert report.rows_in == 80
