"""A file may have any name (faults/reliability.md, odd names)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm

ROWS = [
    {"prompt": "p", "completion": "a", "score": 5},
    {"prompt": "p", "completion": "b", "score": 1},
]
STEMS = {
    "not-utf-8": b"\xff\xfe",
    "line-end": b"a\nb",
    "quotes": b'it\'s "x"',
    "pattern": b"a*[b]?{c}",
    "bidi": "\u202ex".encode(),
}


def put(folder: Path, stem: bytes, ending: str) -> str:
    path = os.path.join(os.fsencode(folder), stem + os.fsencode(ending))
    table = pa.Table.from_pylist(ROWS)
    if ending == ".parquet":
        with open(path, "wb") as file:
            pq.write_table(table, file)
    elif ending == ".arrow":
        with open(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif ending == ".jsonl":
        with open(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)
    else:
        with open(path, "w") as file:
            file.write("prompt,completion,score\np,a,5\np,b,1\n")
    return os.fsdecode(path)


@pytest.mark.parametrize("host", ["duckdb", "polars"])
@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".jsonl", ".csv"])
@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)
def test_any_name_is_read_and_written(tmp_path, stem, ending, host):
    path = put(tmp_path, stem, ending)
    target = os.fsdecode(os.path.join(os.fsencode(tmp_path), stem + b"-out.jsonl"))
    report = pm.run(pm.Pairs(), path, target, engine=host)
    assert report.pairs_out == 1
    with open(target) as file:
        assert json.loads(file.read())["chosen"] == "a"
    assert pm.run(pm.Pairs(), [path, path], None, engine=host).rows_in == 4


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_command_tells_any_name(tmp_path, ending):
    path = put(tmp_path, STEMS["not-utf-8"], ending)
    command = [sys.executable, "-m", "prefmill", "pairs", path, "-o", path + "-out.jsonl", "--json"]
    done = subprocess.run(
        [os.fsencode(part) for part in command],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs_out"] == 1
