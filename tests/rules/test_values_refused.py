"""Processes, trees and plans of values that cannot be; the commands."""

from __future__ import annotations

import json

import duckdb
import polars as pl
import pytest
from command import prefmill
from processes import ENGINES, SCHEMA, on, process

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import PrefmillError
from prefmill.plans import Values


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


LOOP = pl.DataFrame(
    [("a", "x", "b", 1.0, 1.0), ("b", "x", "a", 1.0, 0.0)], schema=SCHEMA, orient="row"
)

GIVEN = {"gamma": 0.5, "policy": "given"}


@ENGINES
@pytest.mark.parametrize(
    ("change", "plan", "words"),
    [
        (
            {},
            {},
            "gamma 1 does not converge: after 10000 sweeps the value of state [ab] still moves",
        ),
        (
            {"probability": [0.5, 1.0]},
            {"gamma": 0.5},
            "transition probabilities of state a, action x sum to 0.5, expected 1",
        ),
        (
            {"probability": [1.5, -0.5]},
            {"gamma": 0.5},
            "a transition probability is no number >= 0; got -0.5 in state b, action x",
        ),
        (
            {"reward": [0.0, float("nan")]},
            {"gamma": 0.5},
            "a reward is no finite number; got (?i:nan) in state b, action x",
        ),
        ({"state": [None, "b"]}, {"gamma": 0.5}, "a state or an action is null"),
        (
            {"policy_probability": [1.0, 0.7]},
            GIVEN,
            "the policy's probabilities of state b sum to 0.7, expected 1",
        ),
        (
            {"policy_probability": [1.0, None]},
            GIVEN,
            "policy given needs a number for every action; got NULL in state b",
        ),
    ],
)
def test_what_processes_cannot_be(on_engine, change, plan, words, con):
    frame = LOOP.with_columns(**{name: pl.Series(values) for name, values in change.items()})
    with pytest.raises(PrefmillError, match=words):
        on(on_engine, con, frame, Values(**plan))


@ENGINES
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, None), (2, 9)], "the parent of 2 is not there; got parent 9"),
        ([(1, None), (1, None)], "the id 1 is there 2 times"),
        ([(1, None), (2, 3), (3, 2), (4, 3)], "the parents of 2 run in a circle"),
        ([(1, 1)], "the parents of 1 run in a circle"),
        ([(None, 1), (1, None)], "an id is null; got the parent 1 beside it"),
    ],
)
def test_what_trees_cannot_be(on_engine, rows, words, con):
    tree = pl.DataFrame(rows, schema={"id": pl.Int64, "parent_id": pl.Int64}, orient="row")
    with pytest.raises(PrefmillError, match=words):
        on(on_engine, con, tree, Values(), parent_id="parent_id")
    if on_engine == "files":  # steps have no run of their own
        return
    con.register("tree", tree.to_arrow())
    steps = {
        "polars": lambda: pm.step_values(tree.with_columns(success=True)),
        "duckdb": lambda: con.sql(
            "FROM step_values(tree, id, parent_id, success := true)"
        ).fetchall(),
    }
    with pytest.raises((PrefmillError, duckdb.Error), match=words):
        steps[on_engine]()


def test_what_plans_cannot_be(con):
    with pytest.raises(PrefmillError) as caught:
        Values(gamma=-0.5, policy="best", temperature=0, tolerance=0, max_sweeps=0)
    assert len(str(caught.value).splitlines()) == 5
    con.register("loop", LOOP.to_arrow())
    for argument, words in (
        ("gamma := -0.5", "gamma must be a number in 0..1; got -0.5"),
        ("gamma := 1.5", "gamma must be a number in 0..1; got 1.5"),
        ("gamma := NULL", "gamma must be a number in 0..1; got NULL"),
        ("policy := 'best'", r"policy is not one of \(.*\); got 'best'"),
        ("temperature := 0", "temperature must be a finite number > 0; got 0"),
    ):
        for source in ("loop", "nothing"):
            con.execute("CREATE OR REPLACE TEMP TABLE nothing AS FROM loop LIMIT 0")
            with pytest.raises(duckdb.Error, match=f"prefmill: state_values: {words}"):
                con.sql(f"FROM state_values({source}, {argument})").fetchall()
    with pytest.raises(PrefmillError, match="no column 'policy_probability'"):
        pm.values(LOOP, Values(policy="given"))
    with pytest.raises(PrefmillError, match="no column"):
        pm.values(LOOP.drop("state"))


