"""The statistics macros against plain Python on random pools, and against cases worked out by hand
or printed by their authors.
"""

from __future__ import annotations

import math
import os
import random

import duckdb
import polars as pl
import pool_oracle as oracle
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmill.duckdb import install
from prefmill.table.chance import split_frame

EXAMPLES = max(60, int(os.environ.get("PREFMILL_EXAMPLES", "0")))
SCHEMA = pa.schema(
    {
        "prompt": pa.string(),
        "completion": pa.string(),
        "score": pa.float64(),
        "source": pa.string(),
        "annotator": pa.string(),
    }
)
SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5, 5.0]),
    st.floats(-1e3, 1e3).map(lambda x: round(x, 3)),
    st.sampled_from([None, math.nan, math.inf]),
)
POOLS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["p", "q", "", "ü", None]),
            "completion": st.sampled_from(["a", "bb", "", "ñandú", "a longer one", "🙂", None]),
            "score": SCORES,
            "source": st.sampled_from(["m1", "m2", "m3", None]),
            "annotator": st.sampled_from(["x", "y", "z", "w", None]),
        }
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


def ask(con, rows: list[dict], query: str) -> list[tuple]:
    con.register("pool", pa.Table.from_pylist(rows, SCHEMA))
    try:
        return con.sql(query).fetchall()
    finally:
        con.unregister("pool")


def same(got: tuple, wanted: tuple) -> bool:
    return len(got) == len(wanted) and all(
        (a is None and b is None)
        or (a is not None and b is not None and a == pytest.approx(b, rel=1e-7, abs=2e-8))
        for a, b in zip(got, wanted, strict=True)
    )


@settings(max_examples=EXAMPLES)
@given(rows=POOLS)
def test_ranks(con, rows):
    got = ask(con, rows, "FROM rank_candidates(pool)")
    assert sorted(got) == sorted(oracle.rank_candidates(rows))


@settings(max_examples=EXAMPLES)
@given(rows=POOLS)
def test_stats_of_a_prompt(con, rows):
    got = {row[0]: row[1:] for row in ask(con, rows, "FROM pool_stats(pool)")}
    wanted = oracle.pool_stats(rows)
    assert set(got) == set(wanted)
    for prompt, stats in wanted.items():
        assert same(got[prompt], stats), (prompt, got[prompt], stats)


@settings(max_examples=EXAMPLES)
@given(rows=POOLS, baseline=st.sampled_from([None, "m1", "m3"]))
def test_win_rates(con, rows, baseline):
    wanted = oracle.win_rates(rows, baseline)
    if baseline and not any(r["source"] == baseline for r in oracle.usable(rows, "source")):
        with pytest.raises(duckdb.Error, match="no usable row is of the baseline; got m"):
            ask(con, rows, f"FROM win_rates(pool, baseline := '{baseline}')")
        return
    got = ask(
        con,
        rows,
        "FROM win_rates(pool)"
        if baseline is None
        else f"FROM win_rates(pool, baseline := '{baseline}')",
    )
    assert {row[0] for row in got} == set(wanted)
    for source, *stats in got:
        assert same(tuple(stats), wanted[source]), (source, stats, wanted[source])
    rates = [row[5] for row in got if row[5] is not None]
    assert rates == sorted(rates, reverse=True)
    if baseline is None:  # every win is another's loss
        assert sum(row[2] for row in got) == sum(row[3] for row in got)


@settings(max_examples=EXAMPLES)
@given(rows=POOLS, level=st.sampled_from(["interval", "nominal"]))
def test_agreement(con, rows, level):
    got = {row[:2]: row[2:] for row in ask(con, rows, f"FROM agreement(pool, level := '{level}')")}
    wanted = oracle.agreement(rows, level)
    assert set(got) == set(wanted)
    for pair, stats in wanted.items():
        assert same(got[pair], stats), (pair, got[pair], stats)


