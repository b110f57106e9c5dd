"""Best-of-n curves: equal to enumeration over all subsets, the same on both engines, and what is
refused.
"""

from __future__ import annotations

import json
import math
import random

import duckdb
import numpy as np
import oracle_values as oracle
import polars as pl
import pytest
from command import prefmill
from draws import drawn, pool_of
from hypothesis import given
from hypothesis import strategies as st
from laws import common

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import PrefmillError
from prefmill.rules.curves import order_weights


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


scores = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@common
@given(
    pools=st.lists(st.lists(scores | st.just(1.0), min_size=1, max_size=8), max_size=5),
    k=st.none() | st.integers(1, 9),
)
def test_equals_enumeration_over_all_subsets(con, pools, k):
    pool = pool_of(pools)
    wanted = oracle.curve(pools, k)
    con.register("pool", pool.to_arrow())
    found = {
        "polars": pm.curve(pool, k=k, resamples=0).points.drop("low", "high").rows(),
        "duckdb": con.sql(
            f"SELECT n, prompts, best, median, mean, kl FROM best_of_curve(pool, k := "
            f"{k or 'NULL'})"
        ).fetchall(),
    }
    for engine, points in found.items():
        assert len(points) == len(wanted), engine
        for point, expected in zip(points, wanted, strict=True):
            assert point == pytest.approx(expected, abs=2e-9), engine
    assert found["polars"] == found["duckdb"]


@pytest.mark.parametrize("m", [1, 2, 7, 64, 300])
def test_weights_of_order_statistics_are_exact(m):
    k = min(m, 40)
    best, middle = order_weights(m, k)
    for n in range(1, k + 1):
        wanted = [math.comb(i - 1, n - 1) / math.comb(m, n) for i in range(1, m + 1)]
        np.testing.assert_allclose(best[n - 1], wanted, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(
            middle[n - 1], middle[n - 1][::-1], rtol=1e-9, atol=1e-15
        )  # symmetric about the middle
    np.testing.assert_allclose(best.sum(axis=1), 1)
    np.testing.assert_allclose(middle.sum(axis=1), 1)


@pytest.mark.parametrize("by", [None, "temperature"])
@pytest.mark.parametrize("resamples", [0, 100])
def test_frames_files_and_sql_say_the_same(by, resamples, con, tmp_path):
    pool = drawn(1)
    pool.write_parquet(tmp_path / "pool.parquet")
    con.register("pool", pool.to_arrow())
    found = pm.curve(pool, by=by, resamples=resamples, seed=3)
    files = pm.curve(tmp_path / "pool.parquet", by=by, resamples=resamples, seed=3)
    assert found.points.equals(files.points)
    assert (found.rows_in, found.rows_used, found.dropped) == (
        files.rows_in,
        files.rows_used,
        files.dropped,
    )
    assert found.rows_in == 500 == found.rows_used + sum(found.dropped.values())
    argument = f", by := {by}" if by else ""
    rows = con.sql(
        f"FROM best_of_curve(pool{argument}, resamples := {resamples}, seed := 3)"
    ).fetchall()
    assert [row if by else row[1:] for row in rows] == found.points.rows()
    assert found.points["low"].is_null().all() == (resamples == 0)


def test_row_order_is_no_matter():
    pool = drawn(2)
    points = [
        pm.curve(
            pool.sample(fraction=1, shuffle=True, seed=s), by="temperature", resamples=50
        ).points
        for s in range(3)
    ]
    assert points[0].equals(points[1])
    assert points[0].equals(points[2])


def test_intervals_cover_and_narrow():
    draw = random.Random(5)
    small, large = (
        pool_of([[draw.gauss(0, 1) for _ in range(4)] for _ in range(n)]) for n in (30, 1000)
    )
    narrow, wide = (
        pm.curve(pool, seed=1).points.with_columns(width=pl.col("high") - pl.col("low"))
        for pool in (large, small)
    )
    for points in (narrow, wide):
        assert points.filter(
            (pl.col("low") > pl.col("best")) | (pl.col("high") < pl.col("best"))
        ).is_empty()
    assert (narrow["width"] < wide["width"]).all()
    # The interval of a mean is about 1.96 standard errors to each side: 4 / sqrt(4 * 1000) at n =
    # 1.
    assert narrow["width"][0] == pytest.approx(2 * 1.96 / math.sqrt(4 * 1000), rel=0.2)
    assert not pm.curve(large, seed=2).points["low"].equals(narrow["low"])


def test_a_large_pool_of_one_prompt_stops_at_128():
    pool = pool_of([[float(i) for i in range(1000)]])
    assert pm.curve(pool, resamples=0).points.height == 128
    last = pm.curve(pool, k=1000, resamples=0).points
    assert last.row(-1)[:3] == (1000, 1, 999.0)
    assert last["best"].is_sorted()


def test_no_row_gives_no_point(con):
    empty = drawn(1).clear()
    con.register("empty", empty.to_arrow())
    assert pm.curve(empty).points.is_empty()
    assert con.sql("FROM best_of_curve(empty)").fetchall() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "k is no whole number >= 1; got 0"),
        ({"resamples": -1}, "resamples is no whole number >= 0; got -1"),
        ({"level": 1}, "level is not between 0 and 1; got 1"),
    ],
)
def test_what_is_refused_on_both_engines(arguments, words, con):
    pool = drawn(1)
    con.register("pool", pool.to_arrow())
    with pytest.raises(PrefmillError, match=words):
        pm.curve(pool, **arguments)
    for table in ("pool", "(FROM pool LIMIT 0)"):
        source = "pool" if table == "pool" else "nothing"
        con.execute("CREATE OR REPLACE TEMP TABLE nothing AS FROM pool LIMIT 0")
        with pytest.raises(duckdb.Error, match=f"prefmill: best_of_curve: {words}"):
            con.sql(
                f"FROM best_of_curve({source}, "
                f"{', '.join(f'{name} := {value}' for name, value in arguments.items())})"
            ).fetchall()


def test_columns_that_cannot_be_meant():
    pool = drawn(1)
    with pytest.raises(PrefmillError, match="no column 'heat'"):
        pm.curve(pool, by="heat")
    with pytest.raises(PrefmillError, match="a column of the curve is named 'n' itself"):
        pm.curve(pool.with_columns(n=1), by="n")
    with pytest.raises(PrefmillError, match="no column"):
        pm.curve(pool.drop("score"))


def test_the_command(tmp_path):
    drawn(1).write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "curve.csv"
    done = prefmill(
        "curve",
        tmp_path / "pool.parquet",
        "--by",
        "temperature",
        "-k",
        "2",
        "-o",
        out,
        "--json",
        "--resamples",
        "20",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows_in"] == told["rows_used"] + sum(told["dropped"].values()) == 500
    points = pm.curve(tmp_path / "pool.parquet", by="temperature", k=2, resamples=20).points
    assert told["points"] == points.to_dicts()
    assert pl.read_csv(out).equals(points)
    assert "best of n" in done.stderr
    assert "95 % interval" in done.stderr
    done = prefmill("curve", tmp_path / "pool.parquet", "-o", out)
    assert done.returncode == 2
    assert "belongs to a run with another settings.by" in done.stderr
    done = prefmill("curve", tmp_path / "pool.parquet", "--k", "0")
    assert done.returncode == 2
    drawn(1).with_columns(score=pl.lit(None, pl.Float64)).write_parquet(tmp_path / "none.parquet")
    done = prefmill("curve", tmp_path / "none.parquet")
    assert done.returncode == 1
    assert "no row has a usable score" in done.stderr
