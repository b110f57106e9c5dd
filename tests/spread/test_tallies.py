"""Thresholds from counts of parts are those from all scores at once."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import common

from prefmill.errors import ThresholdsUnfit
from prefmill.plans import Pairs, Unpaired
from prefmill.rules.tallies import Look, added, settled_by, tally
from prefmill.table.thresholds import Scores

NUMBERS = st.one_of(
    st.integers(1, 5).map(float),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1e6, 1e6 + 1]),  # one bin of a first look
    st.integers(0, 9).map(lambda number: 3 + number * 2**-50),  # and of the third
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0),
)
SHARES = st.sampled_from([0.001, 0.07, 0.3, 0.5, 0.7, 0.999])
PLANS = st.one_of(
    st.sampled_from([Pairs(), Unpaired(), Pairs(chosen_min=2), Unpaired(rejected_below=1)]),
    st.builds(lambda share: Unpaired(chosen_quantile=share), SHARES),
    st.builds(lambda one, two: Pairs(chosen_quantile=one, rejected_quantile=two), SHARES, SHARES),
)


@common
@given(plan=PLANS, parts=st.lists(st.lists(NUMBERS, max_size=12), max_size=6))
def test_parts_settle_as_the_whole(plan, parts: list[list[float]]) -> None:
    looks: list[Look] = []

    def count(look: Look) -> pl.DataFrame:
        looks.append(look)
        return added(tally(pl.Series(part, dtype=pl.Float64), look) for part in parts)

    whole = Scores.of([score for part in parts for score in part])
    try:
        expected = plan.settled(whole)
    except ThresholdsUnfit as unfit:
        with pytest.raises(ThresholdsUnfit, match=re.escape(str(unfit))):
            settled_by(plan, count)
    else:
        assert settled_by(plan, count) == expected
    assert len(looks) <= 4


def test_ratings_take_one_look_and_few_bins() -> None:
    ratings = pl.Series([float(1 + number % 5) for number in range(1000)])
    looks: list[Look] = []

    def count(look: Look) -> pl.DataFrame:
        looks.append(look)
        return tally(ratings, look)

    settled = settled_by(Pairs(chosen_quantile=0.7, rejected_quantile=0.3), count)
    assert (settled.chosen_min, settled.rejected_below) == (4, 2)
    assert looks == [Look()]
    assert tally(ratings, Look()).height == 5
