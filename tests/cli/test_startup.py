"""What a command on a small file does before its work: counted, not timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.duckdb
from prefmill.engines.macros import install_used, macro_texts

ROWS = {
    "csv": "prompt,completion,score\n"
    + "".join(f"p{i // 4},a{i},{i % 4 + 2}\n" for i in range(20)),
    "jsonl": "".join(
        f'{{"prompt":"p{i // 4}","completion":"a{i}","score":{i % 4 + 2}}}\n' for i in range(20)
    ),
}


def run_counting(folder: Path, *arguments: str) -> tuple[str, dict[str, str]]:
    """stderr of the command, and what it left loaded: modules, commands that were made ready,
    macros that were made.
    """
    code = (
        "import os, sys\n"
        "from prefmill import __main__\n"
        "from prefmill.cli.app import app\n"
        "leave = os._exit\n"
        "def tell(code):\n"
        "    loaded = [name for name in ('pandas', 'rich', 'typer.rich_utils', 'datasets', "
        "'torch') if name in sys.modules]\n"
        "    print('LOADED', ','.join(loaded), file=sys.stderr)\n"
        "    print('COMMANDS', len(app.registered_commands), file=sys.stderr)\n"
        "    sys.stderr.flush()\n"
        "    leave(code)\n"
        "os._exit = tell\n"
        "sys.argv = ['prefmill', *sys.argv[1:]]\n"
        "__main__.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    told = dict(
        line.partition(" ")[::2] for line in lines if line.startswith(("LOADED", "COMMANDS"))
    )
    return done.stderr, told


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("command", ["check", "pairs", "best"])
def test_a_command_loads_no_more_than_it_needs(command, kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pl.read_csv(ROWS["csv"].encode()).write_parquet(path)
    else:
        path.write_text(ROWS[kind])
    target = [] if command == "check" else ["-o", "out.parquet"]
    stderr, told = run_counting(tmp_path, command, path.name, *target)
    assert told == {"LOADED": "", "COMMANDS": "1"}
    assert "20" in stderr


def test_version_loads_nothing():
    code = (
        "import sys; sys.argv = ['prefmill', '--version']\n"
        "from prefmill import __main__\n"
        "__main__.main()\n"
        "print([name for name in ('typer', 'rich', 'polars', 'duckdb', 'pyarrow') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"prefmill {pm.__version__}", "[]"]


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        (pm.Pairs(), 22),
        (pm.Unpaired(), 11),
        (pm.BestOf(k=2), 12),
        (pm.Advantage(), 8),
        (pm.Pairs(aggregate="mean"), 22),
    ],
    ids=["pairs", "labels", "best", "advantages", "aggregated"],
)
def test_a_plan_makes_the_macros_that_it_calls(plan, most):
    with duckdb.connect() as con:
        con.execute(
            "CREATE TABLE feedback AS SELECT 'p' AS prompt, 'a' || i AS completion, i AS score "
            "FROM range(5) AS t(i)"
        )
        query = plan.sql("feedback")
        install_used(con, [query])
        made = con.sql(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_name LIKE 'pref%'"
        ).fetchall()
        rows = con.sql(query).fetchall()
    files = {name for name in macro_texts() if (name,) in made}
    assert 0 < len(files) <= most, files
    with duckdb.connect() as con:
        pm.duckdb.install(con)
        con.execute(
            "CREATE TABLE feedback AS SELECT 'p' AS prompt, 'a' || i AS completion, i AS score "
            "FROM range(5) AS t(i)"
        )
        assert con.sql(query).fetchall() == rows


def test_a_column_named_with_control_characters_moves_no_cursor(tmp_path):
    (tmp_path / "rows.csv").write_text(ROWS["csv"].replace("score\n", "sc\x1b[2Jore\n", 1))
    done = subprocess.run(
        [sys.executable, "-m", "prefmill", "check", "rows.csv", "--score", "sc\x1b[2Jore"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "\x1b" not in done.stderr
    assert "score=sc\\x1b[2Jore" in done.stderr
