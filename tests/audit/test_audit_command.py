"""`prefmill audit` as users run it."""

from __future__ import annotations

import json
import random

import polars as pl
import pytest
from command import prefmill


@pytest.fixture
def path(tmp_path):
    draw = random.Random(0)
    rows = [
        {"prompt": f"p{n // 2}", "completion": f"a{n} " * draw.randint(1, 50), "model": f"m{n % 2}"}
        for n in range(120)
    ]
    for row in rows:
        row["score"] = row["person"] = len(row["completion"])
    path = tmp_path / "judged.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_the_table_is_for_people_and_json_for_programs(path):
    done = prefmill("audit", path, "--json", "--source", "model", "--judge-name", "m1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["found"] == ["length"]
    assert told["rows_in"] == told["rows_used"] == 120
    assert told["roles"]["prompt"] == "prompt"
    assert "length           +50.0 points" in done.stderr
    assert "not tested: position" in done.stderr
    assert prefmill("audit", path, "--quiet").stderr == ""


def test_strict_makes_findings_an_exit_code(path):
    assert prefmill("audit", path, "--strict").returncode == 1
    assert prefmill("audit", path, "--strict", "--human", "person").returncode == 0


def test_repeats_and_what_is_not_there(path, tmp_path):
    done = prefmill("audit", path, "--repeat", path, "--repeat", path)
    assert done.returncode == 0, done.stderr
    assert "repeat flips  0.0 %" in done.stderr
    assert "note: repeat 2: 120 rows in, 120 used" in done.stderr
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "x", "completion": "y", "score": 1}\n')
    done = prefmill("audit", path, "--repeat", other)
    assert "no answer of repeat 1 is in the audited file" in done.stderr
    done = prefmill("audit", path, "--human", "nobody")
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert "--human COLUMN" in done.stderr
    assert "Traceback" not in done.stderr
    done = prefmill("audit", path, "--judge-name", "m1")
    assert done.returncode == 2
    assert "--source COLUMN" in done.stderr


def test_malformed_rows_are_set_aside_and_counted(tmp_path):
    path, aside = tmp_path / "judged.jsonl", tmp_path / "bad.jsonl"
    lines = [
        json.dumps({"prompt": f"p{n // 2}", "completion": "a" * (n + 1), "score": n, "person": n})
        for n in range(40)
    ]
    path.write_text("\n".join([*lines[:20], "{broken", *lines[20:]]))
    done = prefmill(
        *("audit", path, "--rejects", aside, "--repeat", path, "--human", "person", "--json")
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_rejected"] == 1
    assert "{broken" in aside.read_text()
    assert "{broken" in (tmp_path / "bad-repeat1.jsonl").read_text()
    assert "40 used, 1 malformed" in done.stderr
