"""`prefmill.votes` against an oracle written from docs/semantics.md, and by planted strengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import duckdb
import polars as pl
import pool_oracle
import pytest
import votes_oracle as oracle

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.rules.ratings import Method

ROLES = {"group": "group", "annotator": "annotator"}


def verdicts(seed: int, prompts: int = 3, answers: int = 4, votes: int = 12) -> list[dict]:
    """Ballots of two, three or four answers of a prompt, by three judges, with ties."""
    draw = random.Random(seed)
    rows = []
    for group in range(prompts * votes):
        prompt = draw.randrange(prompts)
        size = draw.choice([2, 2, 2, 3, 4])
        rows += [
            {
                "prompt": f"p{prompt}",
                "completion": f"a{answer}",
                "source": f"m{answer}",
                "group": f"g{group}",
                "annotator": f"j{group % 3}",
                "score": float(draw.choice([0, 1, 1, 2]) + (answer == 0)),
            }
            for answer in draw.sample(range(answers), size)
        ]
    return rows


def of_two(rows: list[dict]) -> list[dict]:
    """Ballots of their first two rows."""
    return [row for ballot in oracle.ballots(rows) for row in ballot[:2]]


def rated(rows, tmp_path: Path, **options) -> dict[tuple, tuple]:
    """score, low, high, votes of each side."""
    path = tmp_path / "rated.parquet"
    options.setdefault("roles", ROLES)
    frame = pl.DataFrame(rows)
    options["roles"] = {k: v for k, v in options["roles"].items() if v in frame.columns}
    pm.votes(frame, path, overwrite=True, **options)
    out = pl.read_parquet(path)
    keys = ["source"] if options.get("over") == "source" else ["prompt", "completion"]
    numbers = out.select("score", "low", "high", "votes").rows()
    return dict(zip(out.select(keys).rows(), numbers, strict=True))


def check(got: dict, expected: dict, bound: float = 2e-5) -> None:
    assert got.keys() == expected.keys()
    for name, numbers in expected.items():
        assert got[name] == pytest.approx(numbers, abs=bound), name


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("over", ["prompt", "source"])
def test_bradley_terry_is_the_fixed_point(seed, over, tmp_path):
    rows = verdicts(seed, votes=3 + 3 * (seed % 3))
    got = rated(rows, tmp_path, over=over)
    check(got, oracle.bradley_terry(rows, over))


@pytest.mark.parametrize("prior", [0.25, 3.0])
def test_a_prior_that_is_asked_for_stands_everywhere(prior, tmp_path):
    rows = verdicts(1)
    check(rated(rows, tmp_path, prior=prior), oracle.bradley_terry(rows, prior=prior))


@pytest.mark.parametrize("seed", range(4))
def test_davidson_is_the_fixed_point_of_1970(seed, tmp_path):
    rows = of_two(verdicts(seed, prompts=1, votes=40))
    expected, ties = oracle.davidson(rows)
    path = tmp_path / "rated.parquet"
    report = pm.votes(pl.DataFrame(rows), path, method="davidson", roles=ROLES)
    out = pl.read_parquet(path)
    numbers = out.select("score", "low", "high").rows()
    check(dict(zip(out.select("prompt", "completion").rows(), numbers, strict=True)), expected)
    assert report.tie_parameter == pytest.approx(ties, abs=1e-8)
    assert report.ties == sum(v["outcome"] == 0.5 for v in oracle.comparisons(rows, "prompt"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("over", ["prompt", "source"])
def test_plackett_luce_is_the_fixed_point(seed, over, tmp_path):
    rows = verdicts(seed, votes=2 + 3 * (seed % 3))
    got = rated(rows, tmp_path, over=over, method="plackett-luce")
    check(got, oracle.plackett_luce(rows, over))


def test_lists_of_two_are_bradley_terry(tmp_path):
    rows = of_two(verdicts(5))
    one = rated(rows, tmp_path, method="plackett-luce")
    check(one, rated(rows, tmp_path, method="bradley-terry"), bound=2e-9)


@pytest.mark.parametrize("over", ["prompt", "source"])
def test_elo_goes_row_by_row(over, tmp_path):
    rows = verdicts(2)
    got = rated(rows, tmp_path, over=over, method="elo", k_factor=20, resamples=0)
    expected = oracle.elo(rows, over, 20.0)
    assert {name: numbers[0] for name, numbers in got.items()} == pytest.approx(expected)
    assert all(numbers[1] is None for numbers in got.values())


def test_an_interval_of_elo_holds_its_rating_and_is_the_same_each_time(tmp_path):
    rows = verdicts(2, votes=60)
    got = rated(rows, tmp_path, method="elo", k_factor=4)
    assert all(low < score < high for score, low, high, _ in got.values())
    assert got == rated(rows, tmp_path, method="elo", k_factor=4)
    assert got != rated(rows, tmp_path, method="elo", k_factor=4, seed=1)


def test_intervals_of_elo_do_not_depend_on_how_many_parts_are_taken(tmp_path, monkeypatch):
    rows = verdicts(4, prompts=6)
    at_once = rated(rows, tmp_path, method="elo")
    monkeypatch.setattr("prefmill.rules.votes._CELLS", 500)
    assert rated(rows, tmp_path, method="elo") == at_once


@pytest.mark.parametrize("seed", range(4))
def test_win_rates_are_those_of_the_macro(seed, tmp_path):
    """A pool of scores: a prompt is a ballot."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"p{draw.randrange(12)}",
            "completion": f"c{number}",
            "source": draw.choice(["m1", "m2", "m3", "alone"[: 5 * (number == 0)] or "m1"]),
            "score": float(draw.randrange(4)),
        }
        for number in range(80)
    ]
    got = rated(rows, tmp_path, over="source", method="win-rate")
    with duckdb.connect() as con:
        install(con)
        con.register("pool", pl.DataFrame(rows).to_arrow())
        told = con.sql(
            "SELECT source, win_rate, low, high, wins + losses + ties FROM"
            " win_rates('pool', source := source)"
        ).fetchall()
    assert got == {(name,): pytest.approx(tuple(numbers), abs=2e-9) for name, *numbers in told}
    for name, numbers in pool_oracle.win_rates(rows).items():
        assert got[name,][:3] == pytest.approx(numbers[4:7], abs=2e-9)


