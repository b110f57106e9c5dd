"""Selection for training: the law of statistical rejection sampling, length control, and pools of
several stages.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter

import duckdb
import oracle
import oracle_rows
import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
import prefmill.datasets
from prefmill.cli.main import app
from prefmill.duckdb import install, report
from prefmill.errors import BadArgument, PlanError, PrefmillError
from prefmill.rules.picks import accepted_ranks


def command(*args: object):
    """The command, in this process: its exit code, stdout and stderr; its own errors as they are
    raised.
    """
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


# The law


def law_of_the_paper(scores: list[float], k: int, beta: float) -> dict[frozenset[int], float]:
    """The exact probability of every set that Algorithm 1 of Liu et al. accepts, its candidates in
    any order with equal probability.
    """
    law: Counter[frozenset[int]] = Counter()

    def begin(order: tuple[int, ...], taken: tuple[int, ...], p: float) -> None:
        left = [i for i in order if i not in taken]
        go_on(order, left, taken, p, max(scores[i] for i in left))

    def go_on(
        order: tuple[int, ...], ahead: list[int], taken: tuple[int, ...], p: float, best: float
    ) -> None:
        if len(taken) == k:
            law[frozenset(taken)] += p
        elif not ahead:
            begin(order, taken, p)
        else:
            chance = math.exp((scores[ahead[0]] - best) / beta)
            go_on(order, ahead[1:], (*taken, ahead[0]), p * chance, best)
            if chance < 1:
                go_on(order, ahead[1:], taken, p * (1 - chance), best)

    orders = list(itertools.permutations(range(len(scores))))
    for order in orders:
        begin(order, (), 1 / len(orders))
    assert math.isclose(sum(law.values()), 1)
    return law


def successive(scores: list[float], k: int, beta: float) -> dict[frozenset[int], float]:
    """The law of k draws without replacement, each in proportion to exp(score / beta): what `rso`
    is not.
    """
    weights = [math.exp(s / beta) for s in scores]
    law: Counter[frozenset[int]] = Counter()
    for drawn in itertools.permutations(range(len(scores)), k):
        p, rest = 1.0, sum(weights)
        for i in drawn:
            p, rest = p * weights[i] / rest, rest - weights[i]
        law[frozenset(drawn)] += p
    return law


def unlikely(seen: Counter[frozenset[int]], law: dict[frozenset[int], float]) -> float:
    """Pearson's chi-square in standard deviations above its mean; sets that are expected less than
    5 times count as one.
    """
    n = sum(seen.values())
    assert set(seen) <= set(law)
    rare = [s for s, p in law.items() if p * n < 5]
    cells = [(seen[s], p * n) for s, p in law.items() if s not in rare]
    if rare and sum(law[s] for s in rare) * n > 1:
        cells.append((sum(seen[s] for s in rare), sum(law[s] for s in rare) * n))
    freedom = len(cells) - 1
    return (sum((got - wanted) ** 2 / wanted for got, wanted in cells) - freedom) / math.sqrt(
        2 * freedom
    )


PROMPTS = 6000

LAWS = [
    ([0.0, math.log(2)], 1, 1.0),
    ([0.0, 0.5, 1.0, 1.5], 2, 0.5),
    ([0.0, 0.5, 1.0, 1.5], 3, 2.0),
    ([1.0, 1.0, 2.0, 2.0, 3.0], 2, 1.0),
    ([-3.0, 0.1, 0.2, 0.3, 0.4], 1, 0.2),
]


def pool_of(scores: list[float], prompts: int = PROMPTS) -> pl.DataFrame:
    answers = pl.DataFrame({"completion": [str(i) for i in range(len(scores))], "score": scores})
    return pl.DataFrame({"prompt": [f"prompt {i}" for i in range(prompts)]}).join(
        answers, how="cross"
    )


def sets_of(rows: pl.DataFrame) -> Counter[frozenset[int]]:
    picked = rows.group_by("prompt").agg("completion")["completion"].to_list()
    return Counter(frozenset(map(int, answers)) for answers in picked)


@pytest.mark.parametrize(("scores", "k", "beta"), LAWS)
def test_the_law_is_that_of_the_paper(scores, k, beta):
    """Over many prompts under one seed, in both engines, which pick the same rows."""
    pool, plan = pool_of(scores), pm.BestOf(k=k, pick="rso", beta=beta, seed=11)
    rows = plan.lazy(pool).collect()
    with duckdb.connect(config={"threads": 2}) as con:
        install(con)
        con.register("pool", pool.to_arrow())
        assert con.sql(plan.sql("pool")).fetchall() == rows.rows()
    seen = sets_of(rows)
    assert sum(seen.values()) == PROMPTS
    assert unlikely(seen, law_of_the_paper(scores, k, beta)) < 4
    # 6,000 prompts are enough to tell the two laws apart
    assert unlikely(seen, successive(scores, k, beta)) > 10


@pytest.mark.parametrize(("scores", "k", "beta"), LAWS[:3])
def test_the_law_over_seeds_of_one_prompt(scores, k, beta):
    hashes = [oracle_rows.hashed("What is a prime?", seed) for seed in range(6000)]
    pools = pl.DataFrame(
        {"_scores": [scores] * len(hashes), "_hash": pl.Series(hashes, dtype=pl.UInt64)}
    ).to_struct("pools")
    seen = Counter(
        frozenset(rank - 1 for rank in ranks) for ranks in accepted_ranks(pools, k, beta).to_list()
    )
    assert unlikely(seen, law_of_the_paper(scores, k, beta)) < 4


def test_the_oracle_is_the_listing_of_the_paper():
    """With draws from a generator, in the order in which they are asked for; candidates in a
    shuffled order.
    """
    scores, k, beta, draw = [0.0, 0.5, 1.0, 1.5], 2, 0.5, random.Random(5)
    seen: Counter[frozenset[int]] = Counter()
    for _ in range(6000):
        order = draw.sample(range(1, 5), 4)
        seen[
            frozenset(
                r - 1 for r in oracle.accepted(order, scores, k, beta, lambda r, t: draw.random())
            )
        ] += 1
    assert unlikely(seen, law_of_the_paper(scores, k, beta)) < 4


def test_small_beta_is_the_best_and_large_beta_is_random():
    pool = pool_of([0.3, 0.1, 0.9, 0.5, 0.7], prompts=300)
    for k in (1, 3, 5):
        best, chance = (
            pm.BestOf(k=k, pick=pick, seed=3).lazy(pool).collect() for pick in ("best", "random")
        )
        assert pm.BestOf(k=k, pick="rso", beta=1e-12, seed=3).lazy(pool).collect().equals(best)
        assert pm.BestOf(k=k, pick="rso", beta=1e12, seed=3).lazy(pool).collect().equals(chance)


def test_more_accepted_begin_with_fewer():
    pool = pool_of([0.0, 0.5, 1.0, 1.5, 2.0], prompts=200)
    picked = [
        set(
            pm.BestOf(k=k, pick="rso", beta=0.7)
            .lazy(pool)
            .collect()
            .select("prompt", "completion")
            .rows()
        )
        for k in range(1, 6)
    ]
    assert all(few < many for few, many in itertools.pairwise(picked))


def test_rows_of_other_prompts_order_and_threads_are_no_matter(tmp_path):
    draw = random.Random(8)
    pool = pl.DataFrame(
        [
            (f"p{i % 150}", "x" * draw.randrange(60), round(draw.gauss(0, 1), 3), i)
            for i in range(2000)
        ],
        schema=["prompt", "completion", "score", "id"],
        orient="row",
    )
    for plan in (
        pm.BestOf(k=4, pick="rso", beta=0.4, tie_break="id"),
        pm.BestOf(k=4, pick="rso", beta=0.4, tie_break="id", length_control=True),
        pm.BestOf(k=2, length_control=True, tie_break="id", min_score=-1),
    ):
        found = set()
        for seed, engine, threads in ((0, "duckdb", 1), (1, "duckdb", 4), (2, "polars", 1)):
            pool.sample(fraction=1, shuffle=True, seed=seed).write_parquet(
                tmp_path / "pool.parquet", row_group_size=300
            )
            told = pm.run(
                plan,
                tmp_path / "pool.parquet",
                tmp_path / "out.parquet",
                engine=engine,
                threads=threads,
                overwrite=True,
            )
            rows = pl.read_parquet(tmp_path / "out.parquet").sort("prompt", "rank")
            found.add((str(rows.rows()), str(told.length)))
        assert len(found) == 1, plan


def test_a_long_list_and_passes_without_end():
    """Equal scores fall in one pass, distinct ones under a small beta each in their own: 3,000 of
    3,000 candidates, and 40 of them.
    """
    scores = [float(i % 7) for i in range(3000)]
    pool = pl.DataFrame(
        {"prompt": ["p"] * 3000, "completion": [str(i) for i in range(3000)], "score": scores}
    )
    with duckdb.connect(config={"threads": 2}) as con:
        install(con)
        con.register("pool", pool.to_arrow())
        for k, beta in ((1, 1e-9), (40, 1e-9), (40, 3.0), (2999, 50.0)):
            plan = pm.BestOf(k=k, pick="rso", beta=beta)
            assert con.sql(plan.sql("pool")).fetchall() == plan.lazy(pool).collect().rows()


# Length control


def test_length_is_what_wins_without_control_and_not_with_it():
    """Scores are quality and three times length: the best by adjusted scores have the better
    quality.
    """
    draw = random.Random(4)
    rows = [
        (f"p{p}", "x" * length, quality + 0.03 * length + p % 5, quality)
        for p in range(200)
        for length, quality in ((draw.randrange(5, 200), draw.gauss(0, 1)) for _ in range(8))
    ]
    pool = pl.DataFrame(rows, schema=["prompt", "completion", "score", "quality"], orient="row")
    fit = pm.pair_report(pool, pm.BestOf(length_control=True)).length
    assert fit is not None
    assert abs(fit["slope"] - 30) < 2
    assert 0.7 < fit["correlation"] < 1
    plain, controlled = (pm.BestOf(length_control=on).lazy(pool).collect() for on in (False, True))
    quality = {row[:2]: row[3] for row in rows}
    means = [
        sum(quality[row[:2]] for row in best.rows()) / best.height for best in (plain, controlled)
    ]
    assert means[1] > means[0] + 0.5
    lengths = [best["completion"].str.len_chars().mean() for best in (plain, controlled)]
    assert lengths[1] < lengths[0] - 30
    assert controlled.columns == ["prompt", "completion", "score", "rank", "adjusted_score"]


def test_files_formats_and_the_report_of_the_command(tmp_path):
    pool = pl.DataFrame(
        {
            "prompt": ["p"] * 3,
            "completion": ["a", "bbb", "ccccc"],
            "score": [2, 2, 5],
            "model": ["x", "y", "z"],
        }
    )
    pool.write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "out.parquet"
    for engine in ("duckdb", "polars"):
        done = command(
            "best",
            tmp_path / "pool.parquet",
            "-o",
            out,
            "--length-control",
            "--engine",
            engine,
            "--overwrite",
            "--json",
        )
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["length"] == {
            "slope": 750.0,
            "correlation": 0.866025404,
            "mean": 3.0,
        }
        assert (
            "length control: +750 a 1,000 characters taken out (correlation 0.866 inside prompts)"
            in done.stderr
        )
        assert pl.read_parquet(out).to_dicts() == [
            {
                "prompt": "p",
                "completion": "ccccc",
                "score": 5,
                "model": "z",
                "rank": 1,
                "adjusted_score": 3.5,
            }
        ]
        for layout, columns in (
            ("messages", ["messages", "model"]),
            ("prompt-completion", ["prompt", "completion", "model"]),
        ):
            more = ("--format", layout, "--keep", "model", "--overwrite", "--engine", engine)
            done = command("best", tmp_path / "pool.parquet", "-o", out, "--length-control", *more)
            assert done.exit_code == 0, done.stderr
            assert pl.read_parquet(out).columns == columns
    (tmp_path / "plan.toml").write_text("[best_of]\nlength_control = true\n")
    command(
        "best",
        tmp_path / "pool.parquet",
        "-o",
        out,
        "--plan",
        tmp_path / "plan.toml",
        "--no-length-control",
        "--overwrite",
    )
    assert "adjusted_score" not in pl.read_parquet(out).columns


def test_length_of_conversations():
    said = [[{"role": "assistant", "content": text}] for text in ("a", "bbb", "ccccc")]
    said[1] = [{"role": "assistant", "content": "b"}, {"role": "assistant", "content": "bb"}]
    pool = pl.DataFrame({"prompt": ["p"] * 3, "completion": said, "score": [2, 2, 5]})
    with duckdb.connect() as con:
        install(con)
        con.register("pool", pool.to_arrow())
        plan = pm.BestOf(k=3, length_control=True)
        rows = plan.lazy(pool).collect()
        assert rows["adjusted_score"].to_list() == [3.5, 3.5, 2.0]
        assert con.sql(plan.sql("pool")).fetchall() == rows.rows()
        assert report(plan, con, "pool") == pm.pair_report(pool, plan)


def test_the_macro_has_both():
    with duckdb.connect() as con:
        install(con)
        con.sql(
            "CREATE TABLE pool AS FROM (VALUES ('p', 'a', 2), ('p', 'bbb', 2), ('p', 'ccccc', 5)) "
            "t(prompt, completion, score)"
        )
        found = con.sql("FROM best_of(pool, length_control := true)")
        assert found.columns == ["prompt", "completion", "score", "rank", "adjusted_score"]
        assert found.fetchall() == [("p", "ccccc", 5.0, 1, 3.5)]
        found = con.sql("FROM best_of(pool, k := 2, pick := 'rso', beta := 0.3, seed := 4)")
        assert found.columns == ["prompt", "completion", "score", "rank"]
        assert (
            found.fetchall()
            == pm.BestOf(k=2, pick="rso", beta=0.3, seed=4)
            .lazy(con.table("pool").pl())
            .collect()
            .rows()
        )


def test_a_stream_cannot_know_the_slope():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(
        {"prompt": ["p", "p"], "completion": ["a", "bb"], "score": [1, 2]}
    ).to_iterable_dataset()
    with pytest.raises(BadArgument, match="length_control"):
        prefmill.datasets.apply(pm.BestOf(length_control=True), rows, clustered=True)
    best = list(prefmill.datasets.apply(pm.BestOf(length_control=True), rows))
    assert best == [
        {"prompt": "p", "completion": "bb", "score": 2.0, "rank": 1, "adjusted_score": 1.5}
    ]
    assert list(prefmill.datasets.apply(pm.BestOf(pick="rso"), rows, clustered=True)) == list(
        prefmill.datasets.apply(pm.BestOf(pick="rso"), rows)
    )


# Plans and options


def test_plans_keep_their_hash_and_go_round():
    assert pm.BestOf().hash() == "e02f3fe06b380824"
    assert (
        len({pm.BestOf().hash(), pm.BestOf(beta=1).hash(), pm.BestOf(length_control=True).hash()})
        == 3
    )
    plan = pm.BestOf(pick="rso", beta=0.25, length_control=True)
    assert "beta = 0.25\nlength_control = true" in plan.to_toml()
    assert pm.BestOf.from_toml(plan.to_toml()) == plan


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--pick", "rso", "--beta", "0"], "beta must be a finite number > 0; got 0.0"),
        (["--pick", "rso", "--beta", "-1"], "beta must be a finite number > 0; got -1.0"),
        (["--pick", "rso", "--beta", "nan"], "beta must be a finite number > 0; got nan"),
        (
            ["--pick", "rso", "--scope", "pool"],
            "pick 'rso' accepts inside a prompt; got scope 'pool', expected 'prompt'",
        ),
    ],
)
def test_what_is_refused(args, words, tmp_path):
    pool_of([1.0, 2.0], 2).write_parquet(tmp_path / "pool.parquet")
    with pytest.raises(PrefmillError) as caught:
        command("best", tmp_path / "pool.parquet", "-o", tmp_path / "out.parquet", *args)
    assert words in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_majority_needs_conclusions_and_the_macro_says_so():
    rows = pl.DataFrame({"prompt": ["p"], "completion": ["a"], "score": [1]})
    with pytest.raises(PlanError, match="pick 'majority' needs the role conclusion"):
        pm.BestOf(pick="majority").lazy(rows)
    con = duckdb.connect()
    install(con)
    con.register("pool", rows.with_columns(final=pl.lit("7")).to_arrow())
    for query in ("pick := 'majority'", "conclusion := final"):
        with pytest.raises(duckdb.InvalidInputException, match="majority, and only it, needs"):
            con.sql(f"FROM best_of(pool, {query})").fetchall()
    assert con.sql("FROM best_of(pool, pick := 'majority', conclusion := final)").fetchall() == [
        ("p", "a", 1.0, 1, 1)
    ]


def test_conclusions_are_no_fractions():
    rows = pl.DataFrame({"prompt": ["p"], "completion": ["a"], "score": [1], "final": [0.5]})
    with pytest.raises(BadArgument, match="cannot be the role 'conclusion'"):
        pm.BestOf(pick="majority").lazy(rows, conclusion="final")
