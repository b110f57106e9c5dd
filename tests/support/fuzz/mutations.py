"""Files near the good ones: each kind is changed where its structure is."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import bad_files
import pyarrow as pa
import thrift_trees
import workbooks
import zstandard

NUMBERS = ("0", "-0", "1e400", "-1e-400", "1e5", "NaN", "Infinity", "01", "9" * 40, "1.5.5", "0x1")
JSON_TOKENS = (
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "\\",
        "null",
        "true",
        "fals",
        "\n",
        "\r\n",
        "\0",
        "\ufeff",
    ),
    *('"\\ud800"', '"\\u0000"', '"\u202e"', '""', '"prompt"', '"score":5,', '{"a":', "[" * 50),
    *NUMBERS,
)
CSV_TOKENS = (
    *(",", '"', '""', "\n", "\r", "\r\n", "\0", "\t", ";", "'", "\\", "\ufeff", "=1+1", "é", " "),
    *("prompt", "score", "x" * 5000, "\u202e", "\x1b[31m"),
    *NUMBERS,
)


def flipped(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, taken out, put in or doubled."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        if not made:
            break
        at = draw.randrange(len(made))
        size = draw.choice([1, 1, 4, 16])
        way = draw.randrange(5)
        if way == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            made[at : at + size] = draw.randbytes(size)
        elif way == 2:
            del made[at : at + size]
        elif way == 3:
            made[at:at] = made[at : at + size * 4]
        else:
            edge = draw.choice(thrift_trees.EDGES) & 0xFFFFFFFF
            at &= ~3
            made[at : at + 4] = struct.pack("<I", edge)
    return bytes(made)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def spliced(text: str, draw: random.Random, tokens: tuple[str, ...], marks: str) -> str:
    """A text with tokens changed near the characters that its format lives by."""
    places = [at for at, char in enumerate(text) if char in marks] or [0]
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = min(draw.choice(places), len(text))
        way = draw.randrange(5)
        if way == 0:
            text = text[:at] + draw.choice(tokens) + text[at:]
        elif way == 1:
            text = text[:at] + text[at + 1 :]
        elif way == 2:
            text = text[:at] + draw.choice(tokens) + text[at + 1 :]
        elif way == 3:
            other = draw.choice(places)
            low, high = sorted((at, other))
            text = text[:high] + text[low:high] + text[high:]
        else:
            low, high = sorted((at, draw.choice(places)))
            text = text[:low] + text[high:]
    return text


def repacked(data: bytes, draw: random.Random) -> bytes:
    """A workbook in which one member is changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            inner = old.read(name)
            if name == chosen:
                way = draw.randrange(4)
                if way == 0:
                    continue
                tokens = ("<", ">", "&", "</row>", "&#0;", 't="s"', *NUMBERS)
                if way < 3:
                    text = inner.decode("utf-8", "replace")
                    inner = spliced(text, draw, tokens, '<>"=').encode()
                else:
                    inner = flipped(inner, draw)
            new.writestr(name, inner)
    return out.getvalue()


def parquet_seeds() -> list[bytes]:
    nested = bad_files.table().append_column(
        "more", pa.array([[{"a": 1, "b": "x"}], [], None, [{"a": None, "b": "y"}], []])
    )
    return [
        bad_files.parquet(),
        bad_files.parquet(compression="none", use_dictionary=False),
        bad_files.parquet(data_page_version="2.0", row_group_size=2),
        bad_files.parquet(nested, compression="zstd"),
        bad_files.parquet(bad_files.table(score=pa.decimal128(10, 2)), compression="none"),
        bad_files.parquet(
            bad_files.table(prompt=pa.dictionary(pa.int32(), pa.string())), write_page_index=True
        ),
    ]


def ipc_seeds(*, stream: bool) -> list[bytes]:
    tables = [bad_files.table(), bad_files.table(prompt=pa.dictionary(pa.int32(), pa.string()))]
    nested = bad_files.table().append_column("more", pa.array([[1], [], None, [2, 3], []]))
    made = [bad_files.ipc(table, stream=stream, batch=2) for table in (*tables, nested)]
    return [*made, bad_files.ipc(stream=stream, compression="zstd")]


Maker = Callable[[random.Random], bytes]


def _parquet(draw: random.Random) -> bytes:
    data = draw.choice(parquet_seeds())
    ways = (thrift_trees.with_footer, thrift_trees.with_footer, thrift_trees.with_page_head)
    return draw.choice((*ways, flipped, cut))(data, draw)


def _checked(draw: random.Random) -> bytes:
    """A page changed under its checksum: the right rows, or an error."""
    data = bytearray(bad_files.parquet(compression="zstd", write_page_checksum=True))
    (length,) = struct.unpack("<I", data[-8:-4])
    for _ in range(draw.choice([1, 2, 9])):
        data[draw.randrange(4, len(data) - 8 - length)] ^= 1 << draw.randrange(8)
    return bytes(data)


def _ipc(stream: bool) -> Maker:
    def make(draw: random.Random) -> bytes:
        return draw.choice((flipped, flipped, flipped, cut))(
            draw.choice(ipc_seeds(stream=stream)), draw
        )

    return make


def _jsonl(draw: random.Random) -> bytes:
    text = bad_files.jsonl_of(ensure_ascii=draw.random() < 0.5)
    return spliced(text, draw, JSON_TOKENS, '{}[],:"\n0123456789').encode("utf-8", "surrogatepass")


def _json(draw: random.Random) -> bytes:
    import json

    text = json.dumps(bad_files.objects(), ensure_ascii=False, indent=draw.choice([None, 1]))
    return spliced(text, draw, JSON_TOKENS, '{}[],:"\n0123456789').encode("utf-8", "surrogatepass")


def _csv(delimiter: str) -> Maker:
    def make(draw: random.Random) -> bytes:
        text = bad_files.csv_of(delimiter=delimiter, ends=draw.choice(["\n", "\r\n"]))
        return spliced(text, draw, CSV_TOKENS, f'"\n\r{delimiter}0123456789').encode()

    return make


def _packed(maker: Maker, pack: Callable[[bytes], bytes]) -> Maker:
    def make(draw: random.Random) -> bytes:
        data = maker(draw)
        if draw.random() < 0.5:
            return pack(data)
        return draw.choice((flipped, cut))(pack(data), draw)

    return make


_WORKBOOK = workbooks.workbook({"rows": [bad_files.NAMES, *bad_files.ROWS]})


def _xlsx(draw: random.Random) -> bytes:
    return draw.choice((repacked, repacked, repacked, flipped, cut))(_WORKBOOK, draw)


#: By the ending of the file's name.
BINARY: dict[str, Maker] = {
    "parquet": _parquet,
    "checked.parquet": _checked,
    "arrow": _ipc(False),
    "arrows": _ipc(True),
    "xlsx": _xlsx,
}
TEXT: dict[str, Maker] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv(","),
    "tsv": _csv("\t"),
    "jsonl.gz": _packed(_jsonl, lambda data: gzip.compress(data, 1)),
    "csv.zst": _packed(_csv(","), zstandard.compress),
}


def write(folder: Path, ending: str, number: int, draw: random.Random) -> Path:
    """A new file of that ending."""
    path = folder / f"f{number}.{'arrow' if ending == 'arrows' else ending}"
    path.write_bytes({**BINARY, **TEXT}[ending](draw))
    return path