@pytest.mark.parametrize("method", ["dawid-skene", "mace"])
@pytest.mark.parametrize("seed", range(3))
def test_what_judges_agree_on(method, seed, tmp_path):
    rows = of_two(verdicts(seed, votes=30))
    points, sure = {"dawid-skene": oracle.dawid_skene, "mace": oracle.mace}[method](rows)
    path = tmp_path / "rated.parquet"
    report = pm.votes(pl.DataFrame(rows), path, method=method, roles=ROLES)
    out = pl.read_parquet(path)
    got = dict(zip(out.select("prompt", "completion").rows(), out["score"], strict=True))
    assert got == pytest.approx(oracle.agreed_rates(rows, points), abs=1e-6)
    shares = {name: share for name, (_, share) in report.annotators.items()}
    assert shares == pytest.approx(sure, abs=1e-6)
    assert sum(votes for votes, _ in report.annotators.values()) == report.comparisons


@pytest.mark.parametrize("method", ["dawid-skene", "mace"])
def test_a_judge_who_guesses_does_not_count(method, tmp_path):
    """Two careful judges against three who always say what comes first."""
    draw = random.Random(0)
    rows, truth = [], {}
    for number in range(200):
        best = draw.randrange(2)
        truth[f"p{number}"] = f"a{best}"
        said = [best if draw.random() < 0.95 else 1 - best for _ in range(2)] + [0, 0, 0]
        for judge, choice in enumerate(said):
            rows += [
                {
                    "prompt": f"p{number}",
                    "completion": f"a{answer}",
                    "annotator": f"j{judge}",
                    "score": float(answer == choice),
                }
                for answer in (0, 1)
            ]

    def right(method: str) -> float:
        got = rated(rows, tmp_path, method=method)
        return sum(got[prompt, best][0] > 0.5 for prompt, best in truth.items()) / 200

    assert right("win-rate") < 0.6
    assert right(method) > 0.9


@pytest.mark.parametrize("method", ["bradley-terry", "davidson", "plackett-luce", "win-rate"])
def test_the_order_of_rows_does_not_matter(method, tmp_path):
    rows = of_two(verdicts(3))
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    one, two = (rated(each, tmp_path, method=method) for each in (rows, shuffled))
    check(two, one, bound=2e-9)


def test_what_is_unusual_is_told(tmp_path):
    """Two parts in one prompt, an answer that met itself, and one alone."""
    said = [
        (1, "a", 1.0),
        (1, "b", 0.0),
        (2, "c", 0.5),
        (2, "d", 0.5),
        (3, "e", 1.0),
        (4, "a", 1.0),
        (4, "a", 0.0),
        (5, None, 1.0),
        (5, "a", None),
    ]
    rows = [{"prompt": "p", "group": g, "completion": c, "score": s} for g, c, s in said]
    path = tmp_path / "rated.parquet"
    report = pm.votes(pl.DataFrame(rows), path, roles={"group": "group"})
    out = pl.read_parquet(path)
    assert out["completion"].to_list() == ["a", "b", "c", "d", "e"]
    assert out["component"].to_list() == [0, 0, 1, 1, 2]
    assert out["votes"].to_list() == [1, 1, 1, 1, 0]
    score = out["score"].to_list()
    assert score[0] == -score[1] > 0
    assert score[2:] == [0.0, 0.0, None]
    assert (report.rows_in, report.rows_used, dict(report.dropped)) == (
        9,
        7,
        {"null_completion": 1, "null_score": 1},
    )
    assert (report.ballots, report.single, report.comparisons, report.itself) == (4, 1, 2, 1)
    assert (report.parts, report.lone, report.split_prompts, report.open_parts) == (2, 1, 1, 1)
    assert len(report.notes) == 4


