"""What a cap draws of a prompt with very many answers is what it draws where all pairs are made."""

from __future__ import annotations

import itertools

import duckdb
import numpy as np
import polars as pl
import pytest
from hot import at_most
from hypothesis import given, settings
from hypothesis import strategies as st

import prefmill as pm
import prefmill.duckdb
from prefmill.engines.sql import value
from prefmill.rules import draws
from prefmill.rules.draws import Stands, drawn_pairs
from prefmill.table.chance import mix32_array

NONE = {"chosen_min": None, "rejected_below": None}


def by_definition(word, scores, stands, cap):
    """Every pair that stands, in the order of the draw."""
    count = len(scores)

    def mix(number):
        return int(mix32_array(np.array([number], dtype=np.uint64))[0])

    found = []
    for r, c in itertools.combinations(range(1, count + 1), 2):
        high, low = scores[c - 1], scores[r - 1]
        rules = [high > low, high - low >= stands.min_margin]
        rules.append(stands.chosen_min is None or high >= stands.chosen_min)
        rules.append(stands.rejected_below is None or low < stands.rejected_below)
        rules.append(stands.top_k is None or c > count - stands.top_k)
        rules.append(stands.bottom_k is None or r <= stands.bottom_k)
        if all(rules):
            found.append((mix(mix((word & 0xFFFFFFFF) ^ c) ^ r), c, r))
    return [(c, r) for _, c, r in sorted(found)[:cap]]


@pytest.fixture(scope="module")
def con():
    made = duckdb.connect(config={"threads": 2})
    prefmill.duckdb.install(made)
    return made


maybe = st.none() | st.integers(1, 5)
some_scores = st.lists(st.sampled_from([0.1, 0.2, 0.3, 1, 2, 3, 4, 5]), max_size=12).map(sorted)
some_stands = st.builds(
    Stands,
    maybe,
    maybe,
    st.sampled_from([0, 0.1, 0.2, 1.0]),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 4),
)


@given(
    word=st.integers(0, 2**64 - 1), scores=some_scores, stands=some_stands, cap=st.integers(1, 9)
)
def test_the_drawn_pairs_are_the_first_of_all(word, scores, stands, cap):
    chosen, rejected = drawn_pairs(word, np.array(scores, dtype=np.float64), stands, cap)
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert pairs == by_definition(word, scores, stands, cap)


