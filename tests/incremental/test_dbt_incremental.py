"""examples/dbt: the incremental model is the table that a full refresh makes, after any change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prefmill.duckdb

jinja2 = pytest.importorskip("jinja2", reason="comes with torch; dbt has it, too")
DBT = Path(__file__).parents[2] / "examples" / "dbt"
MODEL = "pairs_incremental"


class Relation(str):
    """A table as dbt names it."""

    @property
    def identifier(self) -> str:
        return str(self)

    def incorporate(self, path: dict[str, str]) -> Relation:
        return Relation(path["identifier"])


def run_model(con: duckdb.DuckDBPyConnection, *, incremental: bool) -> None:
    """Make the model as dbt does: its hooks and its query in one transaction."""
    hooks: dict[str, Any] = {}
    words = {
        "ref": Relation,
        "this": Relation(MODEL),
        "is_incremental": lambda: incremental,
        "config": lambda **how: hooks.update(how) or "",
    }
    templates = jinja2.Environment()
    templates.globals.update(words)
    macros = templates.from_string((DBT / "macros" / "incremental.sql").read_text()).module
    templates.globals.update({n: m for n, m in vars(macros).items() if callable(m)})
    query = templates.from_string((DBT / "models" / f"{MODEL}.sql").read_text()).render()
    assert (hooks["materialized"], hooks["incremental_strategy"]) == ("incremental", "append")
    con.execute("BEGIN")
    con.execute(templates.from_string(hooks["pre_hook"]).render() or "SELECT 1")
    made = f"INSERT INTO {MODEL}" if incremental else f"CREATE OR REPLACE TABLE {MODEL} AS"
    con.execute(f"{made} {query}")
    con.execute(templates.from_string(hooks["post_hook"]).render())
    con.execute("COMMIT")


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        prefmill.duckdb.install(con, persistent=True)
        yield con


SCORES = ["1", "2", "4", "5", "bad", None]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "r", "it's", None]),
        st.sampled_from(["a", "b", "", None]),
        st.sampled_from(SCORES),
    )
)


@settings(max_examples=12)
@given(st.lists(ROWS, min_size=2, max_size=4))
def test_the_model_is_that_of_a_full_refresh(
    con: duckdb.DuckDBPyConnection, tables: list[list[tuple[str | None, ...]]]
) -> None:
    for name in ("feedback", MODEL, f"{MODEL}__seen", f"{MODEL}__changed"):
        con.execute(f"DROP TABLE IF EXISTS {name}")
    before: list[tuple[str | None, ...]] = []
    for number, rows in enumerate(tables):
        con.execute(
            "CREATE OR REPLACE TABLE feedback (prompt VARCHAR, completion VARCHAR, score VARCHAR)"
        )
        con.executemany("INSERT INTO feedback VALUES (?, ?, ?)", [*rows, (None, None, None)])
        run_model(con, incremental=number > 0)
        made = con.sql(f"FROM {MODEL} ORDER BY ALL").fetchall()
        if number:
            changed = {row[0] for row in con.sql(f"FROM {MODEL}__changed").fetchall()}
            prompts = {row[0] for row in [*rows, *before] if row[0] is not None}
            assert changed == {
                prompt
                for prompt in prompts
                if sorted(map(str, (row for row in rows if row[0] == prompt)))
                != sorted(map(str, (row for row in before if row[0] == prompt)))
            }
        con.execute(f"CREATE OR REPLACE TABLE kept AS FROM {MODEL}")
        run_model(con, incremental=False)
        assert con.sql(f"FROM {MODEL} ORDER BY ALL").fetchall() == made
        con.execute(f"CREATE OR REPLACE TABLE {MODEL} AS FROM kept")
        before = rows


def test_a_run_that_fails_changes_nothing(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE OR REPLACE TABLE feedback AS SELECT 'p' prompt, 'a' completion, '5' score")
    con.execute("INSERT INTO feedback VALUES ('p', 'b', '1')")
    run_model(con, incremental=False)
    held = [con.sql(f"FROM {name}").fetchall() for name in (MODEL, f"{MODEL}__seen")]
    con.execute("UPDATE feedback SET completion = 'c' WHERE completion = 'b'")
    con.execute(f"ALTER TABLE {MODEL} RENAME COLUMN chosen TO other")
    con.execute(f"ALTER TABLE {MODEL} ADD COLUMN more INTEGER")
    with pytest.raises(duckdb.Error):
        run_model(con, incremental=True)
    con.execute("ROLLBACK")
    con.execute(f"ALTER TABLE {MODEL} DROP COLUMN more")
    con.execute(f"ALTER TABLE {MODEL} RENAME COLUMN other TO chosen")
    assert [con.sql(f"FROM {name}").fetchall() for name in (MODEL, f"{MODEL}__seen")] == held
    run_model(con, incremental=True)
    assert [row[:3] for row in con.sql(f"FROM {MODEL}").fetchall()] == [("p", "a", "c")]
