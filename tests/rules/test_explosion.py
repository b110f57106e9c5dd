"""One prompt with very many answers: pairs of all of them are refused with what caps them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.duckdb
from prefmill.errors import BadArgument
from prefmill.rules.explosion import MOST_OF_A_PROMPT

NONE = {"chosen_min": None, "rejected_below": None}
#: The fewest answers that are too many.
ANSWERS = 4_473
MACRO = Path(__file__).parents[2] / "sql" / "pairs" / "pref_is_bounded.sql"


def hot(answers: int) -> pl.DataFrame:
    score = pl.int_range(answers, eager=True)
    return pl.DataFrame(
        {"prompt": ["p"] * answers, "completion": score.cast(pl.String), "score": score % 7}
    )


def test_the_macro_and_the_rule_have_one_number():
    assert f" AS {MOST_OF_A_PROMPT};\n" in MACRO.read_text("utf-8")
    assert ANSWERS * (ANSWERS - 1) // 2 > MOST_OF_A_PROMPT >= (ANSWERS - 1) * (ANSWERS - 2) // 2


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize(
    "plan",
    [
        pm.Pairs(strategy="all", **NONE),
        pm.Pairs(strategy="all", max_pairs_per_prompt=MOST_OF_A_PROMPT + 1, **NONE),
        pm.Pairs(strategy="threshold", chosen_min=5, rejected_below=3),
    ],
)
def test_a_run_refuses_and_leaves_nothing(plan, by, tmp_path):
    target = tmp_path / "pairs.parquet"
    with pytest.raises(BadArgument) as raised:
        pm.run(plan, hot(ANSWERS), target, engine=by)
    assert "a prompt of 4,473 answers would propose 10,001,628 pairs" in raised.value.message
    assert "set max_pairs_per_prompt, or top_k and bottom_k" in (raised.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_frames_and_queries_refuse_too():
    rows = hot(ANSWERS)
    plan = pm.Pairs(strategy="all", **NONE)
    with pytest.raises(BadArgument, match="a prompt of 4,473 answers"):
        plan.lazy(rows.lazy()).collect()
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("rows", rows.to_arrow())
    with pytest.raises(duckdb.Error, match="prefmill: preference_pairs: a prompt of 4473 answers"):
        con.sql(plan.sql("rows")).fetchall()


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_what_the_hint_says_goes_through(by, tmp_path):
    plan = pm.Pairs(strategy="all", top_k=3, bottom_k=2, **NONE)
    report = pm.run(plan, hot(50_000), tmp_path / "pairs.parquet", engine=by)
    assert report.pairs_out == 6
