"""Readers: every format, encoding and malformed row, with whole tables compared."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from prefmill.connection import literal
from prefmill.errors import BadArgument, BadInput
from prefmill.readers import Source, find, open_source, staging, utf8
from prefmill.table.json_values import JSON_TYPE, decoded

ROWS = [
    {"prompt": "p1", "completion": "a", "score": 1},
    {"prompt": "p1", "completion": "b\nc", "score": 2},
]
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


@pytest.fixture
def read(tmp_path):
    """`open_source` with a temporary folder."""

    def run(*inputs: object, **more: object) -> Source:
        return open_source([str(i) for i in inputs], temp_dir=tmp_path / "stage", **more)  # type: ignore[arg-type]

    return run


def rows(source: Source) -> list[dict]:
    found = []
    for file, count in zip(source.files, source.file_rows, strict=True):
        table = pq.read_table(file, partitioning=None)
        assert table.num_rows == count
        found += decoded(table.to_pylist())
    assert len(found) == source.rows
    return found


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(items: list) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def csv_text(items: list[list], **options) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows(items)
    return out.getvalue()


def rejected(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


# --- formats
# --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.JSONL", "a.jsonl.gz", "a.json.zst", "a.ndjson.zst"]
)
def test_json_forms(tmp_path, read, name):
    data = (
        json.dumps(ROWS, indent=2)
        if ".json" in name and "jsonl" not in name.lower()
        else jsonl(ROWS)
    ).encode()
    data = (
        gzip.compress(data)
        if name.endswith(".gz")
        else zstandard.compress(data)
        if name.endswith(".zst")
        else data
    )
    source = read(put(tmp_path / name, data))
    assert rows(source) == ROWS
    assert source.columns == pa.schema(
        [("prompt", pa.string()), ("completion", pa.string()), ("score", pa.int64())]
    )
    assert (source.nulls, source.rejected, source.remote, source.hive) == (
        frozenset(),
        0,
        False,
        False,
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.zst"])
def test_csv_forms(tmp_path, read, name):
    table = [
        ["prompt", "completion", "score"],
        ["p", 'say "x",\ty', "007"],
        ["p", "a\nb\r\nc\rd", "2020-01-01"],
    ]
    data = csv_text(table, delimiter="\t" if "tsv" in name else ",").encode()
    data = (
        gzip.compress(data)
        if name.endswith(".gz")
        else zstandard.compress(data)
        if name.endswith(".zst")
        else data
    )
    source = read(put(tmp_path / name, data))
    assert rows(source) == [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    assert source.columns == pa.schema([(n, pa.string()) for n in table[0]])


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


# --- finding files
# --------------------------------------------------------------------------------------------------------------------


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
    sql = f"SELECT * FROM read_parquet([{files}], hive_partitioning = true, hive_types_autocast = false, union_by_name = true) ORDER BY a"
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


# --- CSV
# ------------------------------------------------------------------------------------------------------------------------------


def test_csv_nulls_and_quotes(tmp_path, read):
    data = 'a,b,c\n,"",x\n"",,""""\n\n\r\n" y ", "z",5" and "6"\n"a,""b""",NULL,na'
    source = read(put(tmp_path / "a.csv", data))
    assert rows(source) == [
        {"a": None, "b": "", "c": "x"},
        {"a": "", "b": None, "c": '"'},
        {"a": " y ", "b": ' "z"', "c": '5" and "6"'},
        {"a": 'a,"b"', "b": "NULL", "c": "na"},
    ]
    assert source.nulls == {"a", "b"}


