"""Every command with objects in and out says and writes what it does with files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3_serving import KEY_ID, S3, SECRET, without_others

ROWS = pl.DataFrame(
    {
        "prompt": [f"question {n // 4}" for n in range(200)],
        "completion": [f"answer {n * 7 % 31}" for n in range(200)],
        "score": [float(n * 7 % 10) for n in range(200)],
    }
)


def prefmill(*words: str, environ: dict[str, str], folder: Path) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "prefmill", *words],
        env={**without_others(), **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def both(s3: S3, tmp_path: Path) -> S3:
    ROWS.write_parquet(tmp_path / "in.parquet")
    (tmp_path / "more").mkdir()
    ROWS.write_ndjson(tmp_path / "more" / "in.jsonl")
    for name in ("in.parquet", "more/in.jsonl"):
        s3.put(name, (tmp_path / name).read_bytes())
    return s3


COMMANDS = [
    "pairs {}/in.parquet --strategy best_worst -o {}/out/x.parquet",
    "pairs {}/more/*.jsonl --split train=0.8,test=0.2 -o {}/out/x.jsonl",
    "unpair {}/in.parquet --chosen-min 5 --rejected-below 5 -o {}/out/x.csv",
    "best {}/in.parquet -o {}/out/x.parquet",
    "advantages {}/more -o {}/out/x.jsonl",
    "sql 'SELECT prompt, max(score) FROM data GROUP BY 1 ORDER BY 1' data={}/in.parquet"
    " -o {}/out/x.csv",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: text.split()[0])
def test_a_command(both: S3, tmp_path: Path, command: str) -> None:
    import shlex

    local = shlex.split(command.replace("{}", str(tmp_path)))
    away = shlex.split(command.replace("{}", both.url))
    first = prefmill(*local, environ={}, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    second = prefmill(*away, environ=both.environ, folder=tmp_path)
    assert second.returncode == 0, second.stderr
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("out/x*"))
    assert made
    for name in made:
        assert both.get(name) == (tmp_path / name).read_bytes()
    assert "s3:/b" not in second.stderr.replace("s3://b", "")
    assert not (tmp_path / "s3:").exists()
    again = prefmill(*away, environ=both.environ, folder=tmp_path)
    assert again.returncode == 0
    assert "this run was done before: nothing was to do." in again.stderr


def test_check_reads_objects(both: S3, tmp_path: Path) -> None:
    first = prefmill("check", f"{tmp_path}/in.parquet", "--json", environ={}, folder=tmp_path)
    done = prefmill(
        "check", f"{both.url}/in.parquet", "--json", environ=both.environ, folder=tmp_path
    )
    assert done.returncode == first.returncode == 0, done.stderr
    assert '"rows_in": 200' in done.stdout or "200" in done.stdout


def test_rejects_may_be_an_object(both: S3, tmp_path: Path) -> None:
    both.put("bad.jsonl", ROWS.write_ndjson().encode() + b"{broken\n")
    words = ["pairs", f"{both.url}/bad.jsonl", "-o", f"{both.url}/y.parquet"]
    done = prefmill(
        *words, "--rejects", f"{both.url}/rejects.jsonl", environ=both.environ, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert b"{broken" in both.get("rejects.jsonl")


# --- what goes wrong ------------------------------------------------------------------------------


def test_no_credentials(both: S3, tmp_path: Path) -> None:
    environ = {
        name: value
        for name, value in both.environ.items()
        if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    # Where no key is set, the machine's own role is asked for: here by an address without anybody.
    environ["AWS_METADATA_ENDPOINT"] = "http://127.0.0.1:9"
    done = prefmill(
        "pairs", f"{both.url}/in.parquet", "-o", "x.csv", environ=environ, folder=tmp_path
    )
    assert done.returncode == 1
    assert "no credentials" in done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr


def test_the_package_is_missing(both: S3, tmp_path: Path) -> None:
    (tmp_path / "hidden" / "obstore").mkdir(parents=True)
    (tmp_path / "hidden" / "obstore" / "__init__.py").write_text("raise ImportError('none')")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    for words in (
        ["pairs", f"{both.url}/in.parquet", "-o", "x.csv"],
        ["pairs", "in.parquet", "-o", f"{both.url}/out.parquet"],
    ):
        done = prefmill(*words, environ={**both.environ, "PYTHONPATH": path}, folder=tmp_path)
        assert done.returncode != 0
        assert "pip install '.[s3]'" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{}/nothing.parquet", "no such object"),
        ("{}/in.parket", "did you mean"),
        ("{}/*.csv", "no object matches"),
        ("s3://no-bucket-of-ours/x.parquet", "no such bucket"),
    ],
)
def test_what_is_not_there(both: S3, tmp_path: Path, given: str, told: str) -> None:
    done = prefmill(
        "pairs", given.replace("{}", both.url), "-o", "x.csv", environ=both.environ, folder=tmp_path
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert KEY_ID not in done.stderr + done.stdout
