"""Arrow, Parquet, and files whose columns differ."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from reading import MESSAGES, jsonl, put, rows

from prefmill.connection import literal
from prefmill.errors import BadArgument, BadInput


@pytest.mark.parametrize("kind", ["file", "stream", "feather", "lz4"])
def test_ipc(tmp_path, read, kind):
    table = pa.table(
        {
            "prompt": pa.array(["p", "q", "p"]).dictionary_encode(),
            "m": pa.array([MESSAGES, None, []]),
            "score": [1.5, None, 2.0],
            "view": pa.array(["a\0", "b", "c"], pa.string_view()),
        }
    )
    path = tmp_path / f"a.{'feather' if kind == 'feather' else 'arrow'}"
    if kind == "feather":
        pyarrow.feather.write_feather(table.drop_columns(["view"]), path)
        table = table.drop_columns(["view"])
    else:
        options = pa.ipc.IpcWriteOptions(compression="lz4" if kind == "lz4" else None)
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with make(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=2)
    source = read(path)
    assert rows(source) == table.to_pylist()
    assert source.nulls == {"m", "score"}
    assert source.columns.field("prompt").type == pa.string()


def test_ipc_broken(tmp_path, read):
    with pytest.raises(BadInput, match=r"bad\.arrow: not a readable Arrow file"):
        read(put(tmp_path / "bad.arrow", b"ARROW1\0\0 nonsense"))
    with pytest.raises(BadInput, match="empty"):
        read(put(tmp_path / "e.feather", b""))


def test_parquet_in_place(tmp_path, read):
    table = pa.table({"prompt": ["p", "q"], "score": [1, None], "m": [MESSAGES, MESSAGES]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "b.pq")
    source = read(tmp_path / "a.parquet", tmp_path / "b.pq")
    assert source.files == (str(tmp_path / "a.parquet"), str(tmp_path / "b.pq"))
    assert (source.rows, source.file_rows) == (2, (2, 0))
    assert source.nulls == {"score", "m"}  # nothing is known of nested columns
    assert rows(source) == table.to_pylist()


def test_parquet_nulls(tmp_path, read):
    required = pa.schema(
        [
            pa.field("a", pa.int64(), nullable=False),
            pa.field("s", pa.struct([("x", pa.int64())])),
            pa.field("b", pa.int64()),
        ]
    )
    table = pa.table({"a": [1, 2], "s": [{"x": 1}, {"x": None}], "b": [1, 2]}, schema=required)
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=["b"])
    assert read(tmp_path / "a.parquet").nulls == {"s"}
    pq.write_table(table, tmp_path / "b.parquet", write_statistics=False)
    assert read(tmp_path / "b.parquet").nulls == {"s", "b"}
    pq.write_table(pa.table({"b": [3]}), tmp_path / "c.parquet")
    assert read(tmp_path / "a.parquet", tmp_path / "c.parquet").nulls == {"s", "a"}


def test_parquet_broken(tmp_path, read):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    cut = put(tmp_path / "cut.parquet", (tmp_path / "a.parquet").read_bytes()[:-9])
    for path in (cut, put(tmp_path / "no.pq", b""), put(tmp_path / "text.pq", b"a,b\n1,2\n")):
        with pytest.raises(BadInput, match=f"{path.name}: not a readable Parquet file"):
            read(path)


def test_columns_of_choice(tmp_path, read):
    put(tmp_path / "a.csv", "a,b,c\n1,2,3\n")
    put(tmp_path / "a.jsonl", '{"a":"1","b":2,"c":[3]}\n')
    assert rows(read(tmp_path / "a.csv", columns=["c", "zz", "a"])) == [{"a": "1", "c": "3"}]
    assert rows(read(tmp_path / "a.jsonl", columns=["c", "a"])) == [{"a": "1", "c": [3]}]


# --- several files


def test_schema_drift(tmp_path, read):
    def save(name: str, **columns: object) -> Path:
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    ints = save("i.parquet", a=[1], s=["x"], m=[MESSAGES])
    large = save(
        "l.parquet",
        s=pa.array(["y"], pa.large_string()),
        a=[0.5],
        extra=pa.array(["d"]).dictionary_encode(),
    )
    null = save("n.parquet", a=pa.nulls(1), s=["z"])
    staged = put(
        tmp_path / "j.jsonl", jsonl([{"a": 3, "m": [{"role": "u", "content": "c", "name": "n"}]}])
    )
    source = read(ints, large, staged)
    assert source.columns.field("a").type == pa.float64()
    assert source.columns.field("s").type == pa.large_string()
    assert source.columns.field("extra").type == pa.string()
    assert source.columns.field("m").type == pa.list_(
        pa.struct([(n, pa.string()) for n in ("role", "content", "name")])
    )
    assert source.nulls == {"s", "m", "extra"}
    assert (
        read(save("f.parquet", a=pa.array([1.5], pa.float32())), ints).columns.field("a").type
        == pa.float64()
    )
    for other in (
        save("b.parquet", a=[True]),
        save("bin.parquet", a=[b"x"]),
        save("li.parquet", a=[[1]]),
    ):
        with pytest.raises(
            BadInput, match=rf"{other.name}: the column 'a' is .*int64 in .*i\.parquet"
        ):
            read(ints, other)
    with pytest.raises(BadInput, match="'A' is spelled 'a'"):
        read(ints, save("case.parquet", A=[1]))
    with pytest.raises(BadArgument, match="differ only in case"):
        read(save("case2.parquet", A=[1], a=[2]))
    # columns of nulls only go with every type, from Parquet and staged alike
    jnull = put(tmp_path / "n.jsonl", jsonl([{"a": None, "m": None}]))
    for files in ([null, ints, jnull], [jnull, null, ints]):
        source = read(*files)
        assert source.columns.field("a").type == pa.int64()
        assert pa.types.is_list(source.columns.field("m").type)
        assert source.nulls == {"a", "s", "m"}
        names = ", ".join(literal(f) for f in source.files)
        united = duckdb.sql(
            f"SELECT a, m FROM read_parquet([{names}], union_by_name = true) WHERE a IS NOT NULL"
        ).fetchall()
        assert united == [(1, MESSAGES)]
    assert read(null).columns.field("a").type == pa.string()


def test_numbers_beside_text(tmp_path, read):
    """A score that is text in one file and a number in another is text in all, as JSON spells
    it.
    """
    put(tmp_path / "a.csv", "prompt,score\nx,007\ny,\n")
    put(
        tmp_path / "b.jsonl",
        jsonl([{"score": 5, "m": MESSAGES, "prompt": "z"}, {"score": None}, {"score": -1}]),
    )
    put(tmp_path / "c.jsonl", jsonl([{"score": 5.0}, {"score": 0.1}, {"score": 1e15}]))
    pq.write_table(
        pa.table({"n": [1, 2], "score": pa.array([2.0, None], pa.float32())}),
        tmp_path / "d.parquet",
    )
    put(tmp_path / "e.jsonl", jsonl([{"score": None}]))
    expected = {
        "a.csv": ["007", None],
        "b.jsonl": ["5", None, "-1"],
        "c.jsonl": ["5.0", "0.1", "1000000000000000.0"],
        "d.parquet": ["2.0", None],
        "e.jsonl": [None],
    }
    for names in (
        list(expected),
        list(expected)[::-1],
        ["c.jsonl", "d.parquet", "b.jsonl", "a.csv"],
    ):
        source = read(*(tmp_path / name for name in names))
        assert source.columns.field("score").type == pa.string()
        assert [row.get("score") for row in rows(source)] == [
            score for name in names for score in expected[name]
        ]
        assert {"score", "m", "n", "prompt"} == source.nulls
        scans = pl.concat(
            [pl.scan_parquet(file, glob=False) for file in source.files], how="diagonal_relaxed"
        )
        assert scans.select("score").collect().to_series().to_list() == [
            score for name in names for score in expected[name]
        ]
    kept = read(tmp_path / "a.csv", tmp_path / "d.parquet", columns=["score"])
    assert rows(kept)[-2:] == [{"score": "2.0"}, {"score": None}]
    put(tmp_path / "h/k=1/a.csv", "score\n1\n")
    put(tmp_path / "h/k=2/b.jsonl", jsonl([{"score": 2, "k": 7}]))
    hive = read(tmp_path / "h")
    assert hive.hive
    assert all(f"/k={at}/" in file for at, file in enumerate(hive.files, start=1))
    assert [row["score"] for row in rows(hive)] == ["1", "2"]
    with pytest.raises(BadInput, match="'a' is bool, but string"):
        read(put(tmp_path / "t.csv", "a\n1\n"), put(tmp_path / "b2.jsonl", '{"a":true}\n'))
