"""Advantages on the command line, in files, as an expression and as a macro: the field's formulas,
and what is refused.
"""

from __future__ import annotations

import json

import duckdb
import numpy as np
import polars as pl
import pytest
from command import prefmill
from engines import assert_same
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import answer, bag, common
from strategies import problems

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import PrefmillError
from prefmill.rules.advantages import advantage

ROWS = [
    ("p", "a", 1.0, 0.5, "m1"),
    ("q", "x", 2.0, 1.0, "m1"),
    ("p", "b", 3.0, 0.25, "m2"),
    ("p", "c", None, 0.1, "m3"),
]
POOL = pl.DataFrame(
    [*ROWS, ("p", "d", 8.0, 0.25, "m4")],
    schema=["question", "answer", "reward", "pi", "model"],
    orient="row",
)
KINDS = ("centered", "grpo", "rloo", "rank")


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.register("pool", POOL.to_arrow())
        connection.execute(
            "CREATE TABLE named AS SELECT question AS prompt, answer AS completion, reward AS "
            "score, pi FROM pool"
        )
        connection.execute("CREATE TABLE empty AS FROM named LIMIT 0")
        yield connection


rewards = st.lists(
    st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 2)), min_size=2, max_size=9
)


@common
@given(r=rewards)
def test_the_formulas_of_the_field(r):
    """GRPO as TRL has it (sample deviation, 1e-4), RLOO as the mean of the others."""
    frame, x = pl.DataFrame({"g": [1] * len(r), "r": r}), np.array(r)
    found = {
        kind: frame.select(advantage(pl.col("r"), over="g", kind=kind))["r"].to_numpy()
        for kind in KINDS
    }
    others = (x.sum() - x) / (len(x) - 1)
    np.testing.assert_allclose(found["centered"], x - x.mean(), atol=2e-9)
    np.testing.assert_allclose(found["grpo"], (x - x.mean()) / (x.std(ddof=1) + 1e-4), atol=2e-9)
    np.testing.assert_allclose(found["rloo"], x - others, atol=2e-9)
    higher, lower = (x[:, None] > x).sum(axis=1), (x[:, None] < x).sum(axis=1)
    np.testing.assert_allclose(found["rank"], (higher - lower) / (len(x) - 1), atol=2e-9)
    for kind in KINDS:
        assert abs(found[kind].sum()) < 1e-7
        assert (
            np.argsort(np.argsort(found[kind], kind="stable"))
            == np.argsort(np.argsort(x, kind="stable"))
        ).all()


@common
@given(r=rewards, data=st.data())
def test_a_policy_of_equal_weights_is_none(r, data):
    frame = pl.DataFrame({"g": [1] * len(r), "r": r, "w": [0.3] * len(r), "l": [-1234.5] * len(r)})
    for kind in ("centered", "grpo", "rloo"):
        plain, weights, logs = (
            frame.select(advantage(pl.col("r"), over="g", kind=kind, **how))["r"].to_numpy()
            for how in ({}, {"weight": pl.col("w")}, {"logprob": pl.col("l")})
        )
        np.testing.assert_allclose(plain, weights, atol=1.01e-9)
        np.testing.assert_allclose(plain, logs, atol=1.01e-9)


