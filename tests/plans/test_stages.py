"""The best of all stages, and controls of the same size."""

from __future__ import annotations

import polars as pl
import pytest
from pages import ROOT, run_page
from typer.testing import CliRunner

import prefmill as pm
import prefmill.datasets
from prefmill.cli.main import app
from prefmill.errors import BadArgument


def command(*args: object):
    """The command, in this process: its exit code, stdout and stderr; its own errors as they are
    raised.
    """
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


# Pools of several stages


@pytest.fixture
def stages(tmp_path):
    """Two stages; stage 1 says "b" again, and for the prompt q it did no better."""
    rows = [
        [("p", "a", 1.0), ("p", "b", 2.0), ("q", "x", 5.0), ("q", "y", 1.0)],
        [("p", "c", 3.0), ("p", "b", 2.5), ("q", "z", 4.0), ("q", "w", 2.0)],
    ]
    for stage, of_stage in enumerate(rows):
        frame = pl.DataFrame(of_stage, schema=["prompt", "completion", "score"], orient="row")
        frame.with_columns(stage=pl.lit(stage, pl.Int64)).write_parquet(
            tmp_path / f"s{stage}.parquet"
        )
    return tmp_path


def run(stages, name: str, *args: str) -> pl.DataFrame:
    out = stages / "out.parquet"
    done = command(
        name, stages / "s0.parquet", stages / "s1.parquet", "-o", out, "--overwrite", *args
    )
    assert done.exit_code == 0, done.stderr
    return pl.read_parquet(out)


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], [("p", "c", 3.0, 1), ("q", "x", 5.0, 0)]),  # the best ever seen, and its stage
        (
            ["-k", "2"],
            [("p", "c", 3.0, 1), ("p", "b", 2.5, 1), ("q", "x", 5.0, 0), ("q", "z", 4.0, 1)],
        ),
        (
            ["-k", "2", "--min-score", "3"],
            [("q", "x", 5.0, 0), ("q", "z", 4.0, 1), ("p", "c", 3.0, 1)],
        ),  # by first rows that are left
        (["--stages", "last"], [("p", "c", 3.0, 1), ("q", "z", 4.0, 1)]),
        (["--pick", "median"], [("p", "b", 2.0, 0), ("q", "w", 2.0, 1)]),
        (["--pick", "worst"], [("p", "a", 1.0, 0), ("q", "y", 1.0, 0)]),
        (["--pick", "rso", "--beta", "1e-6"], [("p", "c", 3.0, 1), ("q", "x", 5.0, 0)]),
        (["--keep", "stage"], [("p", "c", 3.0, 1), ("q", "x", 5.0, 0)]),  # a pool keeps it anyway
    ],
)
def test_the_best_of_all_stages(stages, by, args, expected):
    out = run(stages, "best", "--engine", by, *args)
    assert out.columns == ["prompt", "completion", "score", "stage", "rank"]
    assert out.select("prompt", "completion", "score", "stage").rows() == expected


def test_a_kept_column_has_to_be_there(stages):
    with pytest.raises(BadArgument, match=r"keep names no column of the input; got .*stge"):
        command("best", stages / "s0.parquet", "-o", stages / "out.parquet", "--keep", "stge")


def test_random_controls_have_the_size_of_what_they_control(stages):
    best, chance = (
        run(stages, "best", "-k", "3"),
        run(stages, "best", "-k", "3", "--pick", "random", "--seed", "5"),
    )
    assert best["prompt"].to_list() == chance["prompt"].to_list()
    assert set(chance["stage"]) == {0, 1}


def test_a_text_that_stages_repeat_is_one_candidate_of_the_stage_that_said_it_first(stages):
    for engine in ("duckdb", "polars"):
        out = run(stages, "best", "-k", "3", "--aggregate", "max", "--engine", engine)
        said = [("p", "c", 1, 3.0), ("p", "b", 0, 2.5), ("p", "a", 0, 1.0)]
        assert (
            out.filter(pl.col("prompt") == "p")
            .select("prompt", "completion", "stage", "aggregated_score")
            .rows()
            == said
        )
    both = pl.concat([pl.read_parquet(stages / f"s{i}.parquet") for i in range(2)])
    rows = pm.BestOf(k=2, aggregate="max").lazy(both, stage="stage").collect()
    assert rows.rows()[:2] == [("p", "c", 3.0, 1, 1), ("p", "b", 2.5, 2, 0)]


def test_sft_layouts_keep_the_stage(stages):
    out = run(stages, "best", "--format", "messages", "--keep", "stage,score")
    assert out.columns == ["messages", "stage", "score"]
    assert out["stage"].to_list() == [1, 0]


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_pairs_for_dpo_from_the_same_pool(stages, by):
    best_worst = run(stages, "pairs", "--no-thresholds", "--keep", "stage", "--engine", by)
    columns = [
        "prompt",
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
        "chosen_stage",
        "rejected_stage",
    ]
    assert best_worst.columns == columns
    assert best_worst.rows() == [("p", "c", "a", 3.0, 1.0, 1, 0), ("q", "x", "y", 5.0, 1.0, 0, 0)]
    chance = run(
        stages,
        "pairs",
        "--no-thresholds",
        "--strategy",
        "best_random",
        "--seed",
        "2",
        "--keep",
        "stage",
        "--engine",
        by,
    )
    assert chance["chosen"].to_list() == ["c", "x"]
    assert all(low < high for high, low in chance.select("chosen_score", "rejected_score").rows())
    other = [
        run(stages, "pairs", "--no-thresholds", "--strategy", "best_random", "--seed", str(s))[
            "rejected"
        ].to_list()
        for s in (3, 4, 5, 6)
    ]
    assert len({tuple(texts) for texts in other}) > 1
    ends = ("--strategy", "all", "--top-k", "1", "--bottom-k", "1", "--no-thresholds")
    again = run(stages, "pairs", *ends, "--engine", by)
    assert again.rows() == best_worst.select(columns[:5]).rows()


def test_every_block_of_the_page_runs(tmp_path):
    wrong = run_page(
        (ROOT / "docs" / "selection.md").read_text(encoding="utf-8"),
        tmp_path,
        set(),
        "docs/selection.md",
    )
    assert not wrong, "\n\n".join(wrong)
