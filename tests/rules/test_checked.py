"""Ways of choosing one of n where a check says what is right: equal to enumeration of all subsets,
the same on frames and files.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import prefmill
from hypothesis import given
from hypothesis import strategies as st
from laws import common

import prefmill as pm
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.rules.checked import vote_chances

ROW = st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.booleans(), st.sampled_from(["x", "y", None]))
POOLS = st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=3)
WAYS = ("passed", "picked", "majority")


def pool_of(pools: list[list[tuple[float, bool, str | None]]]) -> pl.DataFrame:
    rows = [
        (f"p{prompt}", f"c{number}", *row)
        for prompt, rows in enumerate(pools)
        for number, row in enumerate(rows)
    ]
    names = {"prompt": pl.String, "completion": pl.String, "score": pl.Float64}
    return pl.DataFrame(rows, {**names, "ok": pl.Boolean, "said": pl.String}, orient="row")


def majority(rows: list[Any], drawn: tuple[int, ...]) -> float:
    """By the rule in words: most rows among those drawn, then the best of all rows, of equal
    scores the latest; without an answer the mean of what was drawn.
    """
    answers = {rows[i][2] for i in drawn} - {None}
    if not answers:
        silent = [float(row[1]) for row in rows if row[2] is None]
        return sum(silent) / len(silent)

    def key(answer: str) -> tuple[int, tuple[float, int]]:
        best = max((row[0], i) for i, row in enumerate(rows) if row[2] == answer)
        return sum(rows[i][2] == answer for i in drawn), best

    best = max(answers, key=key)
    mine = [float(row[1]) for row in rows if row[2] == best]
    return sum(mine) / len(mine)


def enumerated(pools: list[list[Any]]) -> list[dict[str, float]]:
    points = []
    for n in range(1, max(map(len, pools)) + 1):
        values: dict[str, list[float]] = {way: [] for way in WAYS}
        for rows in pools:
            if len(rows) < n:
                continue
            sets = list(itertools.combinations(range(len(rows)), n))
            passed = [float(any(rows[i][1] for i in drawn)) for drawn in sets]
            best = [max(drawn, key=lambda i, rows=rows: (rows[i][0], i)) for drawn in sets]
            values["passed"].append(sum(passed) / len(sets))
            values["picked"].append(sum(float(rows[i][1]) for i in best) / len(sets))
            values["majority"].append(sum(majority(rows, drawn) for drawn in sets) / len(sets))
        points.append({way: sum(each) / len(each) for way, each in values.items()})
    return points


@common
@given(pools=POOLS)
def test_equals_enumeration_over_all_subsets(pools: list[list[Any]]) -> None:
    points = pm.curve(pool_of(pools), check="ok", conclusion="said", resamples=0).points
    wanted = enumerated(pools)
    assert points.height == len(wanted)
    for point, expected in zip(points.iter_rows(named=True), wanted, strict=True):
        for way in WAYS:
            assert point[way] == pytest.approx(expected[way], abs=2e-9), (point["n"], way)


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    rows = [
        [(1.0, True, "x"), (2.0, False, "y"), (0.5, True, "x"), (3.0, False, None)],
        [(1.0, False, "z"), (1.0, True, "w"), (0.0, False, "z")],
        [(1.0, True, "a")],
    ]
    pool_of(rows).write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


@pytest.mark.parametrize("resamples", [0, 50])
@pytest.mark.parametrize("by", [None, "t"])
@pytest.mark.parametrize("kind", [pl.Boolean, pl.Int8, pl.String, pl.Float64])
def test_frames_and_files_say_the_same(
    kind: Any, by: str | None, resamples: int, scored: Path
) -> None:
    frame = pl.read_parquet(scored).with_columns(
        t=pl.col("prompt") == "p0", ok=pl.col("ok").cast(kind)
    )
    frame.write_parquet(scored)
    asked = {"check": "ok", "conclusion": "said", "by": by, "resamples": resamples}
    one, two = pm.curve(frame, **asked), pm.curve(scored, **asked)
    assert one.points.equals(two.points)
    assert (one.rows_in, one.rows_used, one.dropped) == (two.rows_in, two.rows_used, two.dropped)
    plain = pm.curve(frame, by=by, resamples=resamples).points
    assert one.points.select(plain.columns).equals(plain)
    assert (one.points["passed_low"].null_count() == 0) == bool(resamples)


def test_all_rows_are_what_best_of_picks(scored: Path) -> None:
    """At n = all rows of a prompt the best score is the row that `best` keeps."""
    frame = pl.read_parquet(scored).filter(pl.col("prompt") == "p1")
    picked = pm.curve(frame, check="ok").points["picked"][-1]
    best = pm.BestOf(k=1).lazy(frame, keep=["ok"]).collect()
    assert picked == float(best["ok"][0])


@common
@given(rows=POOLS.filter(bool).map(lambda pools: pools[0]))
def test_all_rows_are_what_majority_picks(rows: list[Any]) -> None:
    """At n = all rows of a prompt the majority is the conclusion that `best` keeps."""
    frame = pool_of([rows])
    picked = pm.BestOf(pick="majority").lazy(frame, keep=["said"], conclusion="said").collect()
    if picked.height:
        right = [float(row[1]) for row in rows if row[2] == picked["said"][0]]
        points = pm.curve(frame, check="ok", conclusion="said", resamples=0).points
        assert points["majority"][-1] == pytest.approx(sum(right) / len(right), abs=2e-9)


def test_rows_without_a_check_are_dropped_and_counted(scored: Path) -> None:
    frame = pl.read_parquet(scored).with_columns(
        ok=pl.when(pl.col("completion") == "c1").then(None).otherwise("ok")
    )
    for data in (frame, scored):
        if data is scored:
            frame.write_parquet(scored)
        found = pm.curve(data, check="ok", resamples=0)
        assert dict(found.dropped) == {"bad_check": 2}
        assert found.rows_in == found.rows_used + 2
    nothing = pm.curve(frame.with_columns(ok=pl.lit("?")), check="ok", resamples=0)
    assert nothing.points.height == 0
    assert nothing.rows_used == 0


def test_votes_of_many_rows() -> None:
    """Chances sum to 1, for numbers of rows whose binomials no float holds."""
    chances = vote_chances((4000, 3000, 2000, *([1] * 30)), 500, 128)
    assert chances.sum(axis=1) == pytest.approx(1.0)
    assert chances[0, :3] * 9530 == pytest.approx([4000, 3000, 2000])
    assert chances[127, 0] > 0.75
    assert vote_chances((), 3, 3).tolist() == [[1.0], [1.0], [1.0]]


def test_refusals(scored: Path) -> None:
    with pytest.raises(BadArgument, match="got no check"):
        pm.curve(scored, conclusion="said")
    frame = pl.read_parquet(scored).with_columns(picked=pl.lit(1))
    with pytest.raises(ColumnMissing, match="no column 'right' for check"):
        pm.curve(frame, check="right")
    with pytest.raises(ColumnMissing, match="no column 'answer' for conclusion"):
        pm.curve(frame, check="ok", conclusion="answer")
    with pytest.raises(BadArgument, match=r"no column of the input; got \['right'\]"):
        pm.curve(scored, check="right")
    with pytest.raises(BadArgument, match="named 'picked' itself"):
        pm.curve(frame, check="ok", by="picked")


def test_the_command(scored: Path) -> None:
    done = prefmill(
        *("curve", scored, "--check", "ok", "--conclusion", "said", "--json"),
        *("--plot", scored.with_name("c.svg")),
    )
    assert done.returncode == 0, done.stderr
    for words in ("pass@n", "best score", "majority"):
        assert words in done.stderr
        assert words in scored.with_name("c.svg").read_text()
    report = json.loads(done.stdout)
    assert report["check"] == "ok"
    assert report["points"][0]["passed"] == report["points"][0]["picked"]
