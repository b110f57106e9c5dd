"""docs/hosts.md runs as it stands, and so does the dbt project under examples/."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from pages import make_targets, run_page

import prefmill.duckdb

ROOT = Path(__file__).parents[2]
DBT = ROOT / "examples" / "dbt"


def test_every_block_of_the_page_of_hosts_runs(folder):
    pytest.importorskip("datasets")
    wrong = run_page(
        (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8"), folder, make_targets()
    )
    assert not wrong, "\n\n".join(wrong).replace("README.md", "docs/hosts.md")


# The dbt project

ORDER = ("pairs", "best", "accounts", "gaps_by_prompt", "labels", "adjacent_pairs")
EGG, PRIME = "How do I boil an egg?", "Name a prime number above 20."


class Dbt:
    """What a Python model is handed, as far as ours use it."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def config(self, **how: Any) -> None:
        assert how == {"materialized": "table"}

    def ref(self, name: str) -> duckdb.DuckDBPyRelation:
        return self.con.table(name)


def run_model(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the table of one model as dbt does: SQL with its refs filled in, or what
    `model(dbt, con)` returns.
    """
    if path.suffix == ".sql":
        text = re.sub(r"\{\{ ref\(\"(\w+)\"\) \}\}", r'"memory"."main"."\1"', path.read_text())
        assert "{{" not in text
        con.execute(f"CREATE TABLE {path.stem} AS {text}")
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.model(Dbt(con), con)
    if isinstance(made, pl.DataFrame):
        con.register("made", made)
        con.execute(f"CREATE TABLE {path.stem} AS FROM made")
        con.unregister("made")
    else:
        made.create(path.stem)


def check_project(con: duckdb.DuckDBPyConnection) -> None:
    """What the project makes of its seed."""
    rows = {name: con.execute(f"FROM {name}").fetchall() for name in ORDER}
    assert sorted(rows["pairs"]) == [
        (
            EGG,
            "Put it in boiling water for seven minutes, then in cold water.",
            "Eggs come from hens.",
            5.0,
            1.0,
        ),
        (PRIME, "23", "21", 5.0, 2.0),
    ]
    assert sorted(rows["gaps_by_prompt"]) == [(EGG, 4.0), (PRIME, 3.0)]
    assert {row[0]: row[2] for row in rows["best"]} == {
        EGG: 5,
        PRIME: 5,
        "What is the capital of Australia?": 5,
        "Who wrote Faust?": 4,
    }
    (account,) = rows["accounts"]
    assert account[:3] == (10, 4, 1)
    assert account[0] == account[1] + account[2] + sum(account[3].values())
    assert [(row[0], row[2]) for row in sorted(rows["labels"]) if not row[2]] == [
        (EGG, False),
        (PRIME, False),
        ("Say something nice.", False),
    ]
    assert sorted(row[3:] for row in rows["adjacent_pairs"]) == [(3.0, 1.0), (5.0, 2.0), (5.0, 3.0)]


def test_the_models_of_the_dbt_project():
    """Without dbt, which wants older versions of what the tests pin: seed and models as dbt would
    make them.
    """
    con = duckdb.connect()
    prefmill.duckdb.install(con, persistent=True)
    con.execute(
        f"CREATE TABLE feedback AS FROM read_csv('{DBT / 'seeds' / 'feedback.csv'}', types = "
        f"{{'score': 'VARCHAR'}})"
    )
    models = {
        path.stem: path for path in (DBT / "models").glob("*") if path.suffix in (".sql", ".py")
    }
    assert set(models) == {*ORDER, "pairs_incremental"}  # test_dbt_incremental.py
    settings = con.execute("SELECT name, value FROM duckdb_settings() ORDER BY name").fetchall()
    for name in ORDER:
        run_model(con.cursor() if models[name].suffix == ".sql" else con, models[name])
    assert (
        con.execute("SELECT name, value FROM duckdb_settings() ORDER BY name").fetchall()
        == settings
    )
    check_project(con)


@pytest.mark.skipif(
    "PREFMILL_DBT" not in os.environ, reason="PREFMILL_DBT names a Python with dbt: make test-dbt"
)
def test_dbt_itself_builds_the_project(tmp_path):
    shutil.copytree(DBT, tmp_path / "dbt")
    env = {
        **os.environ,
        "PREFMILL_DBT_PATH": str(tmp_path / "made.duckdb"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PYTHONPATH": str(ROOT / "src"),
    }
    build = [
        str(Path(os.environ["PREFMILL_DBT"]).absolute()),
        "-c",
        "from dbt.cli.main import cli; cli()",
        "build",
        "--profiles-dir",
        ".",
        "--no-use-colors",
    ]

    def built() -> dict[str, list[tuple[Any, ...]]]:
        done = subprocess.run(
            build, cwd=tmp_path / "dbt", env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ERROR=0" in done.stdout
        names = ("pairs", "pairs_incremental", "pairs_incremental__changed")
        with duckdb.connect(str(tmp_path / "made.duckdb"), read_only=True) as con:
            if not changed:
                check_project(con)
            tables = {name for (name,) in con.execute("SHOW TABLES").fetchall()}
            return {
                name: con.sql(f"FROM {name} ORDER BY ALL").fetchall()
                for name in names
                if name in tables
            }

    changed = False
    tables = built()
    assert tables["pairs"] == tables["pairs_incremental"]
    assert "pairs_incremental__changed" not in tables
    seed = tmp_path / "dbt" / "seeds" / "feedback.csv"
    lines = seed.read_text().replace("23,5,large", "23,1,large").splitlines()  # changed
    lines = [line for line in lines if "Eggs come" not in line]  # gone
    late = "What is the capital of Australia?"
    seed.write_text("\n".join([*lines, f"{late},Sydney,1,small"]) + "\n")  # late
    changed = True
    tables = built()
    assert [row[0] for row in tables["pairs_incremental"]] == [EGG, late]  # the pair of PRIME went
    # Of two answers with one score the models take others, for only one of them sorts its rows.
    assert [row[:1] + row[2:] for row in tables["pairs"]] == [
        row[:1] + row[2:] for row in tables["pairs_incremental"]
    ]
    assert tables["pairs_incremental__changed"] == [(EGG,), (PRIME,), (late,)]
