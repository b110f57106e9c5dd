"""Files are found: globs, folders, hive partitions, hostile names, standard input, URLs."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from reading import MESSAGES, ROWS, jsonl, put, rows

from prefmill.connection import literal
from prefmill.errors import BadArgument, BadInput
from prefmill.readers import find, open_source

# --- finding files


def test_globs_folders_and_order(tmp_path, read):
    for name in (
        "d/b.jsonl",
        "d/a.jsonl",
        "d/sub/c.jsonl",
        "d/_x.jsonl",
        "d/.y.jsonl",
        "d/_log/z.jsonl",
        "d/_SUCCESS",
    ):
        put(tmp_path / name, jsonl([{"f": name}]))
    inside = [{"f": f"d/{n}"} for n in ("a.jsonl", "b.jsonl", "sub/c.jsonl")]
    assert rows(read(tmp_path / "d")) == inside
    assert rows(read(tmp_path / "d" / "*.jsonl")) == inside[:2]
    assert rows(read(tmp_path / "d" / "**" / "*.jsonl")) == inside
    assert rows(read(tmp_path / "d" / "*")) == inside
    assert rows(
        read(tmp_path / "d" / "b.jsonl", tmp_path / "d" / "a.jsonl", tmp_path / "d" / "b.jsonl")
    ) == [
        inside[1],
        inside[0],
        inside[1],
    ]


def test_mixed_formats_in_a_folder(tmp_path, read):
    put(tmp_path / "d/1.csv", "a,b\n1,2\n")
    put(tmp_path / "d/2.jsonl", '{"b":"x","c":1}\n')
    pq.write_table(pa.table({"a": ["y"]}), tmp_path / "d/3.parquet")
    source = read(tmp_path / "d")
    assert rows(source) == [{"a": "1", "b": "2"}, {"b": "x", "c": 1}, {"a": "y"}]
    assert source.columns == pa.schema([("a", pa.string()), ("b", pa.string()), ("c", pa.int64())])
    assert source.nulls == {"a", "b", "c"}


def test_not_found(tmp_path, read):
    put(tmp_path / "train.csv", "a\n1\n")
    (tmp_path / "none").mkdir()
    put(tmp_path / "odd/notes.txt", "x")
    with pytest.raises(BadInput, match=r"trian\.csv: no such file") as caught:
        read(tmp_path / "trian.csv")
    assert "train.csv" in caught.value.hint
    with pytest.raises(BadInput, match="no file matches"):
        read(tmp_path / "*.parquet")
    with pytest.raises(BadInput, match="holds no file"):
        read(tmp_path / "none")
    with pytest.raises(BadArgument, match=r"notes\.txt: the ending"):
        read(tmp_path / "odd")
    with pytest.raises(BadArgument, match=r"notes\.txt"):
        read(tmp_path / "odd" / "notes.txt")
    with pytest.raises(BadArgument, match="ending"):
        read(put(tmp_path / "a.parquet.gz", b"x"))
    for wrong in ([], "a.csv", [""], ["a\0b.csv"]):
        with pytest.raises(BadArgument):
            open_source(wrong, temp_dir=tmp_path)


@pytest.mark.parametrize(
    "given", ["ftp://h/x.csv", "hdfs:/h/*.csv", "S3A://b/x.csv", "file:///x.csv"]
)
def test_unknown_schemes_are_refused_by_name(given, read):
    with pytest.raises(BadArgument, match=r"inputs: no store of the scheme '\w+'.*hf://") as caught:
        read(given)
    assert caught.value.hint == (
        "name the path itself, without file://."
        if "file" in given
        else f"a local folder of that name is './{given.partition(':')[0].lower()}:/...'."
    )


def test_a_local_folder_may_be_called_like_a_scheme(tmp_path, read, monkeypatch):
    put(tmp_path / "foo:/x.csv", "a\n1\n")
    monkeypatch.chdir(tmp_path)
    assert rows(read("./foo:/x.csv")) == rows(read("foo:/x.csv")) == [{"a": "1"}]
    assert rows(read("./foo:/*.csv")) == [{"a": "1"}]


def test_hive(tmp_path, read):
    for lang, value in (("en", 1), ("de%20at", 2), ("__HIVE_DEFAULT_PARTITION__", 3)):
        folder = tmp_path / "run=9" / "d" / f"lang={lang}" / "y=2020"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"a": [value]}), folder / "x.parquet")
    put(tmp_path / "run=9/d/lang=fr/y=2021/x.jsonl", '{"a":4}\n')
    source = read(tmp_path / "run=9" / "d")
    assert source.hive
    assert source.columns == pa.schema(
        [("a", pa.int64()), ("lang", pa.string()), ("y", pa.string())]
    )
    assert source.nulls == {"lang"}
    files = ", ".join(literal(f) for f in source.files)
    sql = (
        f"SELECT * FROM read_parquet([{files}], hive_partitioning = true, hive_types_autocast = "
        f"false, union_by_name = true) ORDER BY a"
    )
    assert duckdb.sql(sql).to_arrow_table().to_pylist() == [
        {"a": 1, "lang": "en", "y": "2020"},
        {"a": 2, "lang": "de at", "y": "2020"},
        {"a": 3, "lang": None, "y": "2020"},
        {"a": 4, "lang": "fr", "y": "2021"},
    ]
    assert not read(tmp_path / "run=9" / "d" / "lang=fr" / "y=2021" / "x.jsonl").hive
    put(tmp_path / "run=9/d/x.jsonl", '{"a":4}\n')
    with pytest.raises(BadInput, match="partition columns"):
        read(tmp_path / "run=9" / "d")


HOSTILE = [
    "a'b",
    'a"b',
    "[x]",
    "*",
    "a?b",
    "{a,b}",
    "'; COPY t TO 'x",
    "a b",
    "ü😀",
    "new\nline",
    "#a%20b",
    "a;b",
    "$(x)",
    "-",
    "a=b",
    "~",
    "`",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path, read, name):
    folder = tmp_path / name
    folder.mkdir()
    put(tmp_path / "decoy.jsonl", '{"a":0}\n')
    put(tmp_path / f"{name}.jsonl", '{"a":1}\n')
    put(tmp_path / f"{name}.csv", "a\n1\n")
    put(tmp_path / "x.parquet", b"no parquet")  # what [x] as a pattern would find
    pq.write_table(pa.table({"a": [2]}), folder / f"{name}.parquet")
    for path, expected in (
        (f"{name}.jsonl", 1),
        (f"{name}.csv", "1"),
        (f"{name}/{name}.parquet", 2),
        (name, 2),
    ):
        source = read(tmp_path / path)
        assert rows(source) == [{"a": expected}]
        files = ", ".join(literal(f) for f in source.files)
        assert duckdb.sql(
            f"SELECT a FROM read_parquet([{files}], hive_partitioning = false)"
        ).fetchall() == [(expected,)]
        assert pl.scan_parquet(list(source.files), hive_partitioning=False).select(
            "a"
        ).collect().rows() == [(expected,)]
    with pytest.raises(BadInput) as caught:
        read(put(tmp_path / f"bad{name}.csv", "a,b\n1\n"))
    assert f"bad{name}.csv: line 2" in str(caught.value)


@pytest.mark.skipif(
    os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root reads everything"
)
def test_no_permission(tmp_path, read):
    path = put(tmp_path / "a.csv", "a\n1\n")
    path.chmod(0)
    with pytest.raises(BadInput, match="permission"):
        read(path)


def test_a_name_that_is_near_is_the_hint(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers").mkdir()
    for name in ("feedback.csv", "answers/part1.csv"):
        put(tmp_path / name, "a\n1\n")
    for given, hint in (
        ("feedbck.csv", "did you mean feedback.csv?"),
        ("answers/prt1.csv", "did you mean answers/part1.csv?"),
        ("answer/part1.csv", "did you mean answers/part1.csv?"),
        ("data/feedback.csv", "did you mean feedback.csv?"),
        ("data/part1.csv", "there is no folder data."),
        ("nothing-like-it.json", None),
        (str(tmp_path / "answers" / "nothing.json"), None),
    ):
        with pytest.raises(BadInput, match="no such file") as caught:
            read(given)
        assert caught.value.hint == hint


def test_stdin(monkeypatch, read, tmp_path):
    class Stdin:
        buffer = io.BytesIO(jsonl(ROWS).encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert rows(read("-")) == ROWS
    with pytest.raises(BadInput, match="<stdin>: the file is empty"):
        read("-")
    Stdin.buffer = io.BytesIO(b'{"a":1}\n{"a"\n')
    with pytest.raises(BadInput, match="<stdin>: line 2"):
        read("-")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty(tmp_path, read, name, data):
    with pytest.raises(BadInput, match=rf"{name}.*empty|no rows and no columns.*{name}"):
        read(put(tmp_path / name, data))
    with pytest.raises(BadInput, match="empty"):
        read(put(tmp_path / f"{name}.gz", gzip.compress(b"")))


# --- URLs


@pytest.fixture
def as_url(monkeypatch):
    """Local paths that the module takes for URLs: DuckDB opens both alike."""
    real = find.is_url
    monkeypatch.setattr(find, "is_url", lambda text: text.startswith("/") or real(text))


def test_urls(tmp_path, read, as_url):
    pq.write_table(
        pa.table({"a": [1, None], "m": [MESSAGES, None], "b": ["x", "y"]}), tmp_path / "1.parquet"
    )
    pq.write_table(pa.table({"a": [3], "b": ["z"]}), tmp_path / "2.parquet")
    source = read(tmp_path / "*.parquet")
    assert source.files == (str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet"))
    assert (source.rows, source.file_rows, source.remote, source.nulls) == (
        3,
        (2, 1),
        True,
        {"a", "m"},
    )
    with pytest.raises(BadInput):
        read(tmp_path / "none.parquet")
    with pytest.raises(BadArgument, match="local file"):
        read(put(tmp_path / "a.csv", "a\n1\n"), rejects=tmp_path / "r")


def test_text_behind_urls(tmp_path, read, as_url):
    put(tmp_path / "a.csv", 'a,b\n,""\n"x ""y""\nz",007\n')
    put(tmp_path / "a.jsonl", jsonl([*ROWS, {"score": 0.5, "m": MESSAGES}]))
    put(tmp_path / "a.json", json.dumps(ROWS, indent=1))
    put(tmp_path / "bad.jsonl", '{"a":1}\n{"a"\n')
    put(tmp_path / "bad.csv", "a,b\n1,2\n3\n")

    def content(name: str) -> list[dict]:
        source = read(tmp_path / name)
        return pq.read_table(source.files[0], partitioning=None).to_pylist()

    assert content("a.csv") == [{"a": None, "b": ""}, {"a": 'x "y"\nz', "b": "007"}]
    assert content("a.jsonl") == [{**row, "m": None} for row in ROWS] + [
        {"prompt": None, "completion": None, "score": 0.5, "m": MESSAGES}
    ]
    assert content("a.json") == ROWS
    for name in ("bad.jsonl", "bad.csv"):
        with pytest.raises(BadInput, match=name):
            read(tmp_path / name)
