"""More keys than one query reads: the columns come together again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from prefmill.readers import open_source


def test_more_keys_than_a_query_reads(tmp_path: Path) -> None:
    kinds = (lambda n: n, str, lambda n: n / 4, lambda n: [n], lambda n: {"a": n}, lambda n: None)
    rows = [
        {"prompt": f"p{row}", **{f"k{n}": kinds[n % 6](n + row) for n in range(1_200)}}
        for row in range(3)
    ]
    path = tmp_path / "wide.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source([str(path)], temp_dir=tmp_path / "t")
    assert source.columns.names == list(rows[0])
    assert pq.read_table(source.files[0]).to_pylist() == rows