def test_the_expression_leaves_rows_in_place_and_counts_no_bad_one():
    frame = pl.DataFrame(
        {
            "g": ["a", "b", "a", "a", "b"],
            "h": [1, 1, 1, 1, 1],
            "r": [1.0, float("nan"), None, 3.0, 5.0],
        }
    )
    out = frame.lazy().with_columns(a=advantage(pl.col("r"), over=["g", "h"]))
    assert (
        out.collect()["a"].to_list()
        == out.collect(engine="streaming")["a"].to_list()
        == [-1.0, None, None, 1.0, 0.0]
    )
    assert (
        frame.select(advantage(pl.col("r"), over="g", weight=pl.lit(None, pl.Float64)))[
            "r"
        ].to_list()
        == [None] * 5
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "ppo"}, "unknown kind; got 'ppo'"),
        ({"epsilon": 0}, "epsilon must be a finite number > 0"),
        ({"weight": pl.col("w"), "logprob": pl.col("w")}, "one policy is asked for"),
        ({"kind": "rank", "weight": pl.col("w")}, "knows no policy"),
    ],
)
def test_what_the_expression_refuses(arguments, words):
    with pytest.raises(PrefmillError, match=words):
        advantage(pl.col("r"), over="g", **arguments)


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_whole_rows_in_their_order(by, kind, tmp_path):
    POOL.write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "out.parquet"
    done = prefmill(
        "advantages", tmp_path / "pool.parquet", "-o", out, "--kind", kind, "--engine", by
    )
    assert done.returncode == 0, done.stderr
    assert "dropped: null_score" in done.stderr
    found, left = pl.read_parquet(out), POOL.filter(pl.col("reward").is_not_null())
    assert found.drop("advantage").equals(left)
    wanted = left.with_columns(advantage=advantage(pl.col("reward"), over="question", kind=kind))
    assert found.equals(wanted)


def test_a_policy_on_the_command_line(tmp_path):
    POOL.write_parquet(tmp_path / "pool.parquet")
    done = prefmill(
        "advantages", tmp_path / "pool.parquet", "-o", tmp_path / "out.parquet", "--weight", "pi"
    )
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "out.parquet")["advantage"].to_list() == [
        -2.25,
        0.0,
        -0.25,
        4.75,
    ]
    for args, words in (
        (["--weight", "pi", "--logprob", "pi"], "one policy is asked for"),
        (["--kind", "rank", "--weight", "pi"], "knows no policy"),
        (["--kind", "best"], "method is not one of"),
        (["--weight", "model"], "no row could be used"),
        (["--weight", "share"], "no column 'share'"),
    ):
        done = prefmill(
            "advantages",
            tmp_path / "pool.parquet",
            "-o",
            tmp_path / "none.parquet",
            "--overwrite",
            *args,
        )
        assert done.returncode in (1, 2)
        assert words in done.stderr
    done = prefmill("advantages", tmp_path / "out.parquet", "-o", tmp_path / "again.parquet")
    assert done.returncode == 0, done.stderr
    assert "note: the input's column 'advantage' is 'advantage_in' in the output" in done.stderr
    again = pl.read_parquet(tmp_path / "again.parquet")
    assert again.columns[-2:] == ["advantage_in", "advantage"]
    assert again["advantage_in"].to_list() == [-2.25, 0.0, -0.25, 4.75]
    assert again["advantage"].to_list() == [-3.0, 0.0, -1.0, 4.0]


def test_aggregated_scores_stand_beside_the_row_s_own(tmp_path):
    rows = {"prompt": ["p", "p", "p"], "completion": ["a", "b", "a"], "score": [1, 2, 4]}
    pl.DataFrame(rows).write_parquet(tmp_path / "pool.parquet")
    for engine in ("duckdb", "polars"):
        pm.run(
            pm.Advantage(aggregate="max"),
            tmp_path / "pool.parquet",
            tmp_path / "out.parquet",
            engine=engine,
            overwrite=True,
        )
        out = pl.read_parquet(tmp_path / "out.parquet")
        assert out.columns == ["prompt", "completion", "score", "advantage", "aggregated_score"]
        assert out.rows() == [("p", "a", 1, 1.0, 4.0), ("p", "b", 2, -1.0, 2.0)]


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        *((kind, {}) for kind in KINDS),
        *(
            (kind, {role: "pi"})
            for kind in KINDS
            if kind != "rank"
            for role in ("weight", "logprob")
        ),
    ],
)
def test_the_macro_is_the_plan(kind, policy, con):
    plan = pm.Advantage(method=kind)
    names = "".join(f", {role} := {column}" for role, column in policy.items())
    wanted = plan.lazy(POOL, **policy).collect().rows()
    assert con.sql(f"FROM advantages(named, kind := '{kind}'{names})").fetchall() == wanted
    call = (
        f"pool, prompt := question, completion := answer, score := reward, kind := '{kind}'{names}"
    )
    assert con.sql(f"FROM advantages({call})").fetchall() == wanted


