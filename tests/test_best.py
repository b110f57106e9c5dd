"""Best-of-K on the command line and in files: layouts, splits, what is refused, and the macro from
a bare connection.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import duckdb
import polars as pl
import pytest
from test_cli import prefmill

import prefmill as pm
from prefmill.duckdb import install, report
from prefmill.plans import read_plan

POOL = pl.DataFrame(
    [
        ("p", "a", 1.0, 1, "m1"),
        ("p", "b", 3.0, 1, "m2"),
        ("q", "x", 2.0, 1, "m1"),
        ("p", "c", 2.0, 2, "m3"),
        ("q", "y", 2.5, 2, "m4"),
        ("p", "d", None, 2, "m5"),
    ],
    schema=["question", "answer", "reward", "round", "model"],
    orient="row",
)


@pytest.fixture
def pool(tmp_path) -> Path:
    POOL.write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def best(pool: Path, *args: object, out: str = "out.parquet") -> pl.DataFrame:
    done = prefmill("best", pool, "-o", pool.parent / out, "--overwrite", *args)
    assert done.returncode == 0, done.stderr
    return (
        pl.read_ndjson(pool.parent / out)
        if out.endswith("jsonl")
        else pl.read_parquet(pool.parent / out)
    )


def test_whole_rows_and_their_report(pool):
    done = prefmill("best", pool, "-o", pool.parent / "out.parquet", "-k", "2", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (
        report["rows_in"]
        == report["rows_used"] + report["rows_not_selected"] + sum(report["dropped"].values())
        == 6
    )
    assert (report["pairs_out"], report["groups_in"], report["groups_used"], report["dropped"]) == (
        4,
        2,
        2,
        {"null_score": 1},
    )
    assert "4 rows from 2 of 2 prompts" in done.stderr
    out = pl.read_parquet(pool.parent / "out.parquet")
    wanted = POOL[[1, 3, 4, 2]].with_columns(rank=pl.Series([1, 2, 1, 2]))
    assert out.equals(wanted)
    assert out.schema == wanted.schema


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize(
    ("args", "answers"),
    [
        ([], ["b", "y"]),
        (["--k", "9", "--pick", "worst"], ["b", "c", "a", "y", "x"]),
        (["--pick", "median"], ["c", "x"]),
        (["--scope", "pool", "-k", "2"], ["b", "y"]),
        (["--min-score", "2.5"], ["b", "y"]),
        (["--stages", "last", "--stage", "round"], ["c", "y"]),
        (["--score", "-reward"], ["a", "x"]),
    ],
)
def test_options(by, args, answers, pool):
    assert best(pool, *args, "--engine", by)["answer"].to_list() == answers


def test_prompt_completion(pool):
    out = best(pool, "--format", "prompt-completion", "--keep", "model,reward")
    assert out.to_dicts() == [
        {"prompt": "p", "completion": "b", "model": "m2", "reward": 3.0},
        {"prompt": "q", "completion": "y", "model": "m4", "reward": 2.5},
    ]
    out = best(pool, "--format", "prompt-completion", "--chat")
    assert out.row(0) == (
        [{"role": "user", "content": "p"}],
        [{"role": "assistant", "content": "b"}],
    )


def test_messages_load_in_datasets(pool):
    datasets = pytest.importorskip("datasets")
    out = best(pool, "--format", "messages", "--keep", "model", out="out.jsonl")
    first = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]
    assert out.row(0) == (first, "m2")
    rows = datasets.load_dataset(
        "json",
        data_files=str(pool.parent / "out.jsonl"),
        split="train",
        cache_dir=str(pool.parent / "cache"),
    )
    assert rows.column_names == ["messages", "model"]
    assert rows[0]["messages"] == first
    done = prefmill(
        "best", pool, "-o", f"{pool.parent}/sft/", "--format", "prompt-completion", "--chat"
    )
    assert done.returncode == 0, done.stderr
    rows = datasets.load_from_disk(str(pool.parent / "sft"))
    assert rows[1] == {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "y"}],
    }


def test_conversations_stay_conversations(tmp_path):
    prompt = [{"from": "human", "value": "hi"}]
    pl.DataFrame(
        {"prompt": [prompt, prompt], "completion": ["a", "b"], "score": [1, 2]}
    ).write_parquet(tmp_path / "pool.parquet")
    assert best(tmp_path / "pool.parquet")["prompt"].to_list() == [prompt]  # as it is
    out = best(tmp_path / "pool.parquet", "--format", "messages")
    assert out["messages"].to_list() == [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "b"}]
    ]
    out = best(tmp_path / "pool.parquet", "--format", "prompt-completion")
    assert out.row(0) == (
        [{"role": "user", "content": "hi"}],
        [{"role": "assistant", "content": "b"}],
    )


def test_each_of_the_best_against_the_worst(pool):
    out = best(pool, "-k", "2", "--format", "pairs")
    assert out.rows() == [
        ("p", "b", "a", 3.0, 1.0),
        ("p", "c", "a", 2.0, 1.0),
        ("q", "y", "x", 2.5, 2.0),
    ]
    assert best(pool, "--format", "pairs", "--min-score", "2.6").rows() == [
        ("p", "b", "a", 3.0, 1.0)
    ]


def test_the_aggregated_score_stands_beside_the_row_s_own(tmp_path):
    rows = {
        "prompt": ["p", "p", "p"],
        "completion": ["a", "b", "a"],
        "score": [1, 2, 4],
        "stage": [1, 1, 2],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "pool.parquet")
    out = best(tmp_path / "pool.parquet", "--aggregate", "max", "-k", "2")
    assert out.columns == ["prompt", "completion", "score", "stage", "rank", "aggregated_score"]
    assert out.rows() == [("p", "a", 1, 1, 1, 4.0), ("p", "b", 2, 1, 2, 2.0)]


def test_splits_go_by_the_prompt_whatever_its_column(tmp_path):
    many = pl.DataFrame(
        {
            "question": [f"p{i % 50}" for i in range(200)],
            "answer": [str(i) for i in range(200)],
            "score": list(range(200)),
        }
    )
    many.write_parquet(tmp_path / "pool.parquet")
    for layout in ("pool", "prompt-completion"):
        out = tmp_path / f"{layout}.parquet"
        done = prefmill(
            "best",
            tmp_path / "pool.parquet",
            "-o",
            out,
            "-k",
            "2",
            "--format",
            layout,
            "--split",
            "a=0.5,b=0.5",
            "--json",
        )
        assert done.returncode == 0, done.stderr
        column = "question" if layout == "pool" else "prompt"
        a, b = (
            set(pl.read_parquet(tmp_path / f"{layout}-{name}.parquet")[column]) for name in "ab"
        )
        assert a
        assert b
        assert not a & b
        assert len(a | b) == 50
        assert json.loads(done.stdout)["split_rows"] == {"a": 2 * len(a), "b": 2 * len(b)}


def test_csv_stages_are_text(tmp_path):
    (tmp_path / "pool.csv").write_text(
        "prompt,completion,score,stage\np,a,9,9\np,b,1,10\np,c,2,10\n"
    )
    assert best(tmp_path / "pool.csv", "--stages", "last")["completion"].to_list() == ["c"]


def test_nothing_left_is_exit_code_1_with_a_hint(pool):
    done = prefmill("best", pool, "-o", pool.parent / "out.parquet", "--min-score", "99")
    assert done.returncode == 1
    assert "no rows came out" in done.stderr
    assert "largest score seen 3, min_score 99: lower --min-score" in done.stderr
    POOL.with_columns(reward=pl.lit(None, pl.Float64)).write_parquet(pool)
    done = prefmill("best", pool, "-o", pool.parent / "none.parquet")
    assert done.returncode == 1
    assert "no row could be used: 6 of 6 rows are null_score" in done.stderr


def test_pairs_without_contrast_have_a_hint_too(tmp_path):
    pl.DataFrame({"prompt": ["p", "q"], "completion": ["a", "b"], "score": [1, 2]}).write_parquet(
        tmp_path / "pool.parquet"
    )
    done = prefmill(
        "best",
        tmp_path / "pool.parquet",
        "-o",
        tmp_path / "out.parquet",
        "--format",
        "pairs",
        "--min-score",
        "-1.5",
    )
    assert done.returncode == 1
    assert "2 of 2 rows dropped as single_completion" in done.stderr


def test_whole_rows_keep_every_column_whatever_its_name_and_type(tmp_path):
    names = [
        'a"b',
        "a'b",
        "*",
        "^x$",
        "a.b",
        "_pos",
        "_score",
        "slot",
        "chosen",
        "label",
        "SELECT",
        "🙂",
    ]
    pool = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [1, 2]})
    pool = pool.with_columns(pl.lit(i).alias(name) for i, name in enumerate(names))
    pool = pool.with_columns(
        date=pl.date(2026, 1, 2), nested=pl.struct(x=1), ids=pl.concat_list(pl.lit(1), pl.lit(2))
    )
    pool.write_parquet(tmp_path / "pool.parquet")
    for engine in ("duckdb", "polars"):
        pm.run(
            pm.BestOf(),
            tmp_path / "pool.parquet",
            tmp_path / "out.parquet",
            engine=engine,
            overwrite=True,
        )
        assert pl.read_parquet(tmp_path / "out.parquet").equals(
            pool[1:].with_columns(rank=pl.lit(1, pl.Int64))
        )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-k", "0"], "k must be a whole number >= 1; got 0"),
        (["--pick", "top"], "pick is not one of"),
        (["--min-score", "high"], "expected a number or none"),
        (["--stages", "last"], "needs the role stage"),
        (
            ["--stages", "last", "--stage", "reward", "--score", "reward"],
            "cannot be the role 'stage'; got type Float64, expected whole numbers",
        ),
        (["--format", "trl"], "got 'trl' for picks"),
        (["--format", "pool", "--chat"], "'pool' leaves every column as it is"),
        (["--format", "pool", "--keep", "model"], "keeps every column"),
        (
            ["--format", "pairs", "--pick", "random"],
            "expected pick best, scope prompt, stages all, no length control",
        ),
        (
            ["--format", "pairs", "--scope", "pool"],
            "expected pick best, scope prompt, stages all, no length control",
        ),
        (["--format", "messages", "--keep", "modell"], "modell"),
    ],
)
def test_what_is_refused(args, words, pool):
    done = prefmill("best", pool, "-o", pool.parent / "out.parquet", *args)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (pool.parent / "out.parquet").exists()


def test_formats_of_picks_are_not_for_pairs(pool):
    for command in ("pairs", "unpair"):
        for layout in ("pool", "messages"):
            done = prefmill(command, pool, "-o", pool.parent / "out.parquet", "--format", layout)
            assert done.returncode == 2
            assert "expected" in done.stderr


def test_a_column_named_rank_is_no_accident(pool):
    best(pool, "-k", "2", out="first.parquet")
    for engine in ("duckdb", "polars"):
        second = pool.parent / f"{engine}.parquet"
        done = prefmill("best", pool.parent / "first.parquet", "-o", second, "--engine", engine)
        assert done.returncode == 0, done.stderr
        assert (
            "note: the input's column 'rank' is 'rank_in' in the output, which has a 'rank' of its own"
            in done.stderr
        )
        first, out = pl.read_parquet(pool.parent / "first.parquet"), pl.read_parquet(second)
        assert out.columns == [*first.drop("rank").columns, "rank_in", "rank"]
        assert out.drop("rank").equals(
            first.filter(pl.col("rank") == 1)
            .rename({"rank": "rank_in"})
            .select(out.drop("rank").columns)
        )
        done = prefmill(
            "best",
            second,
            "-o",
            pool.parent / "third.parquet",
            "--engine",
            engine,
            "--json",
            "--quiet",
        )
        assert done.returncode == 2, "a second column rank_in would be one too many"
        assert "the input has a column 'rank_in'" in done.stderr
    done = prefmill(
        "best",
        pool.parent / "first.parquet",
        "-o",
        pool.parent / "json.parquet",
        "--json",
        "--quiet",
    )
    assert json.loads(done.stdout)["renamed"] == {"rank": "rank_in"}
    done = prefmill(
        "best",
        pool.parent / "first.parquet",
        "-o",
        pool.parent / "second.parquet",
        "--format",
        "prompt-completion",
        "--keep",
        "rank,reward",
    )
    assert done.returncode == 0, done.stderr


def test_dry_run(pool):
    for engine, words in (("duckdb", "pref_picks('pools'"), ("polars", "SCAN")):
        done = prefmill("best", pool, "--dry-run", "--engine", engine, "-k", "3")
        assert done.returncode == 0, done.stderr
        assert "[best_of]" in done.stdout
        assert "k = 3" in done.stdout
        assert words in done.stdout
    done = prefmill("best", pool, "--dry-run", "-k", "3", "--format", "pairs")
    assert "[pairs]" in done.stdout
    assert "top_k = 3" in done.stdout


def test_plans_go_round_through_toml(pool):
    plan = pm.BestOf(
        k=3,
        pick="median",
        scope="pool",
        min_score=0.5,
        stages="last",
        aggregate="max",
        min_votes=2,
        seed=9,
    )
    assert read_plan(plan.to_toml()) == plan
    assert pm.BestOf.from_toml(pm.BestOf().to_toml()) == pm.BestOf()
    assert pm.BestOf(k=2).hash() != pm.BestOf(k=3).hash()
    (pool.parent / "plan.toml").write_text("[best_of]\nk = 9\npick = 'worst'\n")
    assert best(pool, "--plan", pool.parent / "plan.toml", "-k", "1")["answer"].to_list() == [
        "a",
        "x",
    ]


def test_hashes_of_older_plans_stay():
    assert pm.Pairs(chosen_min=4, rejected_below=4).hash() == "65649862704f0053"
    assert pm.Unpaired(chosen_min=4, rejected_below=3).hash() == "78675cb4bc778af8"


def test_lazy_and_sql_carry_the_stage_where_it_is_mapped():
    plan = pm.BestOf()
    lazy = plan.lazy(POOL, stage="round").collect()
    assert lazy.columns == ["prompt", "completion", "score", "rank", "stage"]
    con = duckdb.connect()
    install(con)
    con.register("pool", POOL.to_arrow())
    roles = {"prompt": "question", "completion": "answer", "score": "reward", "stage": "round"}
    assert (
        con.sql(plan.sql("pool", **roles)).fetchall()
        == lazy.rows()
        == [("p", "b", 3.0, 1, 1), ("q", "y", 2.5, 1, 2)]
    )
    assert report(plan, con, "pool", **roles) == pm.pair_report(POOL, plan)


def test_a_stage_that_is_no_whole_number_is_refused_in_sql():
    con = duckdb.connect()
    install(con)
    con.execute(
        "CREATE TABLE pool AS SELECT 'p' AS prompt, 'a' AS completion, 1 AS score, 1.5 AS stage"
    )
    with pytest.raises(
        duckdb.Error, match="prefmill: a stage is no whole number; got type DECIMAL"
    ):
        con.sql(pm.BestOf(stages="last").sql("pool")).fetchall()


# The macro


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.register("pool", POOL.to_arrow())
        connection.execute(
            "CREATE TABLE named AS SELECT question AS prompt, answer AS completion, reward AS score FROM pool"
        )
        connection.execute("CREATE TABLE empty AS FROM named LIMIT 0")
        yield connection


@pytest.mark.parametrize(
    ("call", "plan"),
    [
        ("named", {}),
        ("named, k := 2", {"k": 2}),
        ("named, k := 2, pick := 'worst'", {"k": 2, "pick": "worst"}),
        ("named, pick := 'random', seed := 4", {"pick": "random", "seed": 4}),
        ("named, pick := 'median', min_score := 2", {"pick": "median", "min_score": 2}),
        ("named, scope := 'pool', k := 3", {"scope": "pool", "k": 3}),
        (
            "named, scope := 'pool', pick := 'random', k := 3",
            {"scope": "pool", "pick": "random", "k": 3},
        ),
        ("named, k := 200000, scope := 'pool'", {"k": 200000, "scope": "pool"}),
    ],
)
def test_the_macro_is_the_plan(call, plan, con):
    assert (
        con.sql(f"FROM best_of({call})").fetchall() == pm.BestOf(**plan).lazy(POOL).collect().rows()
    )


def test_the_macro_takes_roles_by_name_as_expressions(con):
    rows = con.sql(
        "FROM best_of(pool, prompt := question, completion := answer, score := -reward, k := 2)"
    ).fetchall()
    assert rows == pm.BestOf(k=2).lazy(POOL, score="-reward").collect().rows()
    assert rows[0] == ("p", "a", -1.0, 1)


@pytest.mark.parametrize("table", ["named", "empty"])
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("k := 0", "k is no whole number >= 1; got 0"),
        ("k := NULL", "k is no whole number >= 1; got NULL"),
        ("k := 1.5", "k is no whole number >= 1; got 1.5"),
        ("pick := 'top'", "unknown pick; got top, expected best, median, worst, random or rso"),
        ("pick := NULL", "unknown pick; got NULL"),
        ("scope := 'group'", "unknown scope; got group, expected prompt or pool"),
        ("beta := 0", "beta is no finite number > 0; got 0"),
        ("beta := -0.5", "beta is no finite number > 0; got -0.5"),
        ("beta := 'nan'::DOUBLE", "beta is no finite number > 0; got nan"),
        ("beta := 'inf'::DOUBLE", "beta is no finite number > 0; got inf"),
        ("beta := NULL", "beta is no finite number > 0; got NULL"),
        (
            "pick := 'rso', scope := 'pool'",
            "pick rso accepts inside a prompt; got scope pool, expected prompt",
        ),
        ("length_control := NULL", "length_control is neither true nor false; got NULL"),
    ],
)
def test_the_macro_refuses_and_is_never_silently_empty(table, argument, words, con):
    with pytest.raises(duckdb.Error, match=f"prefmill: best_of: {words}"):
        con.sql(f"FROM best_of({table}, {argument})").fetchall()


def test_large_pools_take_every_way(con):
    """Heaps, sorted lists and lists with ids give the same picks."""
    many = pl.DataFrame(
        {
            "prompt": ["p"] * 3000,
            "completion": list(map(str, range(3000))),
            "score": [math.sin(i) for i in range(3000)],
        }
    )
    many = many.with_columns(id=pl.int_range(pl.len()))
    con.register("many", many.to_arrow())
    for pick in ("best", "worst"):
        for k in (1, 2, 70, 5000):
            wanted = (
                many.sort("score", descending=pick == "best")
                .head(k)
                .sort("score", descending=True)["completion"]
                .to_list()
            )
            for scope in ("prompt", "pool"):
                for tie in ("position", "id"):
                    plan = pm.BestOf(k=k, pick=pick, scope=scope, tie_break=tie)
                    assert [row[1] for row in con.sql(plan.sql("many")).fetchall()] == wanted, plan
                    assert plan.lazy(many).collect()["completion"].to_list() == wanted, plan