def test_csv_bytes_survive(tmp_path, read):
    nasty = [
        "a\0b",
        "\u2028\u2029",
        "😀",
        "x\ry",
        "\x85\x9f",
        "\ufeff mid",
        "\x1f\x7f",
        "\r\n\r",
        "\N{COMBINING ACUTE ACCENT}e",
        "a\\nb",
    ]
    data = "\ufefft,n\r\n" + "".join(f'"{text}",{i}\r\n' for i, text in enumerate(nasty))
    assert rows(read(put(tmp_path / "a.csv", data))) == [
        {"t": text, "n": str(i)} for i, text in enumerate(nasty)
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_line_ends(tmp_path, read, end):
    path = put(tmp_path / "a.csv", end.join(["a,b", "1,2", '3,"4' + end + '5"', "6,7", "8"]))
    with pytest.raises(BadInput, match="line 6: 1 field where the header has 2"):
        read(path)
    expected = [{"a": "1", "b": "2"}, {"a": "3", "b": f"4{end}5"}, {"a": "6", "b": "7"}]
    assert rows(read(path, rejects=tmp_path / "r")) == expected


def test_csv_delimiters(tmp_path, read):
    for data, shown in (("a;b\n1;2\n", '";"'), ("a|b\n", '"|"'), ("a\tb\n", r'"\t"')):
        with pytest.raises(BadInput) as caught:
            read(put(tmp_path / "a.csv", data))
        assert caught.value.hint == f"try --delimiter {shown}"
    assert rows(read(put(tmp_path / "a.csv", "a;b\n1;2,3\n"), delimiter=";")) == [
        {"a": "1", "b": "2,3"}
    ]
    assert rows(read(put(tmp_path / "a.csv", "a\tb\n1\t2\n"), delimiter="\\t")) == [
        {"a": "1", "b": "2"}
    ]
    for wrong in ("", ";;", '"', "\n", "é"):
        with pytest.raises(BadArgument, match="delimiter"):
            read(tmp_path / "a.csv", delimiter=wrong)


def test_csv_headers(tmp_path, read):
    assert rows(read(put(tmp_path / "a.csv", '\n,"x ""y""\n",prompt\n0,1,2\n'))) == [
        {"column_1": "0", 'x "y"\n': "1", "prompt": "2"}
    ]
    for header, words in (("a,b,a", "duplicate"), ("a,A", "differ only in case")):
        with pytest.raises(BadArgument, match=words):
            read(put(tmp_path / "a.csv", header + "\n1,2,3\n"))
    with pytest.raises(BadInput, match="NUL"):
        read(put(tmp_path / "a.csv", "abc\0,bcdef\n1,2\n"))
    with pytest.raises(BadInput, match="line 1: the quote opened in line 1 never closes"):
        read(put(tmp_path / "a.csv", '"a,b\n1,2\n'))


@pytest.mark.parametrize("data", ["a,b", "a,b\n", "a,b\r\n\r\n", "\ufeffa,b\n"])
def test_csv_only_header(tmp_path, read, data):
    source = read(put(tmp_path / "a.csv", data))
    assert (source.rows, source.file_rows, source.nulls, source.columns.names) == (
        0,
        (0,),
        frozenset(),
        ["a", "b"],
    )
    assert rows(source) == []


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty(tmp_path, read, name, data):
    with pytest.raises(BadInput, match=rf"{name}.*empty|no rows and no columns.*{name}"):
        read(put(tmp_path / name, data))
    with pytest.raises(BadInput, match="empty"):
        read(put(tmp_path / f"{name}.gz", gzip.compress(b"")))


RAGGED = 'a,b\n1,2\n"x\ny",3\nfew\n4,5\n"m\nn",many,"q\nr"\n\n6,"7\n8"\nlast,one,"too\nlong"\n9,10'


def test_csv_ragged(tmp_path, read):
    path = put(tmp_path / "a.csv", RAGGED)
    with pytest.raises(
        BadInput, match=r"a\.csv: line 5: 1 field where the header has 2\."
    ) as caught:
        read(path)
    assert "--rejects" in caught.value.hint
    source = read(path, rejects=tmp_path / "r.jsonl")
    assert rows(source) == [
        {"a": a, "b": b}
        for a, b in (("1", "2"), ("x\ny", "3"), ("4", "5"), ("6", "7\n8"), ("9", "10"))
    ]
    assert source.rejected == 3
    assert rejected(tmp_path / "r.jsonl") == [
        {"file": str(path), "line": 5, "reason": "1 field where the header has 2", "raw": "few"},
        {
            "file": str(path),
            "line": 7,
            "reason": "3 fields where the header has 2",
            "raw": '"m\nn",many,"q\nr"',
        },
        {
            "file": str(path),
            "line": 13,
            "reason": "3 fields where the header has 2",
            "raw": 'last,one,"too\nlong"',
        },
    ]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n7,8\n', 3, "the quote opened in line 3 never closes"),
        (
            'a,b\n1,2\n3,"4\n5,"6"\n7,8\n',
            3,
            "the quote opened in line 3 has text behind its closing quote",
        ),
        (
            'a,b\n1,2\n"3"x,4\n5,6\n',
            3,
            "the quote opened in line 3 has text behind its closing quote",
        ),
        ('a,b\n1,2\n"x\ny","4\n5,6\n', 3, "the quote opened in line 4 never closes"),
        ('a,b\n1,2\n3,"', 3, "the quote opened in line 3 never closes"),
    ],
)
def test_csv_lone_quote(tmp_path, read, data, line, reason):
    path = put(tmp_path / "a.csv", data)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert caught.value.message == f"{path}: line {line}: {reason}."
    source = read(path, rejects=tmp_path / "r")
    first = rejected(tmp_path / "r")[0]
    assert first == {
        "file": str(path),
        "line": line,
        "reason": reason,
        "raw": data.split("\n")[line - 1],
    }
    assert rows(source)[0] == {"a": "1", "b": "2"}
    if "5,6" in data:
        assert {"a": "5", "b": "6"} in rows(source)


