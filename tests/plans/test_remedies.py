"""Where thresholds leave (nearly) no pair although scores differ, the report says what would."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import ThresholdsUnfit

FREE = {"chosen_min": None, "rejected_below": None}
SHARES = {"chosen_quantile": 0.7, "rejected_quantile": 0.3}


def pool(path: Path, prompts: int = 50, answers: int = 3, reaching: int = 1) -> Path:
    """Scores from 0 to 3, but for `reaching` of the first answers, which are 4.5."""
    count = prompts * answers
    scores = [(i * 7) % 10 / 3 for i in range(count)]
    scores[: reaching * answers : answers] = [4.5] * reaching
    rows = {
        "prompt": [f"p{i // answers}" for i in range(count)],
        "completion": [f"a{i}" for i in range(count)],
        "score": scores,
    }
    pl.DataFrame(rows).write_parquet(path)
    return path


def numbers(note: str) -> dict[str, int]:
    """The options of a note, each with its number."""
    found = re.findall(
        r"(--(?:(?! gives|[,:]|Here ).)*) gives (?:pairs of )?at most ([\d,]+)", note
    )
    return {option: int(number.replace(",", "")) for option, number in found}


@pytest.mark.parametrize("how", ["duckdb", "polars"])
@pytest.mark.parametrize(
    ("strategy", "given"),
    [
        ("best_worst", {}),
        ("best_random", {"chosen_min": 9, "rejected_below": 4}),
        ("best_rest", {"chosen_min": None, "rejected_below": -1}),
        ("adjacent", {}),
        ("all", {"chosen_quantile": 0.999}),
    ],
)
def test_the_numbers_are_those_of_the_options(how, strategy, given, tmp_path):
    path = pool(tmp_path / "in.parquet")
    few = pm.run(pm.Pairs(strategy=strategy, **given), path, None, engine=how)
    assert few.pairs_out <= 2
    told = numbers(few.notes[-1])
    field = "groups_used" if strategy == "all" else "pairs_out"
    for option, fields in (
        ("--no-thresholds", FREE),
        ("--chosen-quantile 0.7 --rejected-quantile 0.3", SHARES),
    ):
        other = pm.run(pm.Pairs(strategy=strategy, **fields), path, None, engine=how)
        gives, gave = getattr(other, field), getattr(few, field)
        assert told.get(option, 0) == (gives if gives > gave else 0)
    assert told


@pytest.mark.parametrize("how", ["duckdb", "polars"])
def test_nothing_is_said_where_nothing_would_help(how, tmp_path):
    path = pool(tmp_path / "in.parquet", reaching=0)
    assert pm.run(pm.Pairs(**FREE), path, None, engine=how).notes == []
    far = pm.Pairs(chosen_min=9, rejected_below=4, min_margin=8)
    assert pm.run(far, path, None, engine=how).notes == []
    enough = pool(tmp_path / "enough.parquet", reaching=5)
    assert not [note for note in pm.run(pm.Pairs(), enough, None, engine=how).notes if "--" in note]
    rows = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 5, 1]}
    pl.DataFrame(rows).write_parquet(tmp_path / "flat.parquet")
    assert pm.run(pm.Pairs(), tmp_path / "flat.parquet", None, engine=how).notes == []


def test_strategy_threshold_is_told_quantiles_only(tmp_path):
    few = pm.run(pm.Pairs(strategy="threshold"), pool(tmp_path / "in.parquet"), None)
    assert list(numbers(few.notes[-1])) == ["--chosen-quantile 0.7 --rejected-quantile 0.3"]


def test_the_command_says_it(tmp_path):
    path = pool(tmp_path / "in.parquet")
    out = str(tmp_path / "out.parquet")
    done = CliRunner().invoke(app, ["pairs", str(path), "-o", out])
    assert "only 1 of the 50 prompts whose answers have different scores have a pair" in done.stderr
    far = ["--chosen-min=9", "--rejected-below=4", "--overwrite"]
    done = CliRunner().invoke(app, ["pairs", str(path), "-o", out, *far])
    assert done.exit_code == 1
    assert "--no-thresholds gives at most 50 pairs" in done.stderr


@pytest.mark.parametrize("how", ["duckdb", "polars"])
def test_a_refusal_has_numbers_too(how, tmp_path):
    path = pool(tmp_path / "in.parquet", reaching=0)
    with pytest.raises(ThresholdsUnfit) as refused:
        pm.run(pm.Pairs(), path, None, engine=how)
    told = numbers(str(refused.value))
    free = pm.run(pm.Pairs(**FREE), path, None, engine=how).pairs_out
    shares = pm.run(pm.Pairs(**SHARES), path, None, engine=how).pairs_out
    assert told["--no-thresholds"] == free
    assert told["--chosen-quantile 0.7 --rejected-quantile 0.3"] == shares
    with pytest.raises(ThresholdsUnfit) as refused:
        pm.run(pm.Unpaired(), path, None, engine=how)
    assert "gives" not in str(refused.value)
