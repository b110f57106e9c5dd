"""Values of states and actions: equal to linear algebra on random processes, exact on trees, on
both engines; and what is refused.
"""

from __future__ import annotations

from fractions import Fraction

import duckdb
import numpy as np
import oracle_values as oracle
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import common
from processes import ENGINES, SCHEMA, on, process

import prefmill as pm
from prefmill.duckdb import install
from prefmill.plans import Values


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


def dense(
    frame: pl.DataFrame, plan: Values
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """V by a dense solve of (I - gamma P) V = r, and q from it, with nothing but loops."""
    states = {s: i for i, s in enumerate(sorted(set(frame["state"])))}
    pi: dict[tuple[str, str], float] = {}
    for s in states:
        mine = {
            row["action"]: row for row in frame.filter(pl.col("state") == s).iter_rows(named=True)
        }
        raw = {
            "uniform": lambda row: 1.0,
            "given": lambda row: row["policy_probability"],
            "softmax": lambda row: float(np.exp(row["score"] / plan.temperature)),
        }[plan.policy]
        total = sum(raw(row) for row in mine.values())
        pi |= {(s, a): raw(row) / total for a, row in mine.items()}
    p, r = np.zeros((len(states), len(states))), np.zeros(len(states))
    rows = [tuple(row[:5]) for row in frame.rows()]
    for s, a, t, chance, reward in rows:
        r[states[s]] += pi[s, a] * chance * reward
        if t is not None:
            p[states[s], states[t]] += pi[s, a] * chance
    v = np.linalg.solve(np.eye(len(states)) - plan.gamma * p, r)
    q: dict[tuple[str, str], float] = {}
    for s, a, t, chance, reward in rows:
        q[s, a] = q.get((s, a), 0) + chance * (
            reward + plan.gamma * (v[states[t]] if t is not None else 0)
        )
    return dict(zip(states, v, strict=True)), q


@ENGINES
@pytest.mark.parametrize("policy", ["uniform", "given", "softmax"])
@pytest.mark.parametrize(
    ("gamma", "states"), [(0.0, 5), (0.5, 40), (0.9, 40), (0.99, 15), (1.0, 15)]
)
def test_equals_a_dense_solve(on_engine, policy, gamma, states, con):
    for seed in range(3):
        frame = process(seed, states)
        plan = Values(gamma=gamma, policy=policy, temperature=0.7)
        found = on(on_engine, con, frame, plan)
        v, q = dense(frame, plan)
        assert found.height == len(q)
        for row in found.iter_rows(named=True):
            assert row["v"] == pytest.approx(v[row["state"]], abs=1e-9)
            assert row["q"] == pytest.approx(q[row["state"], row["action"]], abs=1e-9)
            assert row["advantage"] == pytest.approx(row["q"] - row["v"], abs=2e-9)
        mean = found.group_by("state").agg((pl.col("policy") * pl.col("advantage")).sum())
        assert mean["policy"].abs().max() < 1e-7  # shown probabilities have 9 decimals


fractions = st.integers(-8, 8).map(lambda n: Fraction(n, 4))


@st.composite
def small_processes(draw: st.DrawFn) -> oracle.Moves:
    """Up to 4 states with up to 3 actions; quarters everywhere, so floats are exact."""
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    moves: oracle.Moves = []
    for s in names:
        for a in ["x", "y", "z"][: draw(st.integers(1, 3))]:
            split = draw(st.sampled_from([[4], [1, 3], [2, 2], [1, 1, 2]]))
            moves += [
                (
                    s,
                    a,
                    draw(st.sampled_from([*names, None, "elsewhere"])),
                    Fraction(p, 4),
                    draw(fractions),
                )
                for p in split
            ]
    return moves


def frame_of(moves: oracle.Moves) -> pl.DataFrame:
    return pl.DataFrame(
        [(s, a, t, float(p), float(r)) for s, a, t, p, r in moves], schema=SCHEMA, orient="row"
    )


@common
@given(
    moves=small_processes(),
    gamma=st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(3, 4)]),
    optimal=st.booleans(),
    data=st.data(),
)
def test_equals_exact_elimination(con, moves, gamma, optimal, data):
    actions: dict[str, set[str]] = {}
    for s, a, *_ in moves:
        actions.setdefault(s, set()).add(a)
    uniform = {(s, a): Fraction(1, len(names)) for s, names in actions.items() for a in names}
    v = oracle.best(moves, gamma) if optimal else oracle.expected(moves, uniform, gamma)
    q = oracle.action_values(moves, v, gamma)
    plan = Values(gamma=float(gamma), policy="optimal" if optimal else "uniform")
    frame = frame_of(moves)
    found = {engine: on(engine, con, frame, plan) for engine in ("polars", "duckdb")}
    for engine, rows in found.items():
        assert rows.select("state", "action").rows() == sorted(q), engine
        for row in rows.iter_rows(named=True):
            where = (engine, row)
            assert row["v"] == pytest.approx(float(v[row["state"]]), abs=2e-9), where
            assert row["q"] == pytest.approx(float(q[row["state"], row["action"]]), abs=2e-9), where
    order = data.draw(st.permutations(range(len(moves))))
    for engine, rows in found.items():
        again = on(engine, con, frame[order], plan)
        np.testing.assert_allclose(
            again["q"].to_numpy(), rows["q"].to_numpy(), rtol=0, atol=1.01e-9
        )
        assert again.drop("q", "v", "advantage").equals(rows.drop("q", "v", "advantage"))


