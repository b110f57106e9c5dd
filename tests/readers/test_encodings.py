"""Encodings: byte order marks, bad bytes and their place, labels that are wrong, archives."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest
import zstandard
from reading import csv_text, jsonl, put, rows

from prefmill.errors import BadArgument, BadInput
from prefmill.readers import utf8

# --- encodings

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


# --- real files


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