@settings(max_examples=EXAMPLES)
@given(rows=POOLS, seed=st.integers(0, 2**32))
def test_the_order_of_rows_does_not_matter(con, rows, seed):
    rows = [
        r
        for i, r in enumerate(rows)
        if (r["prompt"], r["completion"], r["annotator"])
        not in {(o["prompt"], o["completion"], o["annotator"]) for o in rows[:i]}
    ]
    again = list(rows)
    random.Random(seed).shuffle(again)
    for query in (
        "FROM pool_stats(pool) ORDER BY ALL",
        "FROM win_rates(pool)",
        "FROM agreement(pool)",
    ):
        assert ask(con, rows, query) == ask(con, again, query)


# Cases worked out by hand, or printed by the authors of a formula

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 12 units, 4 observers,
# gaps
KRIPPENDORFF = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


@pytest.mark.parametrize(("level", "wanted"), [("nominal", 0.743), ("interval", 0.849)])
def test_krippendorffs_own_example(level, wanted, con):
    rows = [
        {
            "prompt": "p",
            "completion": f"unit {i}",
            "score": None if v is None else float(v),
            "annotator": rater,
        }
        for rater, values in KRIPPENDORFF.items()
        for i, v in enumerate(values)
    ]
    got = ask(con, rows, f"FROM agreement(pool, level := '{level}')")
    assert got[0][:3] == (None, None, 11)
    assert round(got[0][5], 3) == wanted


