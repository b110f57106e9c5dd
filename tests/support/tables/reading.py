"""Small files, and their rows as a reader gives them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq

from prefmill.readers import Source
from prefmill.table.json_values import decoded

ROWS = [
    {"prompt": "p1", "completion": "a", "score": 1},
    {"prompt": "p1", "completion": "b\nc", "score": 2},
]

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


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
