"""Several scorers from a command line, from a file, and in a loop's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pools
import pytest
from command import prefmill as command

from prefmill.cli.score import scorer_of
from prefmill.errors import BadArgument, PlanError
from prefmill.loops.recipe import read_recipe
from prefmill.scoring.kinds import scorer_from

pytest.importorskip("torch", reason="needs the extra prefmill[score]")
pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

pytestmark = pytest.mark.score

FILE = """
[score]
kind = "ensemble"
combine = "zscore"
over = "pool"
[score.scorers.rm]
model = "{rm}"
[score.scorers."org/lp"]
kind = "logprob"
model = "base"
"""
ROWS = pl.DataFrame(pools.POOL, schema=["prompt", "completion"], orient="row")


def by_hand(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


def options(**given: Any) -> dict[str, Any]:
    return {"scorer": "reward", "model": None, **given}


def test_the_command_scores_with_two_models(tmp_path: Path) -> None:
    """Each model's column is its owner's number, and the score their z-scores' mean."""
    folders = pools.reward("llama"), pools.reward("bert")
    ROWS.write_parquet(tmp_path / "pool.parquet")
    models = [word for folder in folders for word in ("--model", folder)]
    done = command(
        "score", "pool.parquet", "-o", "out.parquet", *models, "--combine", "zscore", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    out = pl.read_parquet(tmp_path / "out.parquet")
    names = [f"score_{folder.name}" for folder in folders]
    assert out.columns == ["prompt", "completion", "score", *names, "score_disagreement"]
    for name, folder in zip(names, folders, strict=True):
        pools.assert_close(out[name].to_numpy(), pools.oracle(folder, pools.POOL))
    for (prompt,), rows in out.group_by("prompt"):
        one, two = (by_hand(rows[name].to_list()) for name in names)
        mean = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
        apart = [abs(a - b) / 2 for a, b in zip(one, two, strict=True)]
        assert rows["score"].to_list() == pytest.approx(mean, abs=1e-8), prompt
        assert rows["score_disagreement"].to_list() == pytest.approx(apart, abs=1e-8), prompt


def test_a_file_describes_scorers_of_several_kinds(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(FILE.format(rm="./rm"))
    made = scorer_of(options(scorer=str(path)))
    assert (made.combine, made.over) == ("zscore", "pool")
    assert {name: type(each).__name__ for name, each in made.scorers.items()} == {
        "rm": "RewardModel",
        "org/lp": "LogProb",
    }
    assert made.scorers["org/lp"].model == "base"
    path.write_text('model = "./rm"\nlabel = "good"\n')
    assert scorer_of(options(scorer=str(path))).label in ("good", ("good",))


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("[score", {}, "is not TOML"),
        ("score = 3", {}, "is no table; got 3"),
        ('kind = "rewards"', {}, "kind 'rewards' is none"),
        ('modle = "rm"', {}, "did you mean 'model'"),
        ('label = "good"', {}, "model"),
        ('[score]\nkind = "ensemble"\n', {}, "scorers"),
        ('[score]\nkind = "ensemble"\nscorers = []\n', {}, "no scorers"),
        ('model = "rm"', {"model": ["other"]}, "--model has no meaning"),
        ('model = "rm"', {"combine": "mean"}, "--combine has no meaning"),
        ('model = "rm"', {"max_length": 3}, "--max-length has no meaning"),
    ],
)
def test_files_that_describe_no_scorer(
    text: str, given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "score.toml"
    path.write_text(text)
    with pytest.raises(BadArgument, match=says):
        scorer_of(options(scorer=str(path), **given))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": ["a"], "combine": "zscore"}, "no meaning with one model"),
        ({"model": ["a", "b"], "combine": "median"}, "combine is not one of"),
        ({"model": ["a", "b"], "combine": "worst"}, "worst needs one scale"),
        ({"model": ["a", "b"], "over": "pool"}, "for zscore and rank"),
        ({"model": ["a", "b"], "combine": "calibrated"}, "needs a calibration for each"),
        ({"model": ["a", "b"], "calibration": ["c=x"]}, "expected NAME=FILE for each"),
        ({"model": ["a"], "scorer": "ensemble"}, "written in a file"),
    ],
)
def test_options_that_make_no_ensemble(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        scorer_of(options(**given))


def test_worst_from_options_and_names_that_are_taken() -> None:
    given = options(model=["org/a", "b/"], combine="worst", scales="a=2,b=0.5")
    assert dict(scorer_of(given).scales) == {"a": 2, "b": 0.5}
    for models in (["x/score", "y"], ["x/rm", "y/RM"], ["disagreement", "x"]):
        assert list(scorer_of(options(model=models)).scorers) == ["model1", "model2"]


def recipe(**score: Any) -> dict[str, Any]:
    prompts = {"train": "p.jsonl", "heldout_share": 0.2}
    return {"policy": {"model": "base"}, "prompts": prompts, "score": score}


def test_a_recipe_has_ensembles() -> None:
    scorers = {"rm": {"model": "rm", "device": "cpu"}, "lp": {"kind": "logprob", "model": "base"}}
    made = read_recipe(recipe(kind="ensemble", combine="rank", scorers=scorers))
    assert made.score is not None
    scorer = scorer_from(made.score.kind, made.score.scorer)
    assert (scorer.combine, list(scorer.scorers)) == ("rank", ["rm", "lp"])
    other = recipe(kind="ensemble", combine="rank", scorers={**scorers, "rm": {"model": "rm"}})
    assert read_recipe(other).decides() == made.decides()
    assert read_recipe(recipe(kind="ensemble", scorers=scorers)).decides() != made.decides()


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ({"kind": "ensemble"}, "scorers: got nothing"),
        ({"kind": "ensemble", "scorers": {"a": {"model": "x"}}, "combin": "min"}, "'combine'"),
        ({"kind": "ensemble", "scorers": {"a": {"modle": "x"}}}, "did you mean 'model'"),
        ({"kind": "ensemble", "scorers": {"a": {"kind": "x"}}}, "kind 'x' is none"),
    ],
)
def test_a_recipe_tells_what_is_wrong_with_one(score: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        read_recipe(recipe(**score))