@common
@given(data=st.data(), gamma=st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]))
def test_trees_are_exact(con, data, gamma):
    n = data.draw(st.integers(1, 12))
    parents: dict[int, int | None] = {
        i: data.draw(st.none() | st.integers(0, i - 1)) if i else None for i in range(n)
    }
    rewards = {i: data.draw(fractions) for i in range(n)}
    wins = {i: data.draw(st.sampled_from([True, False, None])) for i in range(n)}
    rows = [
        (i, parents[i], float(rewards[i]), wins[i]) for i in data.draw(st.permutations(range(n)))
    ]
    tree = pl.DataFrame(
        rows,
        schema={"id": pl.Int64, "parent_id": pl.Int64, "reward": pl.Float64, "success": pl.Boolean},
        orient="row",
    )
    wanted = oracle.tree(parents, rewards, gamma)
    shares = oracle.rollouts(parents, wins)
    con.register("tree", tree.to_arrow())
    for engine in ("polars", "duckdb"):
        found = on(
            engine, con, tree, Values(gamma=float(gamma)), parent_id="parent_id", reward="reward"
        )
        assert found["id"].to_list() == sorted(parents)
        for row in found.iter_rows(named=True):
            q, v = wanted[row["id"]]
            assert (row["q"], row["v"]) == (
                pytest.approx(float(q), abs=1e-9),
                pytest.approx(float(v), abs=1e-9),
            )
            up = parents[row["id"]]
            assert row["advantage"] == (
                None if up is None else pytest.approx(float(q - wanted[up][1]), abs=2e-9)
            )
        steps = (
            pm.step_values(tree)
            if engine == "polars"
            else con.sql("FROM step_values(tree, id, parent_id, success := success)").pl()
        )
        assert {row[0]: (row[2], row[3]) for row in steps.rows()} == shares
        for row in steps.iter_rows(named=True):
            assert row["value"] == (
                pytest.approx(row["successes"] / row["rollouts"], abs=1e-9)
                if row["rollouts"]
                else None
            )


def test_optimal_values_of_a_corridor(con):
    """Walk left for 1 now, or right three times for 10: which is better depends on gamma."""
    rows = [
        (i, a, t, 1.0, r)
        for i in range(3)
        for a, t, r in (
            ("left", None, 1.0),
            ("right", i + 1 if i < 2 else None, 10.0 if i == 2 else 0.0),
        )
    ]
    frame = pl.DataFrame(
        rows, schema=["state", "action", "next_state", "probability", "reward"], orient="row"
    )
    for engine in ("polars", "duckdb"):
        patient = on(engine, con, frame, Values(gamma=0.9, policy="optimal"))
        assert patient.filter(pl.col("action") == "right")["v"].to_list() == pytest.approx(
            [8.1, 9, 10]
        )
        hasty = on(engine, con, frame, Values(gamma=0.1, policy="optimal"))
        assert hasty["v"].to_list() == pytest.approx([1, 1, 1, 1, 10, 10])
        assert patient["policy"].is_null().all()


def test_deep_chains_and_many_leaves():
    n = 3000
    chain = pl.DataFrame(
        {"id": range(n), "parent_id": [None, *range(n - 1)], "reward": [0.0] * (n - 1) + [1.0]}
    )
    found = pm.values(chain.sample(fraction=1, shuffle=True, seed=1))
    assert found["q"].to_list() == [1.0] * n
    star = pl.DataFrame(
        {
            "id": range(n),
            "parent_id": [None] + [0] * (n - 1),
            "reward": [float(i) for i in range(n)],
        }
    )
    assert pm.values(star)["v"][0] == n / 2


@ENGINES
def test_gamma_1_on_a_cycle_that_ends_converges(on_engine, con):
    rows = [("a", "x", "a", 0.5, 1.0), ("a", "x", None, 0.5, 0.0)]
    found = on(on_engine, con, pl.DataFrame(rows, schema=SCHEMA, orient="row"), Values())
    assert found["v"].to_list() == [1.0]
