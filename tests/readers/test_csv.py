"""CSV: quotes, line ends, headers, ragged rows, against a slow reader."""

from __future__ import annotations

import gzip
import random

import pyarrow as pa
import pyarrow.feather
import pytest
import zstandard
from reading import csv_text, put, rejected, rows

from prefmill.errors import BadArgument, BadInput
from prefmill.readers import utf8


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


# --- CSV


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