def slow_csv(data: str, delimiter: str = ",") -> tuple[list[list[str | None]], list[int]]:
    """What the reader must give, one character at a time: records, and the lines of the malformed
    ones.
    """
    good: list[list[str | None]] = []
    bad: list[int] = []
    at, line, width = 0, 1, None
    while at < len(data):
        start, start_line, fields, fault = at, line, [], False
        while True:
            if data[at : at + 1] == '"':
                end, text = at + 1, ""
                while end < len(data) and (data[end] != '"' or data[end + 1 : end + 2] == '"'):
                    text += data[end]
                    end += 2 if data[end] == '"' else 1
                fault = end >= len(data) or (
                    end + 1 < len(data) and data[end + 1] not in f"{delimiter}\r\n"
                )
                if fault:
                    break
                fields.append(text)
                at = end + 1
            else:
                end = at
                while end < len(data) and data[end] not in f"{delimiter}\r\n":
                    end += 1
                fields.append(data[at:end] or None)
                at = end
            if data[at : at + 1] != delimiter:
                break
            at += 1
        if fault:
            bad.append(start_line)
            end = data.find("\n", start)
            at = len(data) if end < 0 else end + 1
            line += 1
            continue
        at += 2 if data[at : at + 2] == "\r\n" else 1
        line += data.count("\n", start, at)
        if data[start:at].strip("\r\n") == "":
            continue
        width = width or len(fields)
        good.append(fields) if len(fields) == width else bad.append(start_line)
    return good, bad


@pytest.mark.parametrize("seed", range(100))
def test_csv_agrees_with_a_slow_reader(tmp_path, read, seed, monkeypatch):
    chance = random.Random(seed)
    tokens = [
        "a",
        "b c",
        ",",
        ",",
        "\n",
        "\n",
        "\r\n",
        '"',
        '""',
        'x"y',
        '"q,r"',
        '"s\nt"',
        '"u""v"',
        "é😀",
        '"",',
        "\0",
    ]
    data = "h,i\n" + "".join(chance.choices(tokens, k=chance.randrange(1, 60)))
    if seed % 3:
        data += chance.choice(["\n", ""])
    whole = utf8.utf8_blocks  # blocks of some bytes: records straddle them
    monkeypatch.setattr(
        utf8,
        "utf8_blocks",
        lambda *a, **k: whole(*a, **{**k, "size": chance.choice([1, 3, 7, 1000])}),
    )
    source = read(put(tmp_path / "a.csv", data), rejects=tmp_path / "r")
    good, bad = slow_csv(data)
    assert [list(row.values()) for row in rows(source)] == good[1:]
    assert [item["line"] for item in rejected(tmp_path / "r")] == bad
    assert source.rejected == len(bad)


# --- JSON
# -----------------------------------------------------------------------------------------------------------------------------


def test_json_types(tmp_path, read):
    data = [
        '{"n": 1, "mix": 1, "z": null, "t": "2020-01-01", "m": [], "e": {}, "o": {"x": 1}, "big": 5, "deep": [{"k": [1]}], "l": [1, "a"]}',
        '{"mix": "x", "n": 2.5, "late": true, "m": [{"role": "user", "content": "hi"}], "o": {"y": "b"}, "big": 9223372036854775808}',
        '{"mix": [1, {"a": "ä"}], "m": [{"content": "yo", "role": "assistant"}, {"role": "x"}], "o": {}, "deep": [{"k": [2.5]}, {}]}',
        '{"mix": true, "n": null, "t": "12:30", "o": null, "big": -3, "l": [true, null, {"q": 1}]}',
    ]
    source = read(put(tmp_path / "a.jsonl", "\n".join(data)))
    message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    expected = {
        "n": pa.float64(),
        "mix": JSON_TYPE,
        "z": pa.string(),
        "t": pa.string(),
        "m": message,
        "e": JSON_TYPE,
        "o": JSON_TYPE,
        "big": pa.decimal128(38, 0),
        "deep": JSON_TYPE,
        "l": JSON_TYPE,
        "late": pa.bool_(),
    }
    assert source.columns == pa.schema(list(expected.items()))
    found = rows(source)
    assert [row["n"] for row in found] == [1.0, 2.5, None, None]
    assert [row["mix"] for row in found] == [1, "x", [1, {"a": "ä"}], True]
    assert [row["m"] for row in found] == [
        [],
        [{"role": "user", "content": "hi"}],
        [{"role": "assistant", "content": "yo"}, {"role": "x", "content": None}],
        None,
    ]
    assert [row["o"] for row in found] == [{"x": 1}, {"y": "b"}, {}, None]
    assert [row["big"] for row in found] == [5, 9223372036854775808, None, -3]
    assert [row["deep"] for row in found] == [[{"k": [1]}], None, [{"k": [2.5]}, {}], None]
    assert [row["l"] for row in found] == [[1, "a"], None, None, [True, None, {"q": 1}]]
    assert [row["e"] for row in found] == [{}, None, None, None]
    assert source.nulls == set(expected) - {"mix"}