@pytest.mark.parametrize("method", ["bradley-terry", "plackett-luce", "elo", "win-rate"])
def test_a_cycle_and_ties_alone_are_even(method, tmp_path):
    even = 0.5 if method == "win-rate" else 0.0
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    cycle, ties = [], []
    for group, (one, two) in enumerate(pairs * 2):
        row = {"prompt": "p", "group": group}
        cycle += [
            {**row, "completion": one, "score": 1.0},
            {**row, "completion": two, "score": 0.0},
        ]
        ties += [{**row, "completion": one, "score": 0.5}, {**row, "completion": two, "score": 0.5}]
    for rows in (cycle, ties):
        got = rated(rows, tmp_path, method=method)
        # Elo's order leaves a trace of itself.
        bound = 4.0 if method == "elo" else 1e-9
        assert all(numbers[0] == pytest.approx(even, abs=bound) for numbers in got.values())
    if method in ("bradley-terry", "plackett-luce"):
        assert all(n[1] < 0 < n[2] for n in got.values())


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("over", ["prompt", "source"])
def test_no_comparison_is_no_score(rows, over, tmp_path):
    row = {"prompt": "p", "completion": "a", "annotator": "x", "source": "m", "score": 1.0}
    frame, path = pl.DataFrame([row]).head(rows), tmp_path / "rated.parquet"
    for method in get_args(Method):
        report = pm.votes(frame, path, method=method, over=over, overwrite=True, allow_empty=True)
        out = pl.read_parquet(path)
        assert (out.height, out["score"].null_count(), report.lone) == (rows, rows, rows)
        assert report.comparisons == report.parts == 0


def test_words_that_are_no_score_are_named(tmp_path):
    rows = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": ["won", "lost"]}
    report = pm.votes(pl.DataFrame(rows), tmp_path / "rated.parquet")
    assert (report.bad_scores, report.output) == (("'won'", "'lost'"), None)
    assert dict(report.dropped) == {"bad_score": 2}


def test_refusals(tmp_path):
    ties = [
        {"prompt": "p", "completion": "a", "score": 1.0},
        {"prompt": "p", "completion": "b", "score": 1.0},
    ]
    frame = pl.DataFrame(ties)
    with pytest.raises(BadInput, match="nothing was decided"):
        pm.votes(frame, None, method="davidson")
    with pytest.raises(BadInput, match="got prior 0"):
        pm.votes(frame.with_columns(score=pl.Series([1, 0])), None, prior=0)
    with pytest.raises(ColumnMissing, match="no column is the annotator"):
        pm.votes(frame, None, method="mace")
    with pytest.raises(ColumnMissing, match="no column is the source"):
        pm.votes(frame, None, over="source")
    with pytest.raises(BadArgument, match="no method 'borda'"):
        pm.votes(frame, None, method="borda")
    for wrong in (
        {"prior": -1},
        {"prior": 1, "method": "elo"},
        {"k_factor": 0, "method": "elo"},
        {"k_factor": 8},
        {"level": 1.0},
        {"resamples": -1, "method": "elo"},
        {"keep": ["nothing"]},
    ):
        with pytest.raises(BadArgument):
            pm.votes(frame, None, **wrong)


def test_a_list_too_long_for_pairs_says_what_takes_it():
    rows = pl.DataFrame({"n": range(10_002)}).select(
        prompt=pl.lit("p"), completion=pl.col("n").cast(pl.String), score="n"
    )
    with pytest.raises(BadArgument, match="too many comparisons") as error:
        pm.votes(rows, None)
    assert "plackett-luce" in str(error.value)
    with pytest.raises(BadArgument, match="expected at most 4,096"):
        pm.votes(rows, None, method="plackett-luce")


def test_what_comes_out_feeds_a_plan(tmp_path):
    """Messages, a system prompt and a column stay, and parts are kept apart."""
    said = [{"role": "user", "content": "q"}]
    rows = [
        {"prompt": said, "system": "be brief", "group": g, "completion": c, "score": s, "id": c * 2}
        for g, c, s in [
            (1, "a", 1),
            (1, "b", 0),
            (2, "c", 1),
            (2, "d", 0),
            (3, "a", 1),
            (3, "b", 0),
        ]
    ]
    path, pairs = tmp_path / "rated.parquet", tmp_path / "pairs.parquet"
    pm.votes(pl.DataFrame(rows), path, roles={"group": "group"}, keep=["id"])
    out = pl.read_parquet(path)
    assert out["prompt"].to_list() == [said] * 4
    assert out["system"].to_list() == ["be brief"] * 4
    assert out["id"].to_list() == ["aa", "bb", "cc", "dd"]
    plan = pm.Pairs(chosen_min=None, rejected_below=None)
    pm.run(plan, path, pairs, roles={"group": "component"})
    assert pl.read_parquet(pairs).select("chosen", "rejected").rows()[0][0][-1]["content"] == "a"
    assert pl.read_parquet(pairs).height == 2
