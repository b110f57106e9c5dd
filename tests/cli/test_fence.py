"""Our connections open the files that are named and nothing else, `prefmill sql` with them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
from command import prefmill

import prefmill as package
from prefmill.connection import connect

SOURCE = Path(package.__file__).parent
ROWS = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file that is named, a table of data that is not, and a secret."""
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(ROWS).write_parquet("in.parquet")
    pl.DataFrame(ROWS).write_parquet("other.parquet")
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "code.sql").write_text("COPY (SELECT 1) TO 'made.csv'")
    return tmp_path


SHUT = (
    "FROM read_text('secret.txt')",
    "FROM read_blob('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('secret' || '.txt'))",
    "FROM read_parquet('other' || '.parquet')",
    "SET VARIABLE f = 'secret' || '.txt'; FROM read_text(getvariable('f'))",
    "CREATE MACRO m(f) AS TABLE FROM read_text(f); FROM m('secret.txt')",
    "CREATE VIEW v AS FROM read_text('secret.txt'); FROM v",
    "FROM glob('*')",
    "FROM sniff_csv('secret.txt')",
    "FROM parquet_metadata('other' || '.parquet')",
    "COPY (SELECT 1) TO 'made.csv'",
    "COPY (SELECT 1) TO 'in.parquet'",
    "CREATE TABLE t AS SELECT 1; EXPORT DATABASE 'made'",
    "IMPORT DATABASE 'made'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'in.parquet'",
    "PREPARE x AS COPY (SELECT 1) TO 'in.parquet'; EXECUTE x",
    "COPY (PIVOT in_ ON prompt USING count(*)) TO 'in.parquet'",
    "ATTACH 'made.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FROM 'https://127.0.0.1:9/x.parquet'",
    "FROM 's3://bucket/x.parquet'",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['secret.txt']",
    "RESET allowed_paths",
    "PRAGMA enable_profiling = 'json'; PRAGMA profiling_output = 'made.json'; SELECT 1",
    "SET profile_output = 'made.json'",
    "CALL enable_logging(storage = 'file', storage_path = 'made')",
    "CREATE PERSISTENT SECRET (TYPE s3, KEY_ID 'k', SECRET 's')",
)


@pytest.mark.parametrize("query", SHUT)
def test_a_query_reaches_nothing_that_is_not_named(query: str, here: Path) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    done = prefmill("sql", query, "in_=in.parquet", "--json")
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "the secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("FROM in_", 2),
        ("FROM 'in.parquet'", 2),
        ('FROM "in.parquet"', 2),
        ("FROM read_parquet(['in.parquet', './other.parquet'])", 4),
        ("FROM read_parquet('*.parquet')", 4),
        ("FROM preference_pairs('o*.parquet', chosen_min := 4, rejected_below := 4)", 1),
        ("CREATE TABLE t AS FROM in_; INSERT INTO t FROM in_; FROM t", 4),
        ("SET VARIABLE x = 1; SELECT getvariable('x')", 1),
        ("WITH a AS (FROM in_) FROM a ORDER BY random()", 2),
    ],
)
def test_a_query_does_its_work_behind_the_fence(query: str, rows: int, here: Path) -> None:
    done = prefmill("sql", query, "in_=in.parquet", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert len((here / "out.jsonl").read_text().splitlines()) == rows


def test_allow_external_opens_everything(here: Path) -> None:
    query = "COPY (FROM read_text('secret.txt')) TO 'made.jsonl'"
    assert prefmill("sql", query, "--allow-external").returncode == 0
    assert json.loads((here / "made.jsonl").read_text())["content"] == "the secret"


def test_a_file_that_is_not_there_is_named(here: Path) -> None:
    done = prefmill("sql", "FROM 'nothing.csv'")
    assert "nothing.csv: no file matches" in done.stderr


@pytest.mark.parametrize("name", ["a'b.parquet", 'a"b.parquet', "a [x]*?.parquet", "é\n;.parquet"])
def test_files_of_hostile_names_are_inside(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pl.DataFrame(ROWS).write_parquet(path)
    with connect(temp_dir=tmp_path / "home", reads=[str(path)]) as con:
        assert con.execute("SELECT count(*) FROM read_parquet($1)", [[str(path)]]).fetchone() == (
            2,
        )
        with pytest.raises(duckdb.PermissionException):
            con.execute("FROM read_text('/etc/hostname')")


#: Whose connections are not fenced by `connect`.
_OPEN = ("runs/queries/query.py", "runs/incremental/rows.py")


def test_every_connection_of_ours_says_what_it_reads() -> None:
    """Without `reads` a connection would not be fenced; only a query's is, by its own hand, and
    an incremental run reads its earlier state.
    """
    bare = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name == "duckdb.connect" and path.name != "connection.py":
                bare.append(f"{path}:{node.lineno}")
            if name == "connect":
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                fenced = given.get("reads") not in (None, "None")
                if not fenced and path.relative_to(SOURCE).as_posix() not in _OPEN:
                    bare.append(f"{path}:{node.lineno}")
    assert bare == []
