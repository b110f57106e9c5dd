"""Best-of-K in SQL and lazily: the macro is the plan."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb
import polars as pl
import pytest
from best_pool import POOL, best

import prefmill as pm
from prefmill.duckdb import install, report
from prefmill.plans import read_plan


@pytest.fixture
def pool(tmp_path) -> Path:
    POOL.write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def test_plans_go_round_through_toml(pool):
    plan = pm.BestOf(
        k=3,
        pick="median",
        scope="pool",
        min_score=0.5,
        stages="last",
        aggregate="max",
        min_votes=2,
        seed=9,
    )
    assert read_plan(plan.to_toml()) == plan
    assert pm.BestOf.from_toml(pm.BestOf().to_toml()) == pm.BestOf()
    assert pm.BestOf(k=2).hash() != pm.BestOf(k=3).hash()
    (pool.parent / "plan.toml").write_text("[best_of]\nk = 9\npick = 'worst'\n")
    assert best(pool, "--plan", pool.parent / "plan.toml", "-k", "1")["answer"].to_list() == [
        "a",
        "x",
    ]


def test_hashes_of_older_plans_stay():
    assert pm.Pairs(chosen_min=4, rejected_below=4).hash() == "65649862704f0053"
    assert pm.Unpaired(chosen_min=4, rejected_below=3).hash() == "78675cb4bc778af8"


def test_lazy_and_sql_carry_the_stage_where_it_is_mapped():
    plan = pm.BestOf()
    lazy = plan.lazy(POOL, stage="round").collect()
    assert lazy.columns == ["prompt", "completion", "score", "rank", "stage"]
    con = duckdb.connect()
    install(con)
    con.register("pool", POOL.to_arrow())
    roles = {"prompt": "question", "completion": "answer", "score": "reward", "stage": "round"}
    assert (
        con.sql(plan.sql("pool", **roles)).fetchall()
        == lazy.rows()
        == [("p", "b", 3.0, 1, 1), ("q", "y", 2.5, 1, 2)]
    )
    assert report(plan, con, "pool", **roles) == pm.pair_report(POOL, plan)


def test_a_stage_that_is_no_whole_number_is_refused_in_sql():
    con = duckdb.connect()
    install(con)
    con.execute(
        "CREATE TABLE pool AS SELECT 'p' AS prompt, 'a' AS completion, 1 AS score, 1.5 AS stage"
    )
    with pytest.raises(
        duckdb.Error, match="prefmill: a stage is no whole number; got type DECIMAL"
    ):
        con.sql(pm.BestOf(stages="last").sql("pool")).fetchall()


# The macro


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.register("pool", POOL.to_arrow())
        connection.execute(
            "CREATE TABLE named AS SELECT question AS prompt, answer AS completion, reward AS "
            "score FROM pool"
        )
        connection.execute("CREATE TABLE empty AS FROM named LIMIT 0")
        yield connection


@pytest.mark.parametrize(
    ("call", "plan"),
    [
        ("named", {}),
        ("named, k := 2", {"k": 2}),
        ("named, k := 2, pick := 'worst'", {"k": 2, "pick": "worst"}),
        ("named, pick := 'random', seed := 4", {"pick": "random", "seed": 4}),
        ("named, pick := 'median', min_score := 2", {"pick": "median", "min_score": 2}),
        ("named, scope := 'pool', k := 3", {"scope": "pool", "k": 3}),
        (
            "named, scope := 'pool', pick := 'random', k := 3",
            {"scope": "pool", "pick": "random", "k": 3},
        ),
        ("named, k := 200000, scope := 'pool'", {"k": 200000, "scope": "pool"}),
    ],
)
def test_the_macro_is_the_plan(call, plan, con):
    assert (
        con.sql(f"FROM best_of({call})").fetchall() == pm.BestOf(**plan).lazy(POOL).collect().rows()
    )


def test_the_macro_takes_roles_by_name_as_expressions(con):
    rows = con.sql(
        "FROM best_of(pool, prompt := question, completion := answer, score := -reward, k := 2)"
    ).fetchall()
    assert rows == pm.BestOf(k=2).lazy(POOL, score="-reward").collect().rows()
    assert rows[0] == ("p", "a", -1.0, 1)


@pytest.mark.parametrize("table", ["named", "empty"])
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("k := 0", "k is no whole number >= 1; got 0"),
        ("k := NULL", "k is no whole number >= 1; got NULL"),
        ("k := 1.5", "k is no whole number >= 1; got 1.5"),
        ("pick := 'top'", "unknown pick; got top, expected best, median, worst, random, rso or"),
        ("pick := NULL", "unknown pick; got NULL"),
        ("scope := 'group'", "unknown scope; got group, expected prompt or pool"),
        ("beta := 0", "beta is no finite number > 0; got 0"),
        ("beta := -0.5", "beta is no finite number > 0; got -0.5"),
        ("beta := 'nan'::DOUBLE", "beta is no finite number > 0; got nan"),
        ("beta := 'inf'::DOUBLE", "beta is no finite number > 0; got inf"),
        ("beta := NULL", "beta is no finite number > 0; got NULL"),
        (
            "pick := 'rso', scope := 'pool'",
            "pick rso accepts inside a prompt; got scope pool, expected prompt",
        ),
        ("length_control := NULL", "length_control is neither true nor false; got NULL"),
    ],
)
def test_the_macro_refuses_and_is_never_silently_empty(table, argument, words, con):
    with pytest.raises(duckdb.Error, match=f"prefmill: best_of: {words}"):
        con.sql(f"FROM best_of({table}, {argument})").fetchall()


def test_large_pools_take_every_way(con):
    """Heaps, sorted lists and lists with ids give the same picks."""
    many = pl.DataFrame(
        {
            "prompt": ["p"] * 3000,
            "completion": list(map(str, range(3000))),
            "score": [math.sin(i) for i in range(3000)],
        }
    )
    many = many.with_columns(id=pl.int_range(pl.len()))
    con.register("many", many.to_arrow())
    for pick in ("best", "worst"):
        for k in (1, 2, 70, 5000):
            wanted = (
                many.sort("score", descending=pick == "best")
                .head(k)
                .sort("score", descending=True)["completion"]
                .to_list()
            )
            for scope in ("prompt", "pool"):
                for tie in ("position", "id"):
                    plan = pm.BestOf(k=k, pick=pick, scope=scope, tie_break=tie)
                    assert [row[1] for row in con.sql(plan.sql("many")).fetchall()] == wanted, plan
                    assert plan.lazy(many).collect()["completion"].to_list() == wanted, plan
