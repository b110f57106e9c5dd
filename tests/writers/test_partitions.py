"""Folders of hive partitions: names, order, readers, and what is refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, TargetExists
from prefmill.writers import partitions
from prefmill.writers.write import write

SOURCES = ["a/b", None, "é=ü", "x y", "100%", "..", "1", "q'\"", "__x__", "\n"]
NAMES = [
    "source=%0A",
    "source=..",
    "source=1",
    "source=100%25",
    "source=__HIVE_DEFAULT_PARTITION__",
    "source=__x__",
    "source=a%2Fb",
    "source=q%27%22",
    "source=x y",
    "source=é%3Dü",
]


def labels(rows: int, sources: list[str | None] = SOURCES) -> pl.DataFrame:
    numbers = range(rows)
    return pl.DataFrame(
        {
            "prompt": [f"p{n}" for n in numbers],
            "completion": ["é" * (n % 5) for n in numbers],
            "label": [bool(n % 2) for n in numbers],
            "score": [float(n) for n in numbers],
            "source": [sources[n % len(sources)] for n in numbers],
        },
        schema_overrides={"source": pl.String},
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


@pytest.mark.parametrize("room", [1, 300, 1 << 30])
def test_rows_keep_their_order_however_little_fits(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefmill.writers.write.group_bytes_in", lambda *_: room)
    rows = labels(100)
    frames = rows.iter_slices(7)
    written = write(frames, rows.schema, tmp_path / "out", partition_by=["source"])
    assert (written.paths, written.rows) == ({"": str(tmp_path / "out")}, {"": 100})
    assert files_in(tmp_path / "out") == [f"{name}/part-00000.parquet" for name in NAMES]
    for name in files_in(tmp_path / "out"):
        part = pl.read_parquet(tmp_path / "out" / name, hive_partitioning=False)
        (source,) = part["source"].unique().to_list()
        assert part.equals(rows.filter(pl.col("source").eq_missing(source)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_others_read_the_rows_with_their_columns(tmp_path: Path) -> None:
    from datasets import load_dataset

    rows, out = labels(40), tmp_path / "out"
    write([rows], rows.schema, out, partition_by=["source"])
    read = {
        "polars": pl.read_parquet(f"{out}/", hive_partitioning=True),
        "duckdb": duckdb.sql(f"FROM read_parquet('{out}/**/*.parquet')").pl(),
        "datasets": load_dataset(
            "parquet", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache")
        ).to_polars(),
    }
    for name, frame in read.items():
        assert frame.select(rows.columns).sort("score").equals(rows), name


def test_prefmill_reads_what_it_wrote(tmp_path: Path) -> None:
    rows, out = labels(40), tmp_path / "out"
    write([rows], rows.schema, out, partition_by=["source"])
    pm.run(pm.Advantage(), out, tmp_path / "back.parquet")
    back = pl.read_parquet(tmp_path / "back.parquet").sort("score")
    assert back.select(rows.columns).equals(rows)


def test_several_columns_are_folders_in_folders(tmp_path: Path) -> None:
    rows = labels(4, ["a"]).with_columns(
        day=pl.lit(datetime.date(2026, 1, 2)), votes=pl.lit(3, dtype=pl.Int64)
    )
    write([rows], rows.schema, tmp_path / "out", partition_by=["day", "votes", "label"])
    assert files_in(tmp_path / "out") == [
        f"day=2026-01-02/votes=3/label={word}/part-00000.parquet" for word in ("false", "true")
    ]
    assert pl.read_parquet(f"{tmp_path}/out/").sort("score").select(rows.columns).equals(rows)


def test_an_output_without_rows_is_one_file_without_rows(tmp_path: Path) -> None:
    rows = labels(1).clear()
    write([], rows.schema, tmp_path / "out", partition_by=["source"])
    assert files_in(tmp_path / "out") == ["part-00000.parquet"]
    assert pl.read_parquet(f"{tmp_path}/out/").schema == rows.schema


def test_a_folder_is_replaced_whole_and_no_other(tmp_path: Path) -> None:
    rows, out = labels(20), tmp_path / "out"
    write([rows], rows.schema, out, partition_by=["source"])
    with pytest.raises(TargetExists):
        write([rows], rows.schema, out, partition_by=["source"])
    write([rows], rows.schema, out, partition_by=["label"], overwrite=True)
    assert len(files_in(out)) == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BadArgument, match="none of Parquet in partitions"):
        write([rows], rows.schema, out, partition_by=["label"], overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (labels(2), ["sauce"], "no column 'sauce' to partition by"),
        (labels(2), "source", "a list of columns"),
        (labels(2), ["score"], "got 'score' of Float64"),
        (labels(2), ["source", "source"], "names a column twice"),
        (labels(2, [""]), ["source"], "cannot be told from that of nulls"),
        (labels(2, ["__HIVE_DEFAULT_PARTITION__"]), ["source"], "cannot be told from"),
        (labels(2, ["x" * 300]), ["source"], "too long for the name of a folder"),
        (labels(40), ["prompt"], "more than 30 folders"),
    ],
)
def test_what_cannot_be_partitioned_is_refused(
    rows: pl.DataFrame,
    columns: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partitions, "MOST", 30)
    with pytest.raises(BadArgument, match=message):
        write([rows], rows.schema, tmp_path / "out", partition_by=columns)
    assert not list(tmp_path.iterdir())


def test_a_run_has_partitions_and_is_done_once(tmp_path: Path) -> None:
    source, out = tmp_path / "feedback.parquet", tmp_path / "out"
    labels(40).with_columns(prompt=pl.lit("p"), score=pl.col("score") % 5 + 1).write_parquet(source)
    how = {"keep": ["source"], "partition_by": ["label", "source"]}
    report = pm.run(pm.Unpaired(), source, out, **how)
    assert report.output == {"": str(out)}
    assert "nothing was to do" in pm.run(pm.Unpaired(), source, out, **how).notes[-1]
    whole = tmp_path / "whole.parquet"
    pm.run(pm.Unpaired(), source, whole, keep=["source"])
    expected = pl.read_parquet(whole)
    there = pl.read_parquet(f"{out}/").select(expected.columns)
    by = ["completion", "label", "score", "source"]
    assert there.sort(by).equals(expected.sort(by))
    refused = [
        ({"split": {"a": 0.5, "b": 0.5}}, tmp_path / "x", "two ways to part an output"),
        ({"incremental": True}, tmp_path / "x.parquet", "got an incremental run"),
        ({"engine": "ray"}, tmp_path / "x", "got engine 'ray'"),
        ({}, tmp_path / "x.jsonl", "a folder of Parquet"),
        ({}, f"delta:{tmp_path}/x", "partitions are a folder of files"),
    ]
    for more, target, message in refused:
        with pytest.raises(BadArgument, match=message):
            pm.run(pm.Unpaired(), source, target, **how, **more)