def test_plans_go_round_through_toml():
    plan = Values(gamma=0.9, policy="softmax", temperature=2, max_sweeps=7)
    assert Values.from_toml(plan.to_toml()) == plan
    assert plan.hash() != Values().hash()
    assert Values(gamma=1).hash() == Values(gamma=1.0).hash()


def test_stepwise_rows_are_trl_s():
    tree = pl.DataFrame(
        [
            (1, None, "2+2?", None),
            (2, 1, "add", None),
            (3, 1, "guess", None),
            (4, 2, "4", True),
            (5, 2, "5", False),
            (6, 3, "7", False),
            (7, None, "alone", True),
        ],
        schema=["id", "parent_id", "text", "success"],
        orient="row",
    )
    rows = pm.stepwise(tree)
    assert rows.schema == {
        "prompt": pl.String,
        "completions": pl.List(pl.String),
        "labels": pl.List(pl.Boolean),
    }
    assert rows.rows() == [
        ("2+2?", ["add", "4"], [True, True]),
        ("2+2?", ["add", "5"], [True, False]),
        ("2+2?", ["guess", "7"], [False, False]),
    ]
    assert pm.stepwise(tree, threshold=0.6)["labels"].to_list() == [
        [False, True],
        [False, False],
        [False, False],
    ]
    assert pm.stepwise(tree, threshold=0.6, labels="hard")["labels"].to_list()[0] == [True, True]
    numbers = tree.with_columns(success=pl.Series([None, None, None, 0.9, 0.2, 0.1, 1.0]))
    assert pm.stepwise(numbers, success_min=0.5).equals(rows)
    for wrong in ({"labels": "medium"}, {"threshold": 0}, {"success": "won"}):
        with pytest.raises(PrefmillError):
            pm.stepwise(tree, **wrong)


def test_the_commands(tmp_path):
    process(1, 5).write_parquet(tmp_path / "process.parquet")
    out = tmp_path / "values.parquet"
    done = prefmill(
        "values",
        tmp_path / "process.parquet",
        "-o",
        out,
        "--gamma",
        "0.9",
        "--policy",
        "softmax",
        "--temperature",
        "2",
    )
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(out).equals(
        pm.values(process(1, 5), Values(gamma=0.9, policy="softmax", temperature=2))
    )
    assert "values of 15 actions of 5 states" in done.stderr
    assert f"wrote {out}" in done.stderr
    (tmp_path / "tree.csv").write_text("node,up,r,text,won\n1,,0,q,\n2,1,1,a,1\n3,1,0,b,0\n")
    done = prefmill(
        "values",
        tmp_path / "tree.csv",
        "-o",
        "-",
        "--id",
        "node",
        "--parent-id",
        "up",
        "--reward",
        "r",
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["q"] for line in done.stdout.splitlines()] == [0.5, 1.0, 0.0]
    done = prefmill(
        "steps",
        tmp_path / "tree.csv",
        "-o",
        tmp_path / "steps.jsonl",
        "--id",
        "node",
        "--parent-id",
        "up",
        "--success",
        "won",
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert rows == [
        {"prompt": "q", "completions": ["a"], "labels": [True]},
        {"prompt": "q", "completions": ["b"], "labels": [False]},
    ]
    for args, code, words in (
        (
            ["values", tmp_path / "process.parquet", "--gamma", "2"],
            2,
            "gamma must be a number in 0..1; got 2.0",
        ),
        (["values", tmp_path / "process.parquet", "--policy", "best"], 2, "policy is not one of"),
        (["values", tmp_path / "tree.csv"], 2, "no column 'state'"),
        (
            ["steps", tmp_path / "tree.csv", "--id", "r", "--parent-id", "up", "--success", "won"],
            1,
            "the id 0 is there 2 times",
        ),
    ):
        done = prefmill(*args, "-o", tmp_path / "none.parquet")
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "none.parquet").exists()