def test_json_type_of_a_late_row(tmp_path, read):
    items = [{"a": 1}] * 5000 + [{"a": 0.5}] + [{"a": 1, "b": "x"}]
    source = read(put(tmp_path / "a.jsonl", jsonl(items)))
    assert source.columns == pa.schema([("a", pa.float64()), ("b", pa.string())])
    assert [row["a"] for row in rows(source)] == [1.0] * 5000 + [0.5, 1.0]


@pytest.mark.parametrize(
    "number",
    ["9223372036854775807", "-9223372036854775808", "1000000000000000000", "12345678901234567"],
)
def test_json_integers_that_fit(tmp_path, read, number):
    assert rows(read(put(tmp_path / "a.jsonl", f'{{"a":{number}}}\n'))) == [{"a": int(number)}]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("9223372036854775808", pa.uint64()),
        ("18446744073709551615", pa.uint64()),
        ("18446744073709551616", pa.decimal128(38, 0)),
        ("-9223372036854775809", pa.decimal128(38, 0)),
        ("9" * 38, pa.decimal128(38, 0)),
        ("1" * 4000, JSON_TYPE),
    ],
)
def test_json_integers_that_int64_does_not_hold(tmp_path, read, number, kind):
    source = read(put(tmp_path / "a.jsonl", f'{{"x":"{"9" * 30}", "a" : {number} }}\n{{"a":1}}\n'))
    assert source.columns.field("a").type == kind
    assert [row["a"] for row in rows(source)] == [int(number), 1]


@pytest.mark.parametrize("number", ["1e999", "1E5"])
def test_json_numbers_that_are_double(tmp_path, read, number):
    source = read(put(tmp_path / "a.jsonl", f'{{"x":"{"9" * 30}", "a" : {number} }}\n{{"a":1}}\n'))
    assert source.columns.field("a").type == pa.float64()
    assert [row["a"] for row in rows(source)] == [float(number), 1.0]


def test_json_bytes_survive(tmp_path, read):
    texts = [
        "a\0b",
        "\u2028\u2029",
        "😀",
        "x\ry\n",
        "\x85\x9f",
        "\ufeff",
        "\x01\x1f\x7f",
        '"\\/',
        "nan, inf, NaN]",
        "[1,]",
        "{}",
        "a:{},",
        "{}{}",
    ]
    for ascii_only in (True, False):
        data = "".join(
            json.dumps({"t": t, "m": [{"c": t}]}, ensure_ascii=ascii_only) + "\n" for t in texts
        )
        assert rows(read(put(tmp_path / "a.jsonl", data))) == [
            {"t": t, "m": [{"c": t}]} for t in texts
        ]
        array = json.dumps([{"t": t, "m": [{"c": t}]} for t in texts], ensure_ascii=ascii_only)
        assert rows(read(put(tmp_path / "a.json", array))) == [
            {"t": t, "m": [{"c": t}]} for t in texts
        ]


def test_json_keys(tmp_path, read):
    assert rows(read(put(tmp_path / "a.jsonl", '{"a b":1,"é\'\\"":2,"x":3}\n{"x":4,"a b":5}'))) == [
        {"a b": 1, "é'\"": 2, "x": 3},
        {"a b": 5, "é'\"": None, "x": 4},
    ]
    assert rows(read(put(tmp_path / "a.jsonl", '{"a":1,"a":2}\n'))) == [
        {"a": 1}
    ]  # the first counts
    assert rows(read(put(tmp_path / "a.jsonl", '{"o":{"k":1,"K":2}}\n'))) == [
        {"o": {"k": 1, "K": 2}}
    ]
    assert rows(read(put(tmp_path / "a.jsonl", '{}\n{"a":1}\n'))) == [{"a": None}, {"a": 1}]
    # an empty object is not a null, and has no keys
    assert rows(read(put(tmp_path / "a.jsonl", '{"a":1}\n{"a":{}}\n'))) == [{"a": 1}, {"a": {}}]
    assert rows(read(put(tmp_path / "a.jsonl", '{"a":[{},{},{}]}\n{"a":[{"x":1}]}\n'))) == [
        {"a": [{}, {}, {}]},
        {"a": [{"x": 1}]},
    ]
    with pytest.raises(BadArgument, match="differ only in case"):
        read(put(tmp_path / "a.jsonl", '{"a":1}\n{"A":2}\n'))
    with pytest.raises(BadInput, match="empty key"):
        read(put(tmp_path / "a.jsonl", '{"":1}\n'))
    with pytest.raises(BadInput, match="NUL"):
        read(put(tmp_path / "a.jsonl", '{"a\\u0000":1}\n'))
    many = {f"k{i}": i for i in range(1001)}
    assert rows(read(put(tmp_path / "a.jsonl", jsonl([{"o": many}])))) == [{"o": many}]


