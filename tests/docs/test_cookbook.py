"""docs/sql-cookbook.md: its answers are what was planted in its pool, and its questions can be
asked of real data.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
from collections import defaultdict
from pathlib import Path

import duckdb
import make_pool
import pytest
from pages import COOKBOOK, blocks

import prefmill as pm
from prefmill.duckdb import install

_NAMED = os.environ.get("PREFMILL_REALDATA", "")
POOL = make_pool.candidates()
SCORED = [row for row in POOL if row["score"] is not None]


def questions() -> dict[int, list[str]]:
    """The queries of each numbered section."""
    page = COOKBOOK.read_text(encoding="utf-8")
    parts = re.split(r"^## (\d+)\. .*\n", page, flags=re.MULTILINE)
    return {
        int(number): [b.text for b in blocks(text) if b.language == "sql"]
        for number, text in zip(parts[1::2], parts[2::2], strict=True)
    }


QUESTIONS = questions()


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[int, list[list[tuple]]]:
    folder = tmp_path_factory.mktemp("cookbook")
    make_pool.main(str(folder))
    with duckdb.connect(config={"threads": 2}) as con:
        install(con)
        for name in ("pool", "judgements"):
            con.execute(f"CREATE VIEW {name} AS FROM '{folder}/{name}.parquet'")
        return {
            number: [con.sql(query).fetchall() for query in queries]
            for number, queries in QUESTIONS.items()
        }


def by_prompt() -> dict[str, list[dict]]:
    found = defaultdict(list)
    for row in SCORED:
        found[row["prompt"]].append(row)
    return found


def test_the_pool_is_the_same_every_time(tmp_path):
    make_pool.main(str(tmp_path))
    first = (tmp_path / "pool.parquet").read_bytes()
    make_pool.main(str(tmp_path))
    assert (tmp_path / "pool.parquet").read_bytes() == first


def test_what_is_there(answers):
    assert answers[1][0] == [
        (
            len(POOL),
            60,
            4,
            len(make_pool.UNSCORED),
            min(r["score"] for r in SCORED),
            max(r["score"] for r in SCORED),
        )
    ]
    rows_in, used, not_selected, dropped = answers[1][1][0]
    assert rows_in == used + not_selected + sum(dropped.values())
    assert dropped["null_score"] == len(make_pool.UNSCORED)
    assert dropped["tie"] == sum(
        len(rows) for prompt, rows in by_prompt().items() if prompt in make_pool.FLAT
    )


def test_who_wins(answers):
    assert [row[0] for row in answers[2][0]][-1] == "delta"
    assert all(low <= rate <= high for *_, rate, low, high in answers[2][0])
    winners = {
        category: max(quality, key=quality.get) for category, quality in make_pool.QUALITY.items()
    }
    assert {row[0]: row[1] for row in answers[3][0]} == winners
    assert all(low > 0.5 for *_, low in answers[3][0])
    assert [(row[0], row[5], row[6]) for row in answers[4][0]] == [
        ("alpha", False, False),
        ("gamma", False, False),
        ("delta", False, True),
    ]


def test_contrast_and_spread(answers):
    assert [row[0] for row in answers[5][0]] == sorted(make_pool.FLAT)
    spreads = sorted(
        (
            (round(statistics.pstdev(r["score"] for r in rows), 2), p)
            for p, rows in by_prompt().items()
        ),
        reverse=True,
    )
    assert [row[5] for row in answers[6][0]] == [spread for spread, _ in spreads[:3]]


def test_pairs_are_kept_up_to_date(answers):
    ((prompts, pairs, missing, wrong),) = answers[22][0]
    moved = {row["prompt"] for row in SCORED if row["score"] >= 4.8 or row["score"] <= 1.2}
    assert (prompts, missing, wrong) == (len(moved), 0, 0)
    assert 0 < pairs <= len(by_prompt())


def test_length_sells_where_it_was_planted(answers):
    correlations = {row[0]: row[2] for row in answers[7][0]}
    assert correlations.pop(make_pool.LENGTH_SELLS_IN) > 0.5
    assert all(abs(value) < 0.15 for value in correlations.values())
    shares = {row[0]: row[1] for row in answers[8][0]}
    assert max(shares, key=shares.get) == make_pool.LENGTH_SELLS_IN


def test_best_of_n_by_enumeration(answers):
    for k, got in answers[9][0]:
        draws = [
            statistics.fmean(max(d) for d in itertools.combinations([r["score"] for r in rows], k))
            for rows in by_prompt().values()
        ]
        assert got == round(statistics.fmean(draws), 3)
    ((best, median, random),) = answers[10][0]
    assert best == round(
        statistics.fmean(max(r["score"] for r in rows) for rows in by_prompt().values()), 3
    )
    assert best > max(median, random)
    shared = [
        scores.count(max(scores))
        for rows in by_prompt().values()
        for scores in [[r["score"] for r in rows]]
    ]
    assert answers[11][0] == [(sum(n > 1 for n in shared), max(shared))]


def test_raters(answers):
    everyone, *pairs = answers[12][0]
    assert everyone[2] == make_pool.RATED
    kappas = {row[:2]: row[4] for row in pairs}
    assert kappas["ann", "bob"] > 0.6
    assert abs(kappas["ann", "carl"]) < 0.2
    assert abs(kappas["bob", "carl"]) < 0.2
    assert answers[12][1][0][5] > 0.9 > 0.5 > everyone[5]
    assert all((low, high, raters) == (1, 5, 3) for _, low, high, raters in answers[13][0])
    (ann, above), (bob, below) = answers[14][0]
    assert (ann, bob) == ("ann", "bob")
    assert above == -below > 0


def test_near_duplicates_and_caps(answers):
    assert answers[15][0] == [(prompt, 2, 2) for prompt in make_pool.REPEATED]
    assert answers[16][0] == [(120, 60, 120)]
    good = [
        sorted((r["score"] for r in rows if r["score"] >= 4), reverse=True)[:2]
        for rows in by_prompt().values()
    ]
    assert answers[17][0] == [
        (sum(map(len, good)), sum(map(bool, good)), min(min(g) for g in good if g))
    ]


def test_training_data(answers):
    ((pairs, margin),) = answers[18][0]
    rows_in, used, not_selected, dropped = answers[18][1][0]
    assert used == 2 * pairs
    assert rows_in == used + not_selected + sum(dropped.values())
    assert margin >= 1
    assert answers[19][0] == [
        (False, sum(r["score"] < 3 for r in SCORED)),
        (True, sum(r["score"] >= 4 for r in SCORED)),
    ]
    assert sum(row[1] for row in answers[20][0]) == len(POOL)
    assert sum(row[2] for row in answers[20][0]) == 60
    assert sum(row[1] for row in answers[21][0]) == 60


def test_the_split_is_that_of_the_command(answers, tmp_path):
    make_pool.main(str(tmp_path))
    plan = pm.BestOf(k=99)
    report = pm.run(
        plan, tmp_path / "pool.parquet", tmp_path / "out.parquet", split={"train": 0.9, "test": 0.1}
    )
    assert {row[0] for row in answers[20][0]} == set(report.split_rows)
    import polars as pl

    for name, _, prompts in answers[20][0]:
        assert pl.read_parquet(tmp_path / f"out-{name}.parquet")["prompt"].n_unique() == prompts


# The same questions of AlpacaEval: 42,078 answers, scores in [0, 1]


@pytest.fixture(scope="module")
def real():
    folder = Path(_NAMED) / "alpaca_eval"
    with duckdb.connect(config={"threads": 2}) as con:
        install(con)
        con.execute(
            "CREATE TABLE pool AS SELECT prompt, completion, 1 + 4 * score AS score, model AS "
            "source, rater AS annotator,"
            f" ['code', 'math', 'writing'][(1 + hash(prompt) % 3)::INT] AS category FROM "
            f"'{folder}/weighted_part1.parquet'"
        )
        con.execute(
            "CREATE TABLE judgements AS SELECT prompt, completion, score, annotator FROM pool "
            "UNION ALL"
            f" SELECT prompt, answer_2, preference, rater FROM '{folder}/gpt4_discrete.jsonl.gz'"
        )
        yield con


@pytest.mark.realdata
@pytest.mark.skipif(
    not _NAMED or not Path(_NAMED).is_dir(), reason="PREFMILL_REALDATA names no folder"
)
@pytest.mark.parametrize("number", QUESTIONS)
def test_questions_of_real_data(number, real):
    model = real.sql(
        "SELECT source FROM pool GROUP BY source ORDER BY count(*) DESC, source LIMIT 1"
    ).fetchall()[0][0]
    for query in QUESTIONS[number]:
        rows = real.sql(query.replace("'beta'", "'" + model.replace("'", "''") + "'")).fetchall()
        assert rows or number in (5, 13, 15), query


@pytest.mark.realdata
@pytest.mark.skipif(
    not _NAMED or not Path(_NAMED).is_dir(), reason="PREFMILL_REALDATA names no folder"
)
def test_win_rates_of_real_data_by_hand(real):
    """Against one model: the macro and a plain join, a comparison for each pair of answers."""
    model = real.sql(
        "SELECT source FROM pool GROUP BY source ORDER BY count(*) DESC, source LIMIT 1"
    ).fetchall()[0][0]
    got = {
        row[0]: row[2:5]
        for row in real.execute("FROM win_rates(pool, baseline := $1)", [model]).fetchall()
    }
    plain = real.execute(
        "SELECT a.source, count(*) FILTER (a.score > b.score), count(*) FILTER (a.score < b.score),"
        " count(*) FILTER (a.score = b.score)"
        " FROM pool a JOIN pool b ON a.prompt = b.prompt WHERE b.source = $1 AND a.source <> $1 "
        "GROUP BY 1",
        [model],
    ).fetchall()
    assert got == {row[0]: row[1:] for row in plain}
