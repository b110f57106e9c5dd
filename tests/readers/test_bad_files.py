"""No file is read wrong, ends with a traceback, ends the process, or hangs (faults/reliability.md,
bad files).
"""

from __future__ import annotations

import json
import os
import re
import selectors
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import bad_files
import duckdb
import polars as pl
import pyarrow as pa
import pytest
import thrift_trees

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.readers import blame, open_source

SECONDS = 60  # a file that takes longer hangs


class Reader:
    """A process that reads files with one engine, one after the other; a new one after it died."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, bad_files.__file__, self.engine]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(SECONDS):
                self.close()
                return {"hangs": SECONDS}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"aborts": self.process.wait()}

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def wrong(path: Path, case: bad_files.Case, found: dict[str, Any]) -> str | None:
    """What is wrong with an outcome; None where it is right."""
    if "rows" in found:
        rows = [tuple(row) for row in found["rows"]]
        if case.rows is None:
            return f"read as {found['rows'][:3]}, expected an error"
        if rows == case.rows or case.lost:
            return None
        return f"read as {found['rows'][:3]}, expected {case.rows[:3]}"
    if "error" not in found:
        return str(found)
    if path.name not in found["error"] and not found["error"].startswith(
        "roles: "
    ):  # a role is the command's, and not a file's
        return f"the error does not name the file: {found['error']}"
    if case.rows is None or case.lost or case.error or case.name.startswith("checksum-"):
        return (
            None
            if case.error in found["error"] or case.rows is not None
            else f"expected {case.error!r}: {found['error']}"
        )
    return f"refused, expected its rows: {found['error']}"


def one_of_each(cases: list[tuple[Path, bad_files.Case]]) -> list[tuple[Path, bad_files.Case]]:
    """Of the files whose names differ in numbers only (where a byte was changed), the first."""
    firsts = {}
    for path, case in cases:
        firsts.setdefault(
            (path.parent, re.sub(r"-[\da-f]*\d[\da-f]*", "", path.name)), (path, case)
        )
    return list(firsts.values())


@pytest.mark.parametrize("host", ["duckdb", "polars"])
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.torture)])
def test_every_bad_file_is_read_right_or_named(tmp_path, host, whole):
    cases = bad_files.corpus(tmp_path / "corpus")
    assert len(cases) >= 200
    if not whole:
        cases = one_of_each(cases)
    reader = Reader(host)
    faults = {}
    kinds: Counter[str] = Counter()
    try:
        for path, case in cases:
            found = reader.read(path)
            kinds[next(iter(found))] += 1
            if said := wrong(path, case, found):
                faults[f"{path.parent.name}/{path.name}"] = said
    finally:
        reader.close()
    assert not faults, f"{len(faults)} of {len(cases)}: {json.dumps(faults, indent=1)}"
    assert kinds["rows"] > 50
    assert kinds["error"] > (100 if whole else 50)


if __name__ == "__main__":  # the whole list at once, for who mends
    folder = Path(os.environ.get("CORPUS", "/tmp/corpus"))
    reader = Reader(sys.argv[1])
    for path, case in bad_files.corpus(folder):
        if len(sys.argv) > 2 and sys.argv[2] not in str(path):
            continue
        if said := wrong(path, case, reader.read(path)):
            print(path.relative_to(folder), "--", said[:300])
    reader.close()


def field(node, number):
    return dict(node.value)[number]


def with_tree(data, tree):
    """The file with another footer."""
    (length,) = struct.unpack("<I", data[-8:-4])
    footer = thrift_trees.written(tree)
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def footer_of(data):
    (length,) = struct.unpack("<I", data[-8:-4])
    return thrift_trees.Reading(data[-8 - length : -8]).struct()


def a_page_of_another_size():
    data = bad_files.parquet(compression="none", use_dictionary=False)
    start, end = thrift_trees.page_heads(data)[-1]
    head = thrift_trees.Reading(data[start:end]).struct()
    field(head, 2).value += 1  # bytes of the page, uncompressed
    return data[:start] + thrift_trees.written(head) + data[end:]


def decimals_of_no_digits():
    data = bad_files.parquet(bad_files.table(score=pa.decimal128(10, 2)), compression="none")
    tree = footer_of(data)
    (score,) = (each for each in field(tree, 2).value if field(each, 4).value == b"score")
    field(score, 8).value = 0
    return with_tree(data, tree)


@pytest.mark.parametrize("made", [a_page_of_another_size, decimals_of_no_digits])
def test_what_one_reader_alone_trips_over(made, tmp_path):
    """Arrow reads it, so the error is the engine's, which has many types for that."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(made())
    with pytest.raises(BadInput, match=r"rows.parquet: DuckDB cannot read it"):
        pm.run(pm.Pairs(), path, None, engine="duckdb")


@pytest.mark.parametrize(
    ("number", "value", "said"),
    [(1, 4, "has the type 4, and the schema [^4]"), (5, 10, "has 10 values of 5 rows")],
)
def test_a_column_that_is_not_as_the_schema_says(number, value, said, tmp_path):
    """Arrow ends the process where it is asked about a column of another type."""
    data = bad_files.parquet()
    tree = footer_of(data)
    about = field(field(field(tree, 4).value[0], 1).value[2], 3)
    field(about, number).value = value
    path = tmp_path / "rows.parquet"
    path.write_bytes(with_tree(data, tree))
    with pytest.raises(BadInput, match=rf"rows.parquet: .* {said}"):
        pm.run(pm.Pairs(), path, None)


@pytest.mark.parametrize("counts", [[5], [1, 2, 2]])
def test_levels_that_a_column_does_not_have(counts, tmp_path):
    """Arrow ends the process where a histogram of them has another length."""
    data = bad_files.parquet()
    tree = footer_of(data)
    column = field(field(field(tree, 4).value[0], 1).value[0], 3)
    levels = field(field(column, 16), 3)
    assert len(levels.value) == 2
    levels.value = [thrift_trees.Node(thrift_trees.I64, count) for count in counts]
    path = tmp_path / "rows.parquet"
    path.write_bytes(with_tree(data, tree))
    with pytest.raises(BadInput, match=rf"rows.parquet: .* has {len(counts)} of 2 levels"):
        pm.run(pm.Advantage(), path, None)


@pytest.mark.parametrize(
    "error",
    [
        duckdb.OutOfMemoryException("failed to offload data block"),
        duckdb.InterruptException("Interrupted!"),
        OSError(28, "No space left on device"),
        pl.exceptions.ComputeError("No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_file_is_read_again_where_room_is_short(error, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(bad_files.parquet())
    source = open_source([str(path)], temp_dir=tmp_path)
    monkeypatch.setattr(blame, "fault_of", lambda source: pytest.fail("read again"))
    with pytest.raises(type(error)), blame.blamed_on(source):
        raise error


def test_an_error_of_a_query_is_no_damage_of_the_file_that_it_names(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(bad_files.parquet())
    source = open_source([str(path)], temp_dir=tmp_path)
    query = f"SELECT nosuch FROM read_parquet('{path}')"
    with pytest.raises(duckdb.BinderException), blame.blamed_on(source):
        duckdb.connect().execute(query)
