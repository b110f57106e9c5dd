"""Every macro over a table, view, CTE, file, glob and Python frame, with roles by column and by
argument, on every kind of connection.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from duckdb_shell import shell
from sql_pool import CALLS, POOL, RENAMED, call

from prefmill.duckdb import install
from prefmill.engines.macros import macro_texts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("hosts")
    (home / "parts").mkdir()
    for name, table in (("roles", POOL), ("renamed", RENAMED)):
        pq.write_table(table, home / f"{name}.parquet")
        pl.from_arrow(table).write_csv(home / f"{name}.csv")
        pl.from_arrow(table).write_ndjson(home / f"{name}.jsonl")
        for i, start in enumerate((0, 4, 9)):
            pq.write_table(table[start : (4, 9, 99)[i]], home / "parts" / f"{name}-{i}.parquet")
    return home


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.register("arrow_roles", POOL)
        connection.register("arrow_renamed", RENAMED)
        for name in ("roles", "renamed"):
            connection.execute(f"CREATE TABLE {name} AS FROM arrow_{name}")
            connection.execute(f"CREATE VIEW view_{name} AS FROM {name}")
            connection.execute(f'CREATE TABLE "odd. na""me {name}" AS FROM {name}')
        yield connection


@pytest.fixture(scope="module")
def expected(con) -> dict[str, list[tuple]]:
    rows = {macro: con.sql(call(macro, "roles")).fetchall() for macro in CALLS}
    assert all(rows.values())
    return rows


@pytest.mark.parametrize("by_name", [False, True], ids=["columns", "arguments"])
@pytest.mark.parametrize("macro", CALLS)
@pytest.mark.parametrize(
    "host",
    [
        "table",
        "quoted table",
        "view",
        # to query_table of DuckDB 1.5 a quote in a name is the end of the name
        pytest.param("odd name", marks=pytest.mark.newest),
        "parquet",
        "csv",
        "jsonl",
        "glob",
        "arrow",
        "polars",
        "pandas",
        "cte",
        "temp",
    ],
)
def test_every_host(host, macro, by_name, con, expected, folder):
    name = "renamed" if by_name else "roles"
    table = RENAMED if by_name else POOL
    frame = pl.from_arrow(table)  # found by its name in this frame of Python
    data = table.to_pandas() if host == "pandas" else None
    assert frame is not None or data is not None
    query = {
        "table": lambda: call(macro, name, by_name=by_name),
        "quoted table": lambda: call(macro, f"'{name}'", by_name=by_name),
        "view": lambda: call(macro, f"view_{name}", by_name=by_name),
        "odd name": lambda: call(macro, f'\'"odd. na""me {name}"\'', by_name=by_name),
        "parquet": lambda: call(macro, f"'{folder}/{name}.parquet'", by_name=by_name),
        "csv": lambda: call(macro, f"'{folder}/{name}.csv'", by_name=by_name),
        "jsonl": lambda: call(macro, f"'{folder}/{name}.jsonl'", by_name=by_name),
        "glob": lambda: call(macro, f"'{folder}/parts/{name}-*.parquet'", by_name=by_name),
        "arrow": lambda: call(macro, f"arrow_{name}", by_name=by_name),
        "polars": lambda: call(macro, "frame", by_name=by_name),
        "pandas": lambda: call(macro, "data", by_name=by_name),
        "cte": lambda: f"WITH mine AS (FROM {name}) {call(macro, 'mine', by_name=by_name)}",
        "temp": lambda: call(macro, f"temp_{name}", by_name=by_name),
    }[host]()
    if host == "temp":
        con.execute(f"CREATE OR REPLACE TEMP TABLE temp_{name} AS FROM {name}")
    assert con.sql(query).fetchall() == expected[macro]


def test_role_expressions(con):
    roles = "prompt := upper(question), completion := answer || '!', score := -reward"
    rows = con.sql(
        f"FROM rank_candidates(renamed, {roles}) ORDER BY prompt, rank LIMIT 1"
    ).fetchall()
    assert rows == [("P", "bb!", -1.0, 1, 4, 0.0)]
    rows = con.sql(
        "FROM win_rates(renamed, prompt := 1, completion := 1, score := reward, source := model)"
    ).fetchall()
    assert {row[0] for row in rows} == {"m1", "m2", "m3"}


def test_columns_named_like_what_the_macros_use_inside(con):
    con.execute(
        "CREATE OR REPLACE TEMP TABLE inner_names AS SELECT *, 1 AS _pos, 2 AS _grp, 3 AS rank, 4 "
        "AS n, 5 AS k, 6 AS numbered,"
        " 7 AS _s, 8 AS _a, 9 AS _next, 10 AS _id, 11 AS _parent, 12 AS value, 13 AS told FROM "
        "roles"
    )
    for macro in CALLS:
        assert (
            con.sql(call(macro, "inner_names")).fetchall()
            == con.sql(call(macro, "roles")).fetchall()
        )


def test_macros_compose_with_sql(con):
    assert con.sql(
        "WITH ranked AS (FROM rank_candidates(roles)), top AS (FROM ranked WHERE rank = 1) SELECT "
        "count(*), max(n) FROM top"
    ).fetchall() == [(3, 4)]
    con.execute("CREATE OR REPLACE TEMP TABLE wins AS FROM win_rates(roles)")
    assert con.sql("SELECT count(*) FROM wins").fetchall() == [(3,)]


# Persistent macros


def test_persistent_macros_are_there_in_a_cursor_and_another_process(tmp_path, folder):
    path = tmp_path / "lake.duckdb"
    with duckdb.connect(str(path), config={"threads": 2}) as con:
        install(con, persistent=True)
        con.execute(f"CREATE TABLE roles AS FROM '{folder}/roles.parquet'")
        with con.cursor() as cursor:
            here = {macro: cursor.sql(call(macro, "roles")).fetchall() for macro in CALLS}
        install(con, persistent=True)  # again: nothing breaks
    code = (
        "import sys, duckdb\n"
        "assert not any(name.startswith('prefmill') for name in sys.modules)\n"
        "with duckdb.connect(sys.argv[1], read_only=True) as con:\n"
        "    for query in sys.argv[2:]: print(repr(con.sql(query).fetchall()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(path), *(call(macro, "roles") for macro in CALLS)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [repr(rows) for rows in here.values()]


def test_temporary_macros_leave_a_database_as_it_was(tmp_path):
    path = tmp_path / "lake.duckdb"
    with duckdb.connect(str(path)) as con:
        install(con)
        con.execute("CREATE TABLE t (prompt VARCHAR, completion VARCHAR, score DOUBLE)")
        assert con.sql("FROM best_of(t)").fetchall() == []
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.sql(
            "SELECT count(*) FROM duckdb_functions() WHERE function_name = 'best_of'"
        ).fetchall() == [(0,)]


# The shell of DuckDB, with nothing of ours but the files


@pytest.mark.skipif(shell() is None, reason="no duckdb shell: pip install duckdb-cli")
def test_the_duckdb_shell_reads_the_files_and_gives_the_same(folder, con, tmp_path):
    queries = [call(macro, f"'{folder}/roles.parquet'") for macro in CALLS]
    script = [".read sql/prefmill.sql"]
    script += [
        f"COPY ({query}) TO '{tmp_path}/{i}.parquet' (FORMAT parquet);"
        for i, query in enumerate(queries)
    ]
    done = subprocess.run(
        [shell(), "-bail", "-batch"],
        input="\n".join(script),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"PATH": "/nowhere", "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for i, query in enumerate(queries):
        assert (
            duckdb.read_parquet(f"{tmp_path}/{i}.parquet").fetchall() == con.sql(query).fetchall()
        ), query
    done = subprocess.run(
        [shell(), "-bail", "-batch"],
        input=f".read sql/prefmill.sql\nFROM best_of('{folder}/roles.parquet', k := 0);",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode != 0
    assert "prefmill: best_of: k is no whole number >= 1; got 0." in done.stderr


def test_a_process_that_only_reads_the_files_gives_the_same(folder, con):
    """As the shell does it: `.read` lines, nothing else of ours importable."""
    code = (
        "import re, sys, duckdb\n"
        "con = duckdb.connect()\n"
        "def read(path):\n"
        "    for line in open(path, encoding='utf-8').read().split('\\n.read ')[1:]:\n"
        "        con.execute(open(line.split()[0], encoding='utf-8').read())\n"
        "read('sql/prefmill.sql')\n"
        "assert not any(name.startswith('prefmill') for name in sys.modules)\n"
        "for query in sys.argv[1:]: print(repr(con.sql(query).fetchall()))\n"
    )
    queries = [call(macro, f"'{folder}/roles.parquet'") for macro in CALLS]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *queries],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [repr(con.sql(query).fetchall()) for query in queries]


def test_every_public_macro_is_called():
    assert {name for name in macro_texts() if not name.startswith("pref_")} == set(CALLS)


def test_every_file_holds_the_macro_of_its_name():
    for name, text in macro_texts().items():
        assert f"CREATE OR REPLACE MACRO {name}(" in text, name
        assert text.startswith("-- "), name
    loaded = (ROOT / "sql" / "prefmill.sql").read_text()
    assert {f"{path.stem}" for path in (ROOT / "sql").rglob("*.sql")} - {"prefmill"} == set(
        macro_texts()
    )
    assert loaded.count(".read ") - 1 == len(macro_texts())  # the one in the comment