@pytest.mark.parametrize("table", ["named", "empty"])
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("kind := 'ppo'", "unknown kind; got ppo, expected centered, grpo, rloo or rank"),
        ("kind := NULL", "unknown kind; got NULL"),
        ("epsilon := 0", "epsilon is no finite number > 0; got 0"),
    ],
)
def test_the_macro_refuses_and_is_never_silently_empty(table, argument, words, con):
    with pytest.raises(duckdb.Error, match=f"prefmill: advantages: {words}"):
        con.sql(f"FROM advantages({table}, {argument})").fetchall()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("weight := pi, logprob := pi", "one policy is asked for"),
        ("weight := pi, kind := 'rank'", "kind rank compares ranks and knows no policy"),
    ],
)
def test_the_macro_refuses_policies(argument, words, con):
    with pytest.raises(duckdb.Error, match=words):
        con.sql(f"FROM advantages(named, {argument})").fetchall()


def test_the_macros_refuse_names_in_quotes(con):
    for macro in ("advantages", "best_of_curve"):
        with pytest.raises(
            duckdb.Error, match=f"prefmill: {macro}: a role is the text 'question' in every row"
        ):
            con.sql(
                f"FROM {macro}(pool, prompt := 'question', completion := answer, score := reward)"
            ).fetchall()


def test_completions_are_in_no_grouping(con):
    """Grouped are prompts, scores and positions; completions are read once, beside the result
    (statistics tell that none is null).
    """

    def scans(node: dict) -> list[str]:
        mine = (
            [str(node["extra_info"].get("Projections"))]
            if node["name"].endswith("SEQ_SCAN")
            else []
        )
        return mine + [scan for child in node["children"] for scan in scans(child)]

    def beside(node: dict) -> list[dict]:
        return (
            node["children"]
            if node["name"] == "POSITIONAL_JOIN"
            else [found for child in node["children"] for found in beside(child)]
        )

    plan = json.loads(
        con.sql("EXPLAIN (FORMAT json) FROM advantages(named, kind := 'grpo')").fetchall()[0][1]
    )
    texts, result = beside(plan[0])
    assert scans(texts) == ["['prompt', 'completion']"]
    assert scans(result)
    assert not [columns for columns in scans(result) if "completion" in columns]


def test_plans_go_round_through_toml(tmp_path):
    from prefmill.plans import read_plan

    plan = pm.Advantage(method="grpo", epsilon=0.5, aggregate="mean", min_votes=2)
    assert read_plan(plan.to_toml()) == plan
    assert pm.Advantage(epsilon=1).hash() != pm.Advantage().hash()
    assert pm.Pairs(chosen_min=4, rejected_below=4).hash() == "65649862704f0053"


@pytest.mark.torture
@common
@given(problem=problems(kinds=(pm.Advantage,)))
def test_equals_the_oracle(rival, problem):
    """`test_property` draws advantages too, among plans of all kinds."""
    assert_same(repr(problem), rival, answer(rival, problem), answer("oracle", problem))


@common
@given(problem=problems(kinds=(pm.Advantage,)), data=st.data())
def test_row_order_is_no_matter(lawful, problem, data):
    """Advantages are of scores; only which row stands for merged ones could differ."""
    assume(problem.plan.aggregate == "none")
    order = data.draw(st.permutations(range(problem.rows)))
    (rows, report), (shuffled, shuffled_report) = (
        answer(lawful, problem),
        answer(lawful, problem, order),
    )
    assert bag(rows) == bag(shuffled)
    assert report == shuffled_report