def test_a_kappa_by_hand(con):
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: po 0.7, pe 0.5, kappa 0.4."""
    table = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    rows = [
        {"prompt": "p", "completion": str(i), "score": float(v), "annotator": rater}
        for i, both in enumerate(table)
        for rater, v in zip("xy", both, strict=True)
    ]
    ((_, pair),) = [ask(con, rows, "FROM agreement(pool)")]
    assert pair == ("x", "y", 50, 0.7, 0.4, None)


def test_the_later_judgement_of_an_annotator_counts(con):
    rows = [
        {"prompt": "p", "completion": "a", "score": s, "annotator": a}
        for a, s in (("x", 1.0), ("y", 2.0), ("x", 2.0))
    ]
    assert ask(con, rows, "FROM agreement(pool)") == [
        (None, None, 1, 1.0, None, None),
        ("x", "y", 1, 1.0, None, None),
    ]


def test_a_win_rate_by_hand(con):
    """m1 wins 81 of 100 prompts of one comparison each; Wilson's interval of 81/100 is 0.722 to
    0.875.
    """
    rows = [
        {"prompt": str(i), "completion": m, "score": float((m == "m1") == (i < 81)), "source": m}
        for i in range(100)
        for m in ("m1", "m2")
    ]
    first, second = ask(con, rows, "FROM win_rates(pool)")
    assert first[:6] == ("m1", 100, 81, 19, 0, 0.81)
    assert [round(x, 3) for x in first[6:8]] == [0.722, 0.875]
    assert first[8] == 100.0
    assert second[:6] == ("m2", 100, 19, 81, 0, 0.19)


def test_many_candidates_of_one_prompt_are_one_trial(con):
    """100 comparisons on one prompt, all won: no more sure than one."""
    rows = [
        {"prompt": "p", "completion": f"{m}{i}", "score": float(m == "m1"), "source": m}
        for i in range(10)
        for m in ("m1", "m2")
    ]
    first, _ = ask(con, rows, "FROM win_rates(pool)")
    assert first[:6] == ("m1", 1, 100, 0, 0, 1.0)
    assert first[8] == 1.0
    assert first[6] == pytest.approx(1 / (1 + 1.959963984540054**2), abs=1e-8)


def test_stats_by_hand(con):
    rows = [
        {"prompt": "p", "completion": c, "score": s}
        for c, s in (("a", 1.0), ("bb", 2.0), ("ccc", 3.0), ("dddd", 3.0))
    ]
    ((row),) = ask(con, rows, "FROM pool_stats(pool)")
    assert row == (
        "p",
        4,
        2.25,
        pytest.approx(math.sqrt(11 / 16), abs=1e-9),
        3.0,
        2.5,
        1.0,
        2,
        pytest.approx(0.943879807, abs=1e-9),
    )


@pytest.mark.newest  # in DuckDB 1.5 the deviation is an error there, which says so
def test_scores_at_the_edge_of_float64(con):
    rows = [
        {"prompt": "p", "completion": c, "score": s} for c, s in (("a", 1.7e308), ("bb", -1.7e308))
    ]
    ((row),) = ask(con, rows, "FROM pool_stats(pool)")
    assert (row[1], row[4], row[6]) == (2, 1.7e308, -1.7e308)
    assert row[3] is None  # beyond a float64


def test_message_lists_are_measured_by_their_contents(con):
    message = "{'role': 'assistant', 'content': repeat('ü', i)}"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE chats AS SELECT 'p' AS prompt, [{message}] AS completion, i "
        f"AS score FROM range(1, 4) t(i)"
    )
    assert con.sql("SELECT length_correlation, n FROM pool_stats(chats)").fetchall() == [(1.0, 3)]
    turns = "[{'from': 'gpt', 'value': 'abc'}, {'from': 'gpt', 'value': 'de'}]"
    assert con.sql(
        f"SELECT pref_length({turns}), pref_length('ñ'), pref_length(12)"
    ).fetchall() == [(5, 1, 2)]


def test_text_scores_are_numbers_and_labels_are_not(con):
    rows = "('p', 'a', ' 4.0', 'x'), ('p', 'a', '4', 'y'), ('p', 'b', 'good', 'x')"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE texts AS FROM (VALUES {rows}) t(prompt, completion, score, "
        f"annotator)"
    )
    assert con.sql("SELECT units, equal FROM agreement(texts)").fetchall() == [(1, 1.0), (1, 1.0)]
    assert con.sql(
        "SELECT completion, rank FROM rank_candidates(texts) ORDER BY rank"
    ).fetchall() == [("a", 1), ("a", 2)]


# split_of

TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
SHARES = [
    {"train": 0.95, "test": 0.05},
    {"a": 0.1, "b": 0.2, "c": 0.7},
    {"x": 1 / 3, "y": 1 / 3, "z": 1 / 3},
    {"all": 1.0},
]


@settings(max_examples=EXAMPLES)
@given(
    prompts=st.lists(TEXTS, min_size=1, max_size=20),
    shares=st.sampled_from(SHARES),
    seed=st.sampled_from([0, 1, 20_240_229, 2**63 - 1]),
)
def test_splits_are_those_of_the_command(con, prompts, shares, seed):
    frame = pl.DataFrame({"prompt": prompts, "row": range(len(prompts))})
    wanted = {row: name for name, part in split_frame(frame, shares, seed) for row in part["row"]}
    con.register("prompts", frame.to_arrow())
    text = ",".join(f"{name}={share!r}" for name, share in shares.items())
    mapping = (
        "MAP {" + ", ".join(f"'{name}': {share!r}::DOUBLE" for name, share in shares.items()) + "}"
    )
    struct = "{" + ", ".join(f"'{name}': {share!r}::DOUBLE" for name, share in shares.items()) + "}"
    for form in (f"'{text}'", mapping, struct):
        got = con.sql(
            f"SELECT row, split_of(prompt, {form}, seed := {seed}) FROM prompts"
        ).fetchall()
        assert dict(got) == wanted, form


def test_splits_of_conversations(con):
    chats = pl.DataFrame(
        {"prompt": [[{"role": "user", "content": f"question {i}"}] for i in range(50)]}
    )
    wanted = {name: part.height for name, part in split_frame(chats, {"a": 0.5, "b": 0.5}, 3)}
    con.register("chats_in", chats.to_arrow())
    got = con.sql(
        "SELECT split_of(prompt, {'a': 0.5, 'b': 0.5}, seed := 3) AS s, count(*) FROM chats_in "
        "GROUP BY s"
    ).fetchall()
    assert dict(got) == wanted
