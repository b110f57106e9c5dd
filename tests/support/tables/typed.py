"""Rows of many types, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import prefmill as pm
from prefmill.readers import Source, open_source
from prefmill.table.json_values import values_of

PLAN = pm.Pairs(chosen_min=None, rejected_below=None)

ENGINES = ("duckdb", "polars")

ASKED = [{"role": "user", "content": "a\nb"}]


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read(tmp_path: Path, *inputs: Path) -> tuple[Source, list[dict[str, Any]]]:
    """The source, and its rows as Python values."""
    source = open_source([str(path) for path in inputs], temp_dir=tmp_path / "stage")
    rows: list[dict[str, Any]] = []
    for file in source.files:
        table = pq.read_table(file, partitioning=None)
        rows += (
            dict(zip(table.column_names, row, strict=True))
            for row in zip(*map(values_of, table.columns), strict=True)
        )
    return source, rows


def pairs_of(path: Path, out: Path, host: str, **more: Any) -> list[dict[str, Any]]:
    pm.run(PLAN, path, out, engine=host, overwrite=True, **more)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


CALLS = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "a", "arguments": {"city": "Oslo"}}}
        ],
    },
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "b", "arguments": {"n": 5, "unit": None}}}
        ],
    },
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "c", "arguments": {"n": 4.5, "x": []}}}
        ],
    },
]


def row(prompt: Any, completion: Any, score: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "score": score}
