"""`prefmill sql`: one query, a file of statements, a pipe; what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
from command import prefmill

POOL = pl.DataFrame(
    {
        "prompt": ["p", "p", "q", "q"],
        "completion": ["a", "bb", "c", "dd"],
        "score": [1.0, 2.0, 4.0, 3.0],
        "source": ["m1", "m2", "m1", "m2"],
    }
)


@pytest.fixture
def pool(tmp_path) -> Path:
    POOL.write_parquet(tmp_path / "scored.parquet")
    return tmp_path / "scored.parquet"


def test_a_table_of_a_named_file(pool):
    done = prefmill("sql", "FROM best_of(pool, k := 1)", f"pool={pool}")
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.split() for line in done.stdout.replace("│", " ").splitlines()]
    assert ["prompt", "completion", "score", "rank"] in words
    assert ["p", "bb", "2.0", "1"] in words
    assert ["q", "c", "4.0", "1"] in words


def test_the_macros_are_one_script_for_any_folder(pool, monkeypatch):
    done = prefmill("sql", "--macros")
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.chdir(pool.parent)
    with duckdb.connect() as con:
        con.execute(done.stdout)
        best = con.sql("SELECT completion FROM best_of('scored.parquet', k := 1) ORDER BY ALL")
        assert best.fetchall() == [("bb",), ("c",)]


@pytest.mark.parametrize("form", ["FROM scored", "FROM '{}'", "FROM read_parquet('{}')"])
def test_the_stem_is_a_view_and_the_query_may_name_files(form, pool):
    done = prefmill("sql", form.format(pool), pool, "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == POOL.to_dicts()


def test_every_format_comes_out_of_every_format(pool):
    sources = {
        "a.csv": pl.DataFrame.write_csv,
        "b.jsonl": pl.DataFrame.write_ndjson,
        "c.parquet": pl.DataFrame.write_parquet,
    }
    for name, write in sources.items():
        write(POOL, pool.parent / name)
        for ending in ("parquet", "jsonl", "csv", "tsv"):
            out = pool.parent / f"{name}-out.{ending}"
            done = prefmill(
                "sql", f"FROM {name[0]} ORDER BY ALL -- all of it", pool.parent / name, "-o", out
            )
            assert done.returncode == 0, done.stderr
            assert f"wrote {out} (4 rows)" in done.stderr
            read = {
                "parquet": pl.read_parquet,
                "jsonl": pl.read_ndjson,
                "csv": pl.read_csv,
                "tsv": lambda p: pl.read_csv(p, separator="\t"),
            }
            assert read[ending](out).equals(POOL), (name, ending)
    assert not list(pool.parent.glob(".*partial"))


def test_numbers_of_a_csv_are_numbers_and_codes_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c,d,e,f\n1,1.5,007,x,,1e3\n-2,,010,2,,nan\n")
    done = prefmill("sql", "SELECT column_type FROM (DESCRIBE t)", tmp_path / "t.csv", "--json")
    assert [json.loads(line)["column_type"] for line in done.stdout.splitlines()] == [
        "BIGINT",
        "DOUBLE",
        "VARCHAR",
        "VARCHAR",
        "VARCHAR",
        "VARCHAR",
    ]


def test_encodings_globs_and_folders(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "1.csv").write_bytes("prompt,completion,score\nü,a,1\n".encode("latin-1"))
    (tmp_path / "day" / "2.csv").write_bytes("prompt,completion,score\nü,b,2\n".encode("latin-1"))
    for name, given in (("day", tmp_path / "day"), ("many", f"many={tmp_path}/day/*.csv")):
        done = prefmill("sql", f"FROM best_of({name})", given, "--encoding", "latin-1", "--json")
        assert json.loads(done.stdout) == {
            "prompt": "ü",
            "completion": "b",
            "score": 2.0,
            "rank": 1,
        }, done.stderr
    done = prefmill("sql", "FROM day", tmp_path / "day")
    assert done.returncode == 1
    assert "latin" in done.stderr.lower() or "utf-8" in done.stderr.lower()


def test_statements_of_a_pipe_or_a_file(pool):
    text = "SELECT 1 AS a;\n\nSELECT ';' -- ;\n AS b\n;\n"
    text += "CREATE TABLE t AS FROM pool; SELECT count(*) AS n FROM t"
    done = prefmill("sql", "-", f"pool={pool}", "--json", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['{"a":1}', '{"b":";"}', '{"n":4}']
    (pool.parent / "questions.sql").write_text(text)
    same = prefmill("sql", pool.parent / "questions.sql", f"pool={pool}", "--json")
    assert (same.returncode, same.stdout) == (0, done.stdout)
    done = prefmill("sql", "-", pool, stdin=b"SELECT nope;\nSELECT 2;\n")
    assert (done.returncode, done.stdout) == (2, "")
    out = pool.parent / "o.jsonl"
    assert prefmill("sql", "-", pool, "-o", out, stdin=b"SELECT 1 AS a;").returncode == 0
    assert out.read_text() == '{"a":1}\n'


def test_a_file_of_data_is_not_a_query(pool):
    for first in (pool, f"pool={pool}", "pool=missing.parquet"):
        done = prefmill("sql", first, stdin=b"SELECT 1;")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the first argument is a query" in done.stderr
        assert "prefmill sql --macros > prefmill.sql" in done.stderr
    done = prefmill("sql")
    assert done.returncode == 2
    assert "QUERY" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (
            ["FROM best_of(scored, k := 0)"],
            2,
            "prefmill: best_of: k is no whole number >= 1; got 0.",
        ),
        (["FROM best_of(scord)"], 2, "scord"),
        (["SELECT scor FROM scored"], 2, 'Hint: did you mean "score"'),
        (["FORM scored"], 2, 'syntax error at or near "FORM"'),
        (["FROM 'nothing.parquet'"], 1, "no file matches"),
        (["SELECT 'x'::INT FROM scored"], 1, "Could not convert string 'x'"),
        (["FROM scored", "-o", "x.docx"], 2, "expected an ending of .parquet"),
        (["FROM scored", "-o", "x.csv", "--json"], 2, "two places"),
        (
            ["CREATE TABLE t AS FROM scored", "-o", "x.csv"],
            2,
            "the last statement has to be a query",
        ),
        (["FROM scored", "--memory-limit", "1MB"], 2, "at least 500MB"),
    ],
)
def test_errors_are_one_line_and_a_hint(args, code, words, pool):
    done = prefmill("sql", args[0], pool, *args[1:], cwd=pool.parent)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in pool.parent.iterdir()) == ["scored.parquet"]


def test_missing_files_and_names_that_meet(pool):
    done = prefmill("sql", "FROM x", "x=missing.parquet", cwd=pool.parent)
    assert done.returncode in (1, 2)
    assert "missing.parquet" in done.stderr
    done = prefmill("sql", "FROM scored", pool, f"scored={pool}")
    assert done.returncode == 2
    assert "two files would be the view 'scored'" in done.stderr
    done = prefmill("sql", "FROM x", f"{pool.parent}/*.parquet")
    assert done.returncode == 2
    assert "no name for a view" in done.stderr


def test_an_output_is_replaced_only_when_asked(pool):
    out = pool.parent / "out.csv"
    out.write_text("mine")
    done = prefmill("sql", "FROM scored", pool, "-o", out)
    assert done.returncode == 2
    assert out.read_text() == "mine"
    done = prefmill(
        "sql", "SELECT 1 / 0 AS a, error('prefmill: no') AS b", "-o", out, "--overwrite"
    )
    assert done.returncode == 2
    assert out.read_text() == "mine"
    assert prefmill("sql", "FROM scored", pool, "-o", out, "--overwrite").returncode == 0
    assert len(out.read_text().splitlines()) == 5


def test_limits_reach_the_engine(pool, tmp_path):
    query = (
        "SELECT current_setting('threads') AS t, current_setting('memory_limit') AS m, "
        "current_setting('temp_directory') AS d"
    )
    (tmp_path / "spill").mkdir()
    done = prefmill(
        "sql",
        query,
        "--json",
        "--threads",
        "1",
        "--memory-limit",
        "1GB",
        "--temp-dir",
        tmp_path / "spill",
    )
    row = json.loads(done.stdout)
    assert row["t"] == 1
    assert row["m"].endswith("MiB")
    assert row["d"].startswith(str(tmp_path / "spill"))
    assert not list((tmp_path / "spill").iterdir())
