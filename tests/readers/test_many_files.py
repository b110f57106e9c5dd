"""Many small files: they are read as if they were few, and nothing that is said changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.readers import Source, open_source
from prefmill.readers.packing import MANY

COUNT = MANY + 40


def rows_of(number: int) -> list[dict[str, Any]]:
    """Rows of one file; some files have a column, or a kind of number, that others lack."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"p{number // 2}", "completion": f"c{number}-{k}", "score": (number * 7 + k) % 5}
        for k in range(3)
    ]
    if number % 3 == 0:
        rows[1]["score"] = 2.5
    if number % 5 == 0:
        rows[0]["note"] = None if number % 2 else f"n{number}"
    return rows


def write(folder: Path, kind: str, number: int) -> None:
    """One file of a kind."""
    path, rows = folder / f"{number:05d}.{kind}", rows_of(number)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" * (1 + number % 2) for row in rows))


def table_of(source: Source) -> list[dict[str, Any]]:
    """All rows, in order."""
    rows: list[dict[str, Any]] = []
    for file in source.files:
        rows += pq.read_table(file, partitioning=None).to_pylist()
    return [{name: row.get(name) for name in source.columns.names} for row in rows]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_many_files_are_read_as_a_few(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, kind, number)
    few = open_source([str(folder)], temp_dir=tmp_path / "few")
    each = open_source([str(folder)], temp_dir=tmp_path / "each", apart=True)
    assert len(few.files) == 1
    assert len(each.files) == COUNT
    assert few.inputs == each.inputs
    assert few.columns.equals(each.columns)
    assert few.nulls == each.nulls
    assert table_of(few) == table_of(each)
    places = [few.place_of(at, home=tmp_path / "few") for at in range(few.rows)]
    assert places == [each.place_of(at, home=tmp_path / "each") for at in range(each.rows)]


@pytest.mark.parametrize("ranked_by", ["polars", "duckdb"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_pairs_of_many_files(tmp_path: Path, kind: str, ranked_by: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, kind, number)
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps(r) + "\n" for n in range(COUNT) for r in rows_of(n)))
    pm.run(pm.Pairs(), str(one), tmp_path / "want.jsonl")
    done = pm.run(pm.Pairs(), str(folder), tmp_path / "got.jsonl", engine=ranked_by)
    assert (tmp_path / "got.jsonl").read_text() == (tmp_path / "want.jsonl").read_text()
    assert done.rows_in == 3 * COUNT


@pytest.mark.torture
@pytest.mark.parametrize("ranked_by", ["polars", "duckdb"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_hundred_thousand_files(tmp_path: Path, kind: str, ranked_by: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(100_000):
        write(folder, kind, number)
    for _ in range(2):  # the second time it was done before
        done = pm.run(pm.Pairs(), str(folder), tmp_path / "out.parquet", engine=ranked_by)
        assert done.rows_in == 300_000


def test_a_bad_line_is_told_by_its_own_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, "jsonl", number)
    bad = folder / "00050.jsonl"
    bad.write_text(bad.read_text() + "\n" + '{"prompt": "p"\n')
    line = bad.read_text().count("\n")
    with pytest.raises(BadInput, match=rf"00050\.jsonl: line {line}: not valid JSON"):
        open_source([str(folder)], temp_dir=tmp_path / "t")
    rejects = tmp_path / "rejects.jsonl"
    source = open_source([str(folder)], temp_dir=tmp_path / "u", rejects=rejects)
    (row,) = map(json.loads, rejects.read_text().splitlines())
    assert (row["file"], row["line"]) == (str(bad), line)
    assert source.rejected == 1
    assert dict(source.inputs)[str(bad)] == 3


def test_names_that_differ_in_case_are_told_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, "jsonl", number)
    (folder / "00060.jsonl").write_text('{"Prompt": "p", "completion": "c", "score": 1}\n')
    with pytest.raises(BadInput, match=r"00060\.jsonl: the column 'Prompt' is spelled 'prompt'"):
        open_source([str(folder)], temp_dir=tmp_path / "t")


def test_a_damaged_file_among_many_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, "parquet", number)
    text = pa.array([b"p", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": text}), folder / "00033.parquet")
    with pytest.raises(BadInput, match=r"00033\.parquet: not a readable Parquet file"):
        open_source([str(folder)], temp_dir=tmp_path / "t")


def test_types_that_a_copy_may_change_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        table = pa.table({"prompt": ["p"], "made": pa.array([number], pa.timestamp("ns", "UTC"))})
        pq.write_table(table, folder / f"{number:05d}.parquet")
    source = open_source([str(folder)], temp_dir=tmp_path / "t")
    assert len(source.files) == COUNT


def test_partitions_are_kept(tmp_path: Path) -> None:
    for source in ("a", "b c"):
        folder = tmp_path / "in" / f"source={source}"
        folder.mkdir(parents=True)
        for number in range(COUNT):
            write(folder, "jsonl", number)
    source = open_source([str(tmp_path / "in")], temp_dir=tmp_path / "t")
    assert len(source.files) == 2
    assert source.columns.names[-1] == "source"
    counted = duckdb.sql(f"SELECT source, count(*) FROM {source.relation} GROUP BY 1 ORDER BY 1")
    assert counted.fetchall() == [("a", 3 * COUNT), ("b c", 3 * COUNT)]


@pytest.mark.parametrize("ranked_by", ["polars", "duckdb"])
def test_a_file_whose_values_no_type_of_all_holds_stays_apart(
    tmp_path: Path, ranked_by: Any
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        write(folder, "parquet", number)
        # Whole numbers with a null are floats to pandas.
        user = [2**53 + 1, 2, 3] if number == 70 else [1.0, None, 3.0]
        path = folder / f"{number:05d}.parquet"
        pq.write_table(pq.read_table(path).append_column("user", pa.array(user)), path)
    source = open_source([str(folder)], temp_dir=tmp_path / "few")
    each = open_source([str(folder)], temp_dir=tmp_path / "each", apart=True)
    assert len(source.files) == 3
    assert source.inputs == each.inputs
    rows = [
        duckdb.sql(f"SELECT * FROM {one.relation} ORDER BY {one.position}").fetchall()
        for one in (source, each)
    ]
    assert rows[0] == rows[1]
    plan = pm.Pairs(chosen_min=None, rejected_below=None)
    report = pm.run(plan, str(folder), tmp_path / "o.parquet", engine=ranked_by)
    assert report.rows_in == 3 * COUNT
