"""A corpus of files as they come from the world, made by code: good ones in unusual forms, and
damaged ones.

`corpus(folder)` writes it and says of each file what is right: a table, or nothing but a typed
error. Run as a script it reads paths from stdin and says what one engine makes of each; the process
may die of one, which its parent must see.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import zstandard

Row = tuple[str, str, float]
ROWS: list[Row] = [
    ("p1", 'a "b", c', 1.0),
    ("p1", "é😀\nx", 2.5),
    ("p2", "", 3.0),
    ("p2", "d", 4.0),
    ("p2", "e" * 300, 0.0),
]
NAMES = ("prompt", "completion", "score")


@dataclass(frozen=True)
class Case:
    """A file, and what is right: `rows`, or an error; `lost` where damage cannot be told from
    data.
    """

    name: str
    data: bytes
    rows: list[Row] | None
    error: str = ""  #: a part of the message, besides the file's name
    lost: bool = False  #: no format could see this damage: any table of this shape will do


def csv_of(
    rows: list[Row] = ROWS, *, delimiter: str = ",", ends: str = "\n", header: str | None = None
) -> str:
    def field(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"' if isinstance(value, str) else str(value)

    head = delimiter.join(NAMES) if header is None else header
    return ends.join([head, *(delimiter.join(map(field, row)) for row in rows), ""])


def objects(rows: list[Row] = ROWS) -> list[dict[str, Any]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def jsonl_of(rows: list[Row] = ROWS, **how: Any) -> str:
    return "".join(
        json.dumps(row, **{"ensure_ascii": False, **how}) + "\n" for row in objects(rows)
    )


def table(**kinds: pa.DataType) -> pa.Table:
    made = pa.Table.from_pylist(objects())
    for name, kind in kinds.items():
        made = made.set_column(made.schema.get_field_index(name), name, made[name].cast(kind))
    return made


def parquet(made: pa.Table | None = None, **how: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table() if made is None else made, out, **how)
    return out.getvalue()


def ipc(
    made: pa.Table | None = None,
    *,
    stream: bool = False,
    compression: str | None = None,
    batch: int = 100,
) -> bytes:
    out = io.BytesIO()
    made = table() if made is None else made
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(
        out, made.schema, options=options
    ) as writer:
        writer.write_table(made, max_chunksize=batch)
    return out.getvalue()


def flipped(data: bytes, at: int, mask: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


def texts() -> Iterator[Case]:
    """CSV, TSV, JSON and JSON Lines in the encodings and compressions of the world."""
    forms: dict[str, Callable[[], str]] = {
        "csv": csv_of,
        "tsv": lambda: csv_of(delimiter="\t"),
        "jsonl": jsonl_of,
        "json": lambda: json.dumps(objects(), ensure_ascii=False),
    }
    for ending, make in forms.items():
        text = make()
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            yield Case(f"{encoding}.{ending}", text.encode(encoding), ROWS)
        yield Case(f"utf-16-be.{ending}", codecs.BOM_UTF16_BE + text.encode("utf-16-be"), ROWS)
        plain = text.replace("😀", "ü").encode("latin-1")
        yield Case(f"latin-1.{ending}", plain, None, "byte")
        yield Case(f"utf-16-without-mark.{ending}", text.encode("utf-16-le"), None)
        yield Case(f"utf-16-odd.{ending}", text.encode("utf-16")[:-1], None)
        yield Case(f"half-character.{ending}", text.encode()[:-3] + b"\xe2\x82", None)
        yield Case(f"overlong.{ending}", text.encode().replace(b"p1", b"\xc0\xaf", 1), None, "byte")
        yield Case(
            f"surrogate.{ending}", text.encode().replace(b"p1", b"\xed\xa0\x80", 1), None, "byte"
        )
        yield Case(f"a.{ending}.gz", gzip.compress(text.encode()), ROWS)
        yield Case(
            f"two-members.{ending}.gz",
            gzip.compress(text.encode()[:40]) + gzip.compress(text.encode()[40:]),
            ROWS,
        )
        yield Case(f"a.{ending}.zst", zstandard.compress(text.encode()), ROWS)
        yield Case(f"cut.{ending}.gz", gzip.compress(text.encode())[:-12], None)
        yield Case(f"checksum.{ending}.gz", flipped(gzip.compress(text.encode()), -6, 0xFF), None)
        yield Case(f"no.{ending}.gz", text.encode(), None)
        yield Case(f"cut.{ending}.zst", zstandard.compress(text.encode())[:-5], None)
        yield Case(f"no.{ending}.zst", text.encode(), None)
        yield Case(f"empty.{ending}", b"", None, "empty")
        yield Case(
            f"html.{ending}", b"<!DOCTYPE html>\n<html><body>404, not found</body></html>\n", None
        )
        yield Case(f"parquet-named.{ending}", parquet(), None)
        yield Case(f"zip-named.{ending}", b"PK\x03\x04" + bytes(60), None)


def csvs() -> Iterator[Case]:
    """Dialects of CSV, and rows that do not fit."""
    plain = [("p", "a", 1.0), ("p", "b", 2.0)]
    for name, ends in (("crlf", "\r\n"), ("cr", "\r")):
        yield Case(f"{name}.csv", csv_of(plain, ends=ends).encode(), plain)
    yield Case("no-last-end.csv", csv_of(plain).rstrip("\n").encode(), plain)
    yield Case("blank-lines.csv", csv_of(plain).replace("\n", "\n\n").encode(), plain)
    yield Case(
        "one-big-cell.csv",
        csv_of([("p", "x" * 3_000_000, 1.0)]).encode(),
        [("p", "x" * 3_000_000, 1.0)],
    )
    yield Case("nul-in-text.csv", csv_of([("p", "a\0b", 1.0)]).encode(), [("p", "a\0b", 1.0)])
    yield Case(
        "quotes-in-plain-fields.csv",
        b'prompt,completion,score\np,say "x" now,1\n',
        [("p", 'say "x" now', 1.0)],
    )
    yield Case("trailing-delimiters.csv", b"prompt,completion,score\np,a,1,\np,b,2,\n", plain)
    yield Case("short-rows.csv", b"prompt,completion,score,note\np,a,1\np,b,2,x\n", plain)
    yield Case("unnamed-column.csv", b",prompt,completion,score\n0,p,a,1\n1,p,b,2\n", plain)
    yield Case("spelled-numbers.csv", b"prompt,completion,score\np,a, 1 \np,b,2e0\n", plain)
    for name, delimiter in (("semicolon", ";"), ("pipe", "|"), ("tab", "\t")):
        yield Case(f"{name}.csv", csv_of(plain, delimiter=delimiter).encode(), None, "delimiter")
    yield Case("caret.csv", csv_of(plain, delimiter="^").encode(), None)
    yield Case("spaces.csv", csv_of(plain, delimiter=" ").encode(), None)
    yield Case("header-only.csv", csv_of([]).encode(), [])
    yield Case("no-header.csv", b"p,a,1\np,b,2\n", None)
    yield Case("no-prompt.csv", b"x,completion,score\np,a,1\n", None, "prompt")
    yield Case("only-ends.csv", b"\n\n\r\n", None, "empty")
    yield Case("only-a-mark.csv", codecs.BOM_UTF8, None)
    yield Case("preamble.csv", b"Export of 3 May\n" + csv_of(plain).encode(), None)
    yield Case("preamble-with-commas.csv", b"Export,of,3,May\n" + csv_of(plain).encode(), None)
    yield Case("second-mark.csv", codecs.BOM_UTF8 * 2 + csv_of(plain).encode(), plain)
    yield Case("long-row.csv", b"prompt,completion,score\np,a,1\np,b,2,x,y\n", None, "line 3")
    yield Case("row-without-score.csv", b"prompt,completion,score\np,a\n", None, "line 2")
    yield Case(
        "never-closed.csv", b'prompt,completion,score\np,a,1\np,"b,2\np,c,3\n', None, "line 3"
    )
    yield Case("text-after-quote.csv", b'prompt,completion,score\np,"a"x,1\n', None, "line 2")
    yield Case(
        "same-names.csv", b"prompt,completion,completion,score\np,a,b,1\n", None, "duplicate"
    )
    yield Case("names-by-case.csv", b"prompt,completion,Completion,score\np,a,b,1\n", None, "case")
    yield Case("nul-in-name.csv", b"pro\0mpt,completion,score\np,a,1\n", None)
    yield Case("decimal-comma.csv", b'prompt,completion,score\np,a,"1,5"\n', [])
    yield Case("json-named.csv", jsonl_of(plain).encode(), None)
    yield Case("binary.csv", bytes(range(256)) * 4, None)


def jsons() -> Iterator[Case]:
    """JSON that is not JSON, or is more than a table holds."""
    good = jsonl_of().encode()
    for name, line in {
        "half": '{"prompt":"p","completion":"a"',
        "garbage": "what",
        "nan": '{"prompt":"p","completion":"a","score":NaN}',
        "infinity": '{"prompt":"p","completion":"a","score":-Infinity}',
        "comma": '{"prompt":"p","completion":"a","score":1,}',
        "single-quotes": "{'prompt':'p'}",
        "comment": '{"prompt":"p"} // so',
        "array": "[1, 2]",
        "number": "5",
        "null": "null",
        "two-objects": '{"prompt":"p"}{"prompt":"q"}',
        "control": '{"prompt":"p\x01","completion":"a","score":1}',
        "half-surrogate": '{"prompt":"\\ud800","completion":"a","score":1}',
        "leading-zero": '{"prompt":"p","completion":"a","score":01}',
        "plus": '{"prompt":"p","completion":"a","score":+1}',
        "hex": '{"prompt":"p","completion":"a","score":0x1}',
        "escape": '{"prompt":"\\x","completion":"a","score":1}',
        "too-deep": '{"prompt":"p","completion":"a","score":1,"x":'
        + "[" * 10_000
        + "]" * 10_000
        + "}",
        "empty-key": '{"":1,"prompt":"p","completion":"a","score":1}',
        "nul-key": '{"a\\u0000":1,"prompt":"p","completion":"a","score":1}',
        "keys-by-case": '{"Prompt":"q","prompt":"p","completion":"a","score":1}',
        "answer-object": '{"prompt":"p","completion":{"text":"a"},"score":1}',
        "answer-list": '{"prompt":"p","completion":[{"role":"assistant","content":"a"}],"score":1}',
        "score-object": '{"prompt":"p","completion":"a","score":{"value":1}}',
    }.items():
        where = {
            "empty-key": "empty key",
            "nul-key": "NUL",
            "keys-by-case": "case",
            "score-object": "score",
        }.get(name, "line 6")
        rows = ROWS if name == "score-object" else None  # counted as bad_score, or refused
        yield Case(f"{name}.jsonl", good + line.encode() + b"\n", rows, where)
    many = {f"k{n}": n for n in range(5000)}
    yield Case("5000-keys.jsonl", (json.dumps({**objects()[0], **many}) + "\n").encode(), [ROWS[0]])
    rows = ({**objects()[0], f"k{n}": n} for n in range(2000))
    yield Case(
        "2000-keys-of-rows.jsonl",
        "".join(json.dumps(row) + "\n" for row in rows).encode(),
        [ROWS[0]] * 2000,
    )
    for levels, good_rows in ((50, [ROWS[0]]), (100, [ROWS[0]]), (200, None)):
        for kind in ("lists", "objects"):
            deep: Any = 1
            for _ in range(levels):
                deep = [deep] if kind == "lists" else {"k": deep}
            yield Case(
                f"{levels}-{kind}.jsonl",
                (json.dumps({**objects()[0], "x": deep}) + "\n").encode(),
                good_rows,
            )
    yield Case("blank-lines.jsonl", good.replace(b"\n", b"\r\n\n"), ROWS)
    yield Case(
        "key-order.jsonl",
        (json.dumps(dict(reversed(objects()[0].items()))) + "\n").encode() + good,
        [ROWS[0], *ROWS],
    )
    yield Case("escaped.jsonl", jsonl_of(ensure_ascii=True).encode(), ROWS)
    yield Case(
        "doubled-key.jsonl", good.replace(b'"score": 1.0', b'"score": 1.0, "score": 9', 1), ROWS
    )
    yield Case("invalid-utf-8.jsonl", good.replace(b"p1", b"\xff", 1), None, "byte")
    yield Case(
        "huge-number.jsonl", good + b'{"prompt":"p2","completion":"z","score":1e400}\n', ROWS
    )
    yield Case("array-named.jsonl", json.dumps(objects()).encode(), ROWS)
    document = json.dumps(objects()).encode()
    yield Case("pretty.json", json.dumps(objects(), indent=2).encode(), ROWS)
    yield Case("one-object.json", json.dumps(objects()[0], indent=2).encode(), ROWS[:1])
    yield Case("lines.json", good, ROWS)
    yield Case("empty-array.json", b"[]", None)
    yield Case("cut-array.json", document[:-20], None)
    yield Case("missing-comma.json", document.replace(b"}, {", b"} {", 1), None, "line 1")
    yield Case("text-behind.json", document + b" x", None, "line 1")
    yield Case("wrong-bracket.json", document[:-1] + b"}", None, "line 1")
    yield Case("scalar.json", b'"text"', None)
    yield Case("object-of-lists.json", json.dumps({name: [1] for name in NAMES}).encode(), None)


def parquets() -> Iterator[Case]:
    """Parquet in all its forms, and damaged in each part."""
    forms: dict[str, dict[str, Any]] = {
        "dictionary": {"use_dictionary": True},
        "plain": {"use_dictionary": False},
        "no-statistics": {"write_statistics": False},
        "pages-2": {"data_page_version": "2.0"},
        "groups": {"row_group_size": 2},
        "checksums": {"write_page_checksum": True},
        "checksums-2": {
            "write_page_checksum": True,
            "data_page_version": "2.0",
            "use_dictionary": False,
        },
        "no-schema": {"store_schema": False},
        **{
            codec: {"compression": codec}
            for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli")
        },
    }
    for name, how in forms.items():
        yield Case(f"{name}.parquet", parquet(**how), ROWS)
    for name, made in {
        "large": table(prompt=pa.large_string(), completion=pa.large_string()),
        "categories": table(prompt=pa.dictionary(pa.int32(), pa.string())),
        "float32": table(score=pa.float32()),
        "float16": table(score=pa.float16()),
        "decimal": table(score=pa.decimal128(10, 2)),
        "decimal256": table(score=pa.decimal256(50, 2)),
        "texts": table(score=pa.string()),
    }.items():
        yield Case(f"type-{name}.parquet", parquet(made), ROWS)
    whole = pa.table(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": pa.array([1, 2], pa.uint64())}
    )
    yield Case("type-uint64.parquet", parquet(whole), [("p", "a", 1.0), ("p", "b", 2.0)])
    intervals = whole.append_column("took", pa.array([Decimal("1.5"), None], pa.decimal256(60, 3)))
    yield Case("unused-decimal256.parquet", parquet(intervals), [("p", "a", 1.0), ("p", "b", 2.0)])
    yield Case("no-rows.parquet", parquet(table().slice(0, 0)), [])
    good = parquet(compression="none", use_dictionary=False)
    length = struct.unpack("<I", good[-8:-4])[0]
    footer = len(good) - 8 - length
    yield Case("empty.parquet", b"", None, "empty")
    yield Case("magic.parquet", b"PAR1", None)
    yield Case("magic-twice.parquet", b"PAR1PAR1", None)
    yield Case("encrypted.parquet", b"PARE" + good[4:-4] + b"PARE", None, "encrypted")
    yield Case("text-named.parquet", csv_of().encode(), None)
    yield Case("head-cut.parquet", good[20:], None)
    yield Case("no-head.parquet", bytes(4) + good[4:], None)
    yield Case(
        "huge-footer.parquet", good[:-8] + struct.pack("<I", 1 << 30) + b"PAR1", None, "footer"
    )
    yield Case("no-footer.parquet", good[:-8] + struct.pack("<I", 0) + b"PAR1", None)
    for share in range(1, 10):
        yield Case(f"cut-{share}0-percent.parquet", good[: len(good) * share // 10], None)
    chance = random.Random(7)
    for number in range(
        40
    ):  # a byte of the footer; statistics and names of tools may be wrong without a word
        at, mask = chance.randrange(footer, len(good) - 8), chance.choice((1, 0x10, 0x80, 0xFF))
        yield Case(
            f"footer-{number}-{at - footer}-{mask:x}.parquet",
            flipped(good, at, mask),
            ROWS,
            lost=True,
        )
    yield Case(
        "repetition.parquet", flipped(good, good.index(b"\x15\x0c\x25\x02") + 2, 1), None, "column"
    )
    checked = parquet(compression="zstd", write_page_checksum=True)
    end = len(checked) - 8 - struct.unpack("<I", checked[-8:-4])[0]
    for number in range(20):
        at, mask = chance.randrange(4, end), chance.choice((1, 0x10, 0x80, 0xFF))
        yield Case(f"checksum-{number}-{at}-{mask:x}.parquet", flipped(checked, at, mask), ROWS)
    for number in range(20):
        at, mask = chance.randrange(4, footer), chance.choice((1, 0x10, 0x80, 0xFF))
        yield Case(f"page-{number}-{at}-{mask:x}.parquet", flipped(good, at, mask), ROWS, lost=True)
    yield Case("bad-utf-8.parquet", good.replace(b"p1", b"\xff\xfe"), None)
    nulls = parquet(
        pa.table(
            {
                "prompt": ["p", "p", None, None],
                "completion": list("abcd"),
                "score": [1.0, 2.0, 3.0, 4.0],
            }
        ),
        compression="none",
    )
    end = len(nulls) - 8 - struct.unpack("<I", nulls[-8:-4])[0]
    counts = [
        at for at in range(end, len(nulls) - 8) if nulls[at : at + 2] in (b"\x16\x04", b"\x36\x04")
    ]
    for at in counts:  # a number of 2 becomes 0: among them the count of nulls
        wrong = nulls[: at + 1] + b"\0" + nulls[at + 2 :]
        yield Case(
            f"counts-{at - end}.parquet", wrong, [("p", "a", 1.0), ("p", "b", 2.0)], "statistics"
        )
    rows = good.index(b"\x16\x0a", footer)
    for number in (0, 3, 6, 127):
        yield Case(
            f"rows-{number}.parquet",
            good[: rows + 1] + bytes([number]) + good[rows + 2 :],
            None,
            "rows",
        )


def ipcs() -> Iterator[Case]:
    """Arrow IPC as files and streams, and damaged ones."""
    for stream in (False, True):
        kind = "stream" if stream else "file"
        for compression in (None, "lz4", "zstd"):
            yield Case(
                f"{kind}-{compression}.arrow", ipc(stream=stream, compression=compression), ROWS
            )
        yield Case(f"{kind}-batches.feather", ipc(stream=stream, batch=1), ROWS)
        good = ipc(stream=stream)
        for share in range(1, 10):
            yield Case(f"{kind}-cut-{share}0-percent.arrow", good[: len(good) * share // 10], None)
        chance = random.Random(11 + stream)
        for number in range(20):
            at, mask = chance.randrange(len(good)), chance.choice((1, 0x10, 0x80, 0xFF))
            yield Case(
                f"{kind}-{number}-{at}-{mask:x}.arrow", flipped(good, at, mask), ROWS, lost=True
            )
        yield Case(f"{kind}-bad-utf-8.arrow", good.replace(b"p1p1", b"\xff\xfep1"), None)
    yield Case("empty.arrow", b"", None, "empty")
    yield Case("text-named.arrow", csv_of().encode(), None)
    yield Case("feather-1.feather", b"FEA1" + bytes(40) + b"FEA1", None)


def corpus(folder: Path) -> list[tuple[Path, Case]]:
    """Write all files; their paths and what is right for each."""
    made = []
    for kind, cases in (
        ("text", texts()),
        ("csv", csvs()),
        ("json", jsons()),
        ("parquet", parquets()),
        ("ipc", ipcs()),
    ):
        for case in cases:
            path = folder / kind / case.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case.data)
            made.append((path, case))
    good = parquet()
    unlike = parquet(pa.table({"prompt": [1.5], "completion": [[1]], "score": [1]}))
    hive: list[tuple[str, dict[str, bytes], list[Row] | None, str]] = [
        ("hive", {"k=a%2Fb/x.parquet": good, "k=a%2Fc/x.parquet": good}, ROWS + ROWS, ""),
        (
            "hive-of-texts",
            {"k=1/x.jsonl": jsonl_of().encode(), "k=2/x.csv": csv_of().encode()},
            ROWS + ROWS,
            "",
        ),
        ("hive-null", {"k=__HIVE_DEFAULT_PARTITION__/x.parquet": good}, ROWS, ""),
        ("hive-unlike", {"k=1/x.parquet": good, "l=2/x.parquet": good}, None, "partition"),
        ("hive-and-none", {"k=1/x.parquet": good, "x.parquet": good}, None, "partition"),
        ("hive-with-bad", {"k=1/x.parquet": good, "k=2/y.parquet": good[:50]}, None, "y.parquet"),
        (
            "unlike-types",
            {"a.parquet": good, "b.parquet": unlike},
            None,
            "",
        ),
        ("nothing", {".hidden.csv": csv_of().encode()}, None, ""),
    ]
    for name, files, rows, error in hive:
        for inner, data in files.items():
            path = folder / "folders" / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        made.append((folder / "folders" / name, Case(name, b"", rows, error)))
    return made


def outcome(path: str, engine: str) -> dict[str, Any]:
    """What a run over one file comes to: its rows in order, or an error."""
    import polars as pl

    import prefmill as pm
    from prefmill.errors import PrefmillError

    with tempfile.TemporaryDirectory() as home:
        target = f"{home}/out.parquet"
        try:
            report = pm.run(pm.Advantage(), path, target, engine=engine, temp_dir=home)
        except PrefmillError as error:
            return {"error": str(error), "type": type(error).__name__}
        except BaseException as error:
            return {"traceback": f"{type(error).__name__}: {error}"[:300]}
        if not Path(target).exists():
            return {"rows": [], "rows_in": report.rows_in}
        frame = pl.read_parquet(target)
        rows = [[p, c, float(s)] for p, c, s in frame.select(*NAMES).iter_rows()]
        return {"rows": rows, "rows_in": report.rows_in}


def main() -> None:
    engine = sys.argv[1]
    out = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        path = json.loads(line)
        json.dump(outcome(path, engine), out)
        out.write("\n")
        out.flush()


if __name__ == "__main__":
    main()
