"""Best-of-K on the command line and in files: layouts, splits, what is refused, and the macro from
a bare connection.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from best_pool import POOL, best
from command import prefmill

import prefmill as pm


@pytest.fixture
def pool(tmp_path) -> Path:
    POOL.write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


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


def best_against_worst(pool, k: int, least: str = "none"):
    """What `best --format pairs` was: each of the k best against the worst of its prompt."""
    plan = pm.Pairs(
        strategy="all",
        top_k=k,
        bottom_k=1,
        chosen_min=None if least == "none" else float(least),
        rejected_below=None,
    )
    target = pool.parent / "pairs.parquet"
    pm.run(plan, pool, target, overwrite=True)
    return pl.read_parquet(target)


def test_each_of_the_best_against_the_worst(pool):
    out = best_against_worst(pool, 2)
    assert out.rows() == [
        ("p", "b", "a", 3.0, 1.0),
        ("p", "c", "a", 2.0, 1.0),
        ("q", "y", "x", 2.5, 2.0),
    ]
    assert best_against_worst(pool, 1, "2.6").rows() == [("p", "b", "a", 3.0, 1.0)]


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
        "pairs",
        tmp_path / "pool.parquet",
        "-o",
        tmp_path / "out.parquet",
        "--chosen-min",
        "-1.5",
        "--rejected-below",
        "none",
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
        (["--format", "pairs"], "'pairs'"),
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
            "note: the input's column 'rank' is 'rank_in' in the output, which has a 'rank' of its "
            "own" in done.stderr
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