BAD_LINES = [
    ("null", "null where an object is expected"),
    ("[1]", "an array where an object is expected"),
    ('"x"', "a string where"),
    ("1", "a number where"),
    ('{"a":1', "not valid JSON"),
    ('{"a":NaN}', "NaN"),
    ('{"a":[1, -Infinity]}', "Infinity"),
    ('{"a":inf}', "not valid JSON"),
    ('{"a":1,}', "not valid JSON"),
    ('{"a":[1 , ]}', "not valid JSON"),
    ('{"a":01}', "not valid JSON"),
    ('{"a":"\\ud800"}', "surrogate"),
    ('{"a":"x\ty"}', "control character"),
    ("{'a':1}", "not valid JSON"),
    ('{"a":1} {"a":2}', "Extra data"),
    ('{"a":1}\0', "not valid JSON"),
    ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested"),
    ('{"a":' + "[" * 9000 + "]" * 9000 + "}", "nested"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_json_malformed(tmp_path, read, line, reason):
    path = put(tmp_path / "a.jsonl", f'{{"a":1}}\n\n  \r\n{{"a":2}}\n{line}\n{{"a":3}}\r\n')
    with pytest.raises(BadInput, match=r"a\.jsonl: line 5: ") as caught:
        read(path)
    assert reason in str(caught.value)
    source = read(path, rejects=tmp_path / "r")
    assert rows(source) == [{"a": 1}, {"a": 2}, {"a": 3}]
    (only,) = rejected(tmp_path / "r")
    assert (only["file"], only["line"], only["raw"]) == (str(path), 5, line)
    assert reason in only["reason"]
    array = put(tmp_path / "a.json", f'[{{"a":1}},\n{line}\n,{{"a":3}}]')
    if line.count("{") == line.count("}"):
        assert rows(read(array, rejects=tmp_path / "r")) == [{"a": 1}, {"a": 3}]
        (only,) = rejected(tmp_path / "r")
        assert (only["line"], only["raw"]) == (2, line)


def test_json_half_last_line(tmp_path, read):
    path = put(tmp_path / "a.jsonl", '{"a":1}\n{"a":2')
    with pytest.raises(BadInput, match="line 2: not valid JSON"):
        read(path)
    assert rows(read(path, rejects=tmp_path / "r")) == [{"a": 1}]
    assert rows(read(put(tmp_path / "b.jsonl", '{"a":1}\n{"a":2}'))) == [{"a": 1}, {"a": 2}]


def test_json_documents(tmp_path, read):
    assert rows(read(put(tmp_path / "a.json", jsonl(ROWS)))) == ROWS
    assert rows(read(put(tmp_path / "a.json", json.dumps(ROWS[0], indent=1)))) == ROWS[:1]
    assert (
        rows(read(put(tmp_path / "a.json", "\n".join(json.dumps(r, indent=1) for r in ROWS))))
        == ROWS
    )
    assert rows(read(put(tmp_path / "a.json", '\n [\n{"a":"],[\\\\\\"{"}\n]\n'))) == [
        {"a": '],[\\"{'}
    ]
    assert rows(read(put(tmp_path / "a.json", "[]"), put(tmp_path / "b.json", '[{"a":1}]'))) == [
        {"a": 1}
    ]
    with pytest.raises(BadInput, match="no rows and no columns"):
        read(tmp_path / "a.json", put(tmp_path / "b.json", "[ ]\n"))
    with pytest.raises(BadInput, match=r"goes into a \.json file"):
        read(put(tmp_path / "a.jsonl", '[{"a":1}]'))


@pytest.mark.parametrize(
    ("data", "line", "reason", "fatal"),
    [
        ('[{"a":1},\n{"a":2}', 2, "the file ends inside the array", False),
        ('[{"a":1},\n\n{"a":2}]\n\nx', 5, "text behind the end", True),
        ('[{"a":1},\n{"a":2}},{"a":3}]', 2, "ends the array", True),
        ('[{"a":1},\n,{"a":2}]', 2, "nothing between two commas", False),
        ('[{"a":1},\n\n{"a":2},\n]', 4, "nothing between two commas", False),
        ('{\n"a":1}\n{"a":\n2', 3, "the file ends inside the object", False),
    ],
)
def test_json_array_malformed(tmp_path, read, data, line, reason, fatal):
    path = put(tmp_path / "a.json", data)
    with pytest.raises(BadInput, match=f"line {line}: .*{reason}"):
        read(path)
    if fatal:
        with pytest.raises(BadInput, match=f"line {line}: .*{reason}"):
            read(path, rejects=tmp_path / "r")
        assert not (tmp_path / "r").exists()
    else:
        assert rows(read(path, rejects=tmp_path / "r"))[0] == {"a": 1}


@pytest.mark.parametrize("seed", range(25))
def test_json_blocks_agree_with_json_loads(tmp_path, read, seed, monkeypatch):
    chance = random.Random(seed)
    texts = ["a", '"', "\\", "\\\\", '\\"', "],[", "{", "}", "é😀", "\n", "\0", ",", "[1,]", "NaN,"]
    items = [
        {
            "t": "".join(chance.choices(texts, k=5)),
            "m": [{"x": chance.choice(texts)}] * chance.randrange(3),
        }
        for _ in range(30)
    ]
    size = chance.choice([1, 64, 300, 2000] if seed < 4 else [64, 300, 2000])
    whole = utf8.utf8_blocks
    monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": size}))
    expected = [{"t": item["t"], "m": item["m"]} for item in items]
    indent = chance.choice([None, 1])
    assert (
        rows(
            read(
                put(
                    tmp_path / "a.json",
                    json.dumps(items, indent=indent, ensure_ascii=chance.random() < 0.5),
                )
            )
        )
        == expected
    )
    assert (
        rows(read(put(tmp_path / "b.json", "\n".join(json.dumps(i, indent=indent) for i in items))))
        == expected
    )
    lines = jsonl(items).split("\n")[:-1]
    bad = sorted(chance.sample(range(30), 4))
    for at in bad:
        lines[at] = chance.choice(["{", "null", '{"t":1,}', '{"t": NaN}'])
    source = read(put(tmp_path / "c.jsonl", "\r\n".join(lines)), rejects=tmp_path / "r")
    assert rows(source) == [item for at, item in enumerate(expected) if at not in bad]
    assert [item["line"] for item in rejected(tmp_path / "r")] == [at + 1 for at in bad]


# --- rejects
# --------------------------------------------------------------------------------------------------------------------------


def test_rejects_file(tmp_path, read):
    target = tmp_path / "r.jsonl"
    good = put(tmp_path / "a.csv", "a,b\n1,2\n")
    assert read(good, rejects=target).rejected == 0
    assert target.read_bytes() == b""
    target.write_text("old")
    broken = put(tmp_path / "b.parquet", b"x")
    with pytest.raises(BadInput):
        read(good, broken, rejects=target)
    assert target.read_text() == "old"
    put(tmp_path / "c.csv", "a,b\nü\n")
    put(tmp_path / "d.jsonl", '{"a":"1"}\nnull\n')
    source = read(tmp_path / "c.csv", good, tmp_path / "d.jsonl", rejects=target)
    assert (source.rejected, source.rows, source.file_rows) == (2, 2, (0, 1, 1))
    assert [(r["file"], r["line"], r["raw"]) for r in rejected(target)] == [
        (str(tmp_path / "c.csv"), 2, "ü"),
        (str(tmp_path / "d.jsonl"), 2, "null"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    with pytest.raises(BadArgument, match="rejects"):
        read(good, rejects=tmp_path / "no" / "r")


def test_big_file_around_bad_rows(tmp_path, read, monkeypatch):
    """The good rows around malformed ones come out as if there were none, over many blocks and row
    groups.
    """
    monkeypatch.setattr(staging, "ROWS_A_GROUP", 1000)
    whole = utf8.utf8_blocks
    monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": 30_000}))
    good = [[f"p{i % 7}", f'text "{i}",\n' * (i % 5), str(i)] for i in range(20_000)]
    text = csv_text([["p", "t", "n"], *good], lineterminator="\n")
    at = text.index("\np3,") + 1
    broken = text[:at] + "few,fields\n" + text[at:] + 'x,y\nlast,"never\n'
    clean = read(put(tmp_path / "a.csv", text), memory_bytes=1)
    dirty = read(put(tmp_path / "b.csv", broken), rejects=tmp_path / "r", memory_bytes=1, threads=3)
    assert rows(clean) == rows(dirty) == [{"p": p, "t": t or None, "n": n} for p, t, n in good]
    assert pq.ParquetFile(clean.files[0]).num_row_groups > 1
    lines = broken.split("\n")
    assert [lines[item["line"] - 1] for item in rejected(tmp_path / "r")] == [
        "few,fields",
        "x,y",
        'last,"never',
    ]


# --- encodings
# ------------------------------------------------------------------------------------------------------------------------

TEXTS = {
    "utf-8": "žluťoučký 😀",
    "utf-8-sig": "žluťoučký 😀",
    "utf-16": "žluť 😀",
    "utf-16-le": "žluť 😀",
    "utf-16-be": "žluť 😀",
    "utf-32": "žluť 😀",
    "cp1252": "“naïve” – €",
    "latin-1": "naïve ÿ\x85",
    "iso8859-15": "naïve €",
    "cp1250": "Zażółć gęślą",
    "cp1251": "Привет, мир",
    "koi8_r": "Привет, мир",
    "koi8_u": "Привіт",
    "cp866": "Привет",
    "mac_roman": "don’t\xa0stop",
    "gb18030": "今天天气很好😀",
    "gbk": "今天天气很好",
    "big5": "今天天氣很好",
    "shift_jis": "これは日本語です",
    "euc_jp": "これは日本語です",
    "euc_kr": "안녕하세요",
    "cp949": "안녕하세요",
    "cp1253": "Καλημέρα",
    "cp1255": "שלום",
    "tis_620": "สวัสดี",
    "cp437": "naïve ½",
}


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_encodings(tmp_path, read, encoding, size, monkeypatch):
    whole = utf8.utf8_blocks
    monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": size}))
    items = [{"prompt": TEXTS[encoding], "n": f"{i}"} for i in range(20)]
    assert (
        rows(read(put(tmp_path / "a.jsonl", jsonl(items).encode(encoding)), encoding=encoding))
        == items
    )
    text = csv_text([["prompt", "n"], *([i["prompt"], i["n"]] for i in items)])
    assert (
        rows(
            read(
                put(tmp_path / "a.csv.gz", gzip.compress(text.encode(encoding))), encoding=encoding
            )
        )
        == items
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path, read, encoding):
    assert rows(read(put(tmp_path / "a.csv", "ä,b\n1,ü\n".encode(encoding)))) == [
        {"ä": "1", "b": "ü"}
    ]
    assert rows(read(put(tmp_path / "a.jsonl", '{"ä":"ü"}\n'.encode(encoding)))) == [{"ä": "ü"}]
    big_endian = b"\xfe\xff" + "ä\nü\n".encode("utf-16-be")
    assert rows(read(put(tmp_path / "b.csv", big_endian))) == [{"ä": "ü"}]


def test_utf16_without_mark(tmp_path, read):
    with pytest.raises(BadInput, match="NUL") as caught:
        read(put(tmp_path / "a.csv", "prompt,score\nx,1\n".encode("utf-16-le")))
    assert caught.value.hint == "try --encoding utf_16_le"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", "é" * 50 and ("é" * 50).encode()])
@pytest.mark.parametrize(
    "bad", [b"\xd5", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"]
)
def test_offset_of_bad_bytes(tmp_path, read, size, before, bad, monkeypatch):
    whole = utf8.utf8_blocks
    monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": size}))
    head = before + b'{"a":"it'
    for name, data in (
        ("a.jsonl", head + bad + b's"}\n'),
        ("b.jsonl.gz", gzip.compress(head + bad + b's"}\n')),
        ("c.jsonl", head + bad),
    ):
        with pytest.raises(
            BadInput,
            match=f"{name}: not valid UTF-8; the byte 0x{bad[0]:02X} at offset {len(head)} ",
        ):
            read(put(tmp_path / name, data))


@pytest.mark.parametrize(
    ("encoding", "data", "offset"),
    [
        ("gb18030", "今天".encode("gb18030") + b"\xff\n", 4),
        ("gb18030", "ab今天".encode("gb18030")[:-1], 4),
        ("shift_jis", b"abc\n\x83\x7f\n", 4),
        ("cp1252", b"a\n\x81\n", 2),
        ("utf_16_le", "abc\n".encode("utf-16-le") + b"\x00", 8),
        ("utf_16_le", "abc\n".encode("utf-16-le") + b"\x00\xdcx\x00", 8),
        ("ascii", b"abc\xe9", 3),
        ("euc_kr", "안녕".encode("euc_kr") + b"\xc8", 4),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_offset_in_other_encodings(tmp_path, read, encoding, data, offset, size, monkeypatch):
    whole = utf8.utf8_blocks
    monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": size}))
    with pytest.raises(BadInput, match=rf"not valid {encoding}; the byte 0x.. at offset {offset} "):
        read(put(tmp_path / "a.csv", data), encoding=encoding)


SAMPLES = [
    ("mac_roman", "That’s it: don’t stop\xa0– “never”, he said. Where’s the café?"),
    ("cp1252", "That’s it: don’t stop – “never”, he said. Where’s the café? Straße, été."),
    ("cp1251", "Привет, как дела? Это проверка кодировки, она должна быть найдена."),
    ("koi8_r", "Привет, как дела? Это проверка кодировки, она должна быть найдена."),
    ("gb18030", "今天天气很好，我们去公园散步吧。这是一个测试文件，里面有很多汉字。"),
    ("big5", "今天天氣很好，我們去公園散步吧。這是一個測試檔案，裡面有很多漢字。"),
    ("shift_jis", "これは日本語の文章です。東京は大きい都市だ。今日は天気がいいです。"),
    ("euc_kr", "안녕하세요. 오늘은 날씨가 좋습니다. 공원에 산책하러 갑시다."),
]


@pytest.mark.parametrize(("encoding", "text"), SAMPLES)
def test_hints(tmp_path, read, encoding, text):
    data = csv_text([["prompt", "score"], *([text, str(i)] for i in range(4))]).encode(encoding)
    with pytest.raises(BadInput, match="not valid UTF-8") as caught:
        read(put(tmp_path / "a.csv", data))
    assert caught.value.hint.startswith("try --encoding ")
    assert encoding in caught.value.hint
    first = utf8.likely_encodings(data)[0]
    assert data.decode(first) == data.decode(
        encoding
    )  # the best guess reads the file as it was meant


def test_unknown_encodings(tmp_path, read):
    path = put(tmp_path / "a.csv", "a\n1\n")
    with pytest.raises(BadArgument, match="no encoding 'mac_romn'") as caught:
        read(path, encoding="mac_romn")
    assert "mac_roman" in caught.value.hint
    for name in (
        "utf_7",
        "UTF-7",
        "rot13",
        "base64",
        "zlib",
        "idna",
        "punycode",
        "unicode_escape",
        "",
        "a\0b",
        "x" * 300,
    ):
        with pytest.raises(BadArgument):
            read(path, encoding=name)


def test_wrong_label(tmp_path, read):
    data = "prompt\nПривет\n".encode("koi8_r")
    assert rows(read(put(tmp_path / "a.csv", data), encoding="cp1251")) != [
        {"prompt": "Привет"}
    ]  # nobody can know
    with pytest.raises(BadInput, match=r"not valid utf_16_le|lone surrogates"):
        read(put(tmp_path / "b.csv", b"prompt\nabc"[:9]), encoding="utf-16-le")


# --- compression
# ----------------------------------------------------------------------------------------------------------------------


def test_broken_archives(tmp_path, read):
    text = csv_text([["a", "b"], *([str(i), "x" * (i % 50)] for i in range(5000))]).encode()
    for name, whole in (("a.csv.gz", gzip.compress(text)), ("a.csv.zst", zstandard.compress(text))):
        half = len(whole) // 2
        for data in (
            whole[:half],
            whole[:-1],
            b"a,b\n1,2\n",
            whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :],
        ):
            with pytest.raises(BadInput, match=rf"{name}: "):
                read(put(tmp_path / name, data))
        assert len(rows(read(put(tmp_path / name, whole)))) == 5000


def test_many_frames(tmp_path, read):
    first, second = b"a,b\n1,2\n", b"3,4\n"
    for name, squeeze in (("a.csv.gz", gzip.compress), ("a.csv.zst", zstandard.compress)):
        data = squeeze(first) + squeeze(b"") + squeeze(second)
        assert rows(read(put(tmp_path / name, data))) == [
            {"a": "1", "b": "2"},
            {"a": "3", "b": "4"},
        ]


# --- several files
# --------------------------------------------------------------------------------------------------------------------


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


# --- URLs
# -----------------------------------------------------------------------------------------------------------------------------


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


# --- real files
# -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def realdata() -> Path:
    folder = os.environ.get("PREFMILL_REALDATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PREFMILL_REALDATA names no folder")
    return Path(folder)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count", "encoding", "columns"),
    [
        ("seed_feedback.csv", 6, "mac_roman", {"feedback": pa.string()}),
        ("seed_expected.csv", 3, None, {"instruction": pa.string()}),
        ("alpaca_eval/weighted_part1.parquet", 42_078, None, {"score": pa.float64()}),
        ("alpaca_eval/gpt4_discrete.jsonl.gz", 11_270, None, {"preference": pa.float64()}),
        (
            "pandalm/testset_v1.jsonl",
            999,
            None,
            {"response1": pa.string(), "annotator1": pa.int64()},
        ),
        (
            "oasst/assistant_rows.jsonl",
            687,
            None,
            {
                "prompt": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
                "rank": pa.int64(),
            },
        ),
        ("oasst/en_100_tree.jsonl", 100, None, {}),
        (
            "prometheus/vicuna_eval.jsonl",
            320,
            None,
            {"scores": pa.list_(pa.int64()), "feedback": pa.list_(pa.string())},
        ),
    ],
)
def test_real_files(realdata, read, name, count, encoding, columns):
    source = read(realdata / name, encoding=encoding)
    assert source.rows == count == len(rows(source))
    for column, kind in columns.items():
        assert source.columns.field(column).type == kind
    if name.endswith((".jsonl", ".gz")):  # the values are what Python reads
        opened = gzip.open if name.endswith(".gz") else open
        with opened(realdata / name, "rt", encoding="utf-8", newline="\n") as file:
            texts = [json.loads(line) for line in file]
        for column in ("prompt", "answer", "preference", "instruction", "completion", "feedback"):
            if column in texts[0] and "tree" not in name:
                assert [row[column] for row in rows(source)] == [text[column] for text in texts]


@pytest.mark.realdata
def test_real_seed_hint(realdata, read):
    with pytest.raises(BadInput, match="byte 0xD5 at offset") as caught:
        read(realdata / "seed_feedback.csv")
    assert "mac_roman" in caught.value.hint
    text = "".join(
        str(row) for row in rows(read(realdata / "seed_feedback.csv", encoding="mac_roman"))
    )
    assert (text.count("’"), text.count("\\xa0")) == (5, 3)