@settings(max_examples=15)
@given(
    groups=st.lists(some_scores.filter(bool), min_size=1, max_size=3),
    stands=some_stands,
    cap=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_the_macro_draws_the_first_of_all(con, groups, stands, cap, seed):
    words = [con.sql(f"SELECT pref_hash('p{n}', {seed})").fetchall()[0][0] for n in range(3)]
    made = []
    for number, scores in enumerate(groups):
        keys = ", ".join(f"pref_key({score}::DOUBLE, {at})" for at, score in enumerate(scores))
        made.append(
            f"SELECT {number}::BIGINT AS _first, 'p{number}' AS _grp, {len(scores)}::BIGINT AS _n,"
            f" [{keys}] AS _ranks, {value(stands.chosen_min)}::DOUBLE AS _chosen_min,"
            f" {value(stands.rejected_below)}::DOUBLE AS _rejected_below"
        )
    con.execute(f"CREATE OR REPLACE TEMP TABLE groups AS {' UNION ALL '.join(made)}")
    args = {"min_margin": stands.min_margin, "top_k": stands.top_k, "bottom_k": stands.bottom_k}
    told = ", ".join(f"{name} := {value(number)}" for name, number in args.items())
    drawn = con.sql(
        "SELECT _first, _c, _r, _chosen, _rejected, _chosen_score, _rejected_score"
        f" FROM pref_drawn('groups', {cap}, {told}, seed := {seed})"
    ).fetchall()
    want = [
        (number, c, r, c - 1, r - 1, scores[c - 1], scores[r - 1])
        for number, scores in enumerate(groups)
        for c, r in by_definition(words[number], scores, stands, cap)
    ]
    assert sorted(drawn) == sorted(want)


@pytest.mark.parametrize(
    ("strategy", "answers", "cap"), [("all", 700, 3), ("all", 60_000, 5), ("threshold", 5_000, 40)]
)
def test_the_macro_and_the_rule_draw_the_same(strategy, answers, cap, con):
    """Both ways of the macro: few answers are all looked at, many are counted up."""
    score = (pl.int_range(answers, eager=True) * 7919 % 1013).cast(pl.Float64)
    rows = pl.DataFrame({"prompt": "p", "completion": score.cum_count(), "score": score})
    plan = pm.Pairs(
        strategy=strategy,
        max_pairs_per_prompt=cap,
        chosen_min=1000,
        rejected_below=900,
        min_margin=0.5,
        seed=4,
    )
    con.register("rows", rows.with_columns(pl.col("completion").cast(pl.String)).to_arrow())
    want = plan.lazy(rows.lazy().cast({"completion": pl.String})).collect().rows()
    assert con.sql(plan.sql("rows")).fetchall() == want


@pytest.mark.parametrize("some", [[0.2, 0.3], [0.1, 0.2, 0.2 + 1e-16, 0.3, 0.30000000000000004]])
def test_pairs_that_rounding_parts_are_not_looked_for(con, some):
    """0.3 - 0.2 is below 0.1: counted as standing, such pairs left too few of the others."""
    scores = [*sorted(some * (4_000 // len(some))), 0.9]
    rows = pl.DataFrame({"prompt": "p", "completion": map(str, range(len(scores)))})
    rows = rows.with_columns(score=pl.Series(scores))
    plan = pm.Pairs(strategy="all", max_pairs_per_prompt=10, min_margin=0.1, **NONE)
    con.register("parted", rows.to_arrow())
    want = plan.lazy(rows.lazy()).collect().rows()
    assert len(want) == 10
    assert con.sql(plan.sql("parted")).fetchall() == want


@pytest.mark.parametrize("stands", [Stands(None, None, 0, None, None), Stands(3, 4, 1, None, 900)])
def test_both_ways_draw_the_same(stands):
    scores = np.sort(np.random.default_rng(5).integers(1, 6, 9_000).astype(np.float64))
    rivals = stands.rivals(scores)
    (places,) = np.nonzero(rivals)
    starts = mix32_array((places + 1 ^ 12345).astype(np.uint64))
    counted = draws._counting_up(places + 1, starts, rivals[places], 3)
    looked_at = draws._of_all(places + 1, starts, rivals[places], 3)
    assert [each.tolist() for each in counted] == [each.tolist() for each in looked_at]
    assert len(counted[0]) == 3


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize(
    "plan",
    [
        pm.Pairs(strategy="all", max_pairs_per_prompt=4, **NONE),
        pm.Pairs(strategy="all", max_pairs_per_prompt=3, top_k=9, bottom_k=7, min_margin=1, **NONE),
        pm.Pairs(
            strategy="threshold",
            max_pairs_per_prompt=5,
            chosen_quantile=0.6,
            rejected_quantile=0.4,
            seed=3,
        ),
    ],
)
def test_a_run_draws_the_same_pairs(plan, by, tmp_path, monkeypatch):
    rows = [
        {"prompt": f"p{p}", "completion": f"{p} {k}", "score": float((k * 7 + p) % 5 + 1)}
        for p, answers in enumerate((1, 2, 20, 40, 3))
        for k in range(answers)
    ]
    table = pl.DataFrame(rows)
    want = pm.run(plan, table, tmp_path / "want.parquet", engine=by)
    at_most(20, monkeypatch)
    got = pm.run(plan, table, tmp_path / "got.parquet", engine=by)
    pairs = pl.read_parquet(tmp_path / "got.parquet")
    assert pairs.rows() == pl.read_parquet(tmp_path / "want.parquet").rows()
    assert plan.lazy(table.lazy()).collect().rows() == pairs.rows()
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("feedback", table.to_arrow())
    assert con.sql(plan.sql("feedback")).fetchall() == pairs.rows()
    assert prefmill.duckdb.report(plan, con, "feedback").pairs_out == want.pairs_out
    assert (got.pairs_out, got.rows_used, got.dropped) == (
        want.pairs_out,
        want.rows_used,
        want.dropped,
    )


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_a_cap_lets_very_many_answers_through(by, tmp_path):
    score = pl.int_range(200_000, eager=True)
    rows = pl.DataFrame(
        {"prompt": ["p"] * 200_000, "completion": score.cast(pl.String), "score": score % 7}
    )
    plan = pm.Pairs(strategy="all", max_pairs_per_prompt=10, **NONE)
    report = pm.run(plan, rows, tmp_path / "pairs.parquet", engine=by)
    assert (report.pairs_out, report.rows_in) == (10, 200_000)


def test_a_cap_lets_very_many_answers_through_in_sql(con):
    con.execute(
        "CREATE OR REPLACE TEMP VIEW very_many AS SELECT 'p' AS prompt, i::VARCHAR AS completion,"
        " i % 7 AS score FROM range(200000) _(i)"
    )
    told = "strategy := 'all', chosen_min := NULL, rejected_below := NULL"
    pairs = f"preference_pairs(very_many, {told}, max_pairs_per_prompt := 10)"
    assert con.sql(f"SELECT count(*) FROM {pairs}").fetchall() == [(10,)]
