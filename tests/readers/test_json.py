"""JSON: documents, lines, types, keys, and lines that are malformed."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from reading import ROWS, csv_text, jsonl, put, rejected, rows

from prefmill.errors import BadArgument, BadInput
from prefmill.readers import staging, utf8
from prefmill.table.json_values import JSON_TYPE

# --- formats


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


# --- JSON


def test_json_types(tmp_path, read):
    data = [
        '{"n": 1, "mix": 1, "z": null, "t": "2020-01-01", "m": [], "e": {}, "o": {"x": 1}, "big": '
        '5, "deep": [{"k": [1]}], "l": [1, "a"]}',
        '{"mix": "x", "n": 2.5, "late": true, "m": [{"role": "user", "content": "hi"}], "o": {"y": '
        '"b"}, "big": 9223372036854775808}',
        '{"mix": [1, {"a": "ä"}], "m": [{"content": "yo", "role": "assistant"}, {"role": "x"}], '
        '"o": {}, "deep": [{"k": [2.5]}, {}]}',
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
