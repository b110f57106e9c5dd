"""What a cap draws of a prompt with very many answers is what it draws where all pairs are made."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.rules import draws, explosion
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


maybe = st.none() | st.integers(1, 5)


@given(
    word=st.integers(0, 2**64 - 1),
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 1, 2, 3, 4, 5]), max_size=12).map(sorted),
    stands=st.builds(
        Stands,
        maybe,
        maybe,
        st.sampled_from([0, 0.1, 0.2, 1.0]),
        st.none() | st.integers(1, 4),
        st.none() | st.integers(1, 4),
    ),
    cap=st.integers(1, 9),
)
def test_the_drawn_pairs_are_the_first_of_all(word, scores, stands, cap):
    chosen, rejected = drawn_pairs(word, np.array(scores, dtype=np.float64), stands, cap)
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert pairs == by_definition(word, scores, stands, cap)


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
    monkeypatch.setattr(explosion, "MOST_OF_A_PROMPT", 20)
    got = pm.run(plan, table, tmp_path / "got.parquet", engine=by)
    pairs = pl.read_parquet(tmp_path / "got.parquet")
    assert pairs.rows() == pl.read_parquet(tmp_path / "want.parquet").rows()
    assert plan.lazy(table.lazy()).collect().rows() == pairs.rows()
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
