"""Recipes: every problem at once, keys, prompts, splits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prefmill import errors
from prefmill.loops import plot as stage_plot
from prefmill.loops.keys import policy_sampler
from prefmill.loops.prompts import load_prompts
from prefmill.loops.recipe import PromptsSection, read_recipe
from prefmill.scoring.kinds import scorer_from
from prefmill.table.chance import split_frame


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)


# -- recipes


def test_every_problem_of_a_recipe_is_said_at_once() -> None:
    wrong = {
        "stages": 0,
        "polcy": {"model": "m"},
        "prompts": {"train": 3, "heldout": "h", "heldout_share": 2},
        "sample": {"n": "8", "temperatures": [], "max_tokens": 5},
        "score": {"modl": "rm"},
        "second": {"kind": "rewrd"},
        "select": {"pick": "bst", "finished": 1},
        "train": {"method": "ppo", "learning_rat": 1},
        "stop": {"patience": 0},
    }
    with pytest.raises(errors.PlanError) as caught:
        read_recipe(wrong)
    said = "\n".join(caught.value.problems)
    for part in (
        "stages: got 0, expected a whole number >= 1",
        "[polcy]: no such section; did you mean 'policy'?",
        "[policy] model: got nothing",
        "[prompts] train: got 3, expected a path",
        "[prompts] heldout: got heldout_share beside it",
        "[prompts] heldout_share: got 2, expected a number > 0 and <= 1",
        "[sample] n: got '8', expected a whole number >= 1",
        "[sample] temperatures: got [], expected a list",
        "[sample] max_tokens: no such key; did you mean 'max_new_tokens'?",
        "[score] modl: no such key; did you mean 'model'?",
        "[score] model: got nothing",
        "[second] kind: got 'rewrd', expected one of",
        "[select] pick is not one of",
        "[select] finished: got 1",
        "[train] method: got 'ppo', expected one of ['sft', 'dpo']",
        "[train] learning_rat: no such key; did you mean 'learning_rate'?",
        "[stop] patience: got 0",
    ):
        assert part in said, f"{part}\nnot in\n{said}"


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("sample", {"top_p": 2}, "top_p must be above 0"),
        ("score", {"model": "rm", "pooling": "mean"}, "pooling is not one of"),
        ("second", {"model": "rm", "device": "cuda"}, "the same scorer as [score]"),
        ("select", {"k": 0}, "k must be a whole number"),
        ("sample", {"url": "http://localhost/v1", "model": "m"}, "one name for all policies"),
        ("sample", {"url": "localhost"}, "url must be http"),
        ("second", {"kind": "judge", "sampler": {"url": "http://localhost/v1"}}, "model"),
        (
            "second",
            {"kind": "judge", "mode": "both", "sampler": {"model": "m"}},
            "mode is not one of",
        ),
        (
            "second",
            {"kind": "endpoint", "url": "http://localhost", "model": "rm", "server": "tgi"},
            "kind is not one of",
        ),
        ("train", {"epochs": 0}, "[train] epochs: got 0, expected a finite number > 0"),
        ("score", "rm", "got 'rm', expected a table"),
    ],
)
def test_keys_of_samplers_scorers_and_plans_are_checked_by_them(
    section: str, given: Any, said: str
) -> None:
    table = {
        "policy": {"model": "m"},
        "prompts": {"train": "p", "heldout_share": 0.1},
        "score": {"model": "rm"},
        section: given,
    }
    with pytest.raises(errors.PlanError, match=re.escape(said)):
        read_recipe(table)


def test_values_from_the_command_line_win(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        '[policy]\nmodel = "m"\n[prompts]\ntrain = "p"\nheldout_share = 0.5\n[score]\nmodel = '
        '"rm"\n'
    )
    made = read_recipe(
        file,
        sets=[
            "prompts.train=other.jsonl",
            "sample.temperatures=[1.0]",
            "stages=3",
            "select.pick=median",
        ],
    )
    assert (made.prompts.train, made.sample.temperatures, made.stages, made.select.plan.pick) == (
        "other.jsonl",
        (1.0,),
        3,
        "median",
    )
    assert read_recipe(file, sets=['train.method="dpo"']).select.plan.kind == "pairs"
    with pytest.raises(errors.BadArgument, match=r"SECTION\.KEY=VALUE"):
        read_recipe(file, sets=["a.b.c=1"])
    for text, said in (("[policy", "not TOML"), ("", "\\[policy\\] model: got nothing")):
        file.write_text(text)
        with pytest.raises(errors.BadArgument, match=said):
            read_recipe(file)
    with pytest.raises(errors.BadArgument, match="cannot read"):
        read_recipe(tmp_path / "absent.toml")


def test_judges_and_servers_are_scorers_too() -> None:
    base = {"policy": {"model": "m"}, "prompts": {"train": "p", "heldout_share": 0.5}}
    judge = {
        "kind": "judge",
        "sampler": {"url": "http://localhost/v1", "model": "j", "concurrency": 2},
        "price_in": 1.0,
    }
    server = {
        "kind": "endpoint",
        "server": "vllm-classify",
        "url": "http://localhost:8001",
        "model": "rm",
    }
    made = read_recipe(
        {**base, "score": judge, "second": server, "sample": {"url": "http://localhost/v1"}}
    )
    scorers = [scorer_from(part.kind, part.scorer) for part in (made.score, made.second) if part]
    assert [type(scorer).__name__ for scorer in scorers] == [
        "JudgeScorer",
        "EndpointScorer",
    ]
    assert policy_sampler("runs/x/policy", made.sample.sampler).model == "runs/x/policy"
    again = read_recipe(
        {
            **base,
            "score": {**judge, "price_in": 2.0, "sampler": {**judge["sampler"], "concurrency": 9}},
            "second": {**server, "url": "http://other:1"},
            "sample": {"url": "http://third/v1"},
        }
    )
    assert again.decides() == made.decides()


def test_what_decides_no_result_may_change() -> None:
    base = {
        "policy": {"model": "m"},
        "prompts": {"train": "p", "heldout_share": 0.5},
        "score": {"model": "rm"},
    }
    one = read_recipe({**base, "sample": {"batch_tokens": 1, "device": "cpu"}})
    assert one.decides() == read_recipe(base).decides()
    assert read_recipe({**base, "sample": {"top_p": 0.9}}).decides() != one.decides()


# -- prompts


def test_held_out_prompts_are_never_trained_on(tmp_path: Path) -> None:
    texts = [f"p{i}" for i in range(40)]
    pl.DataFrame({"question": [*texts, None, "p1", "p" * 99]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"question": texts[:5]}).write_csv(tmp_path / "b.csv")
    both = load_prompts(
        PromptsSection(
            train=str(tmp_path / "a.parquet"), heldout=str(tmp_path / "b.csv"), max_chars=50
        )
    )
    assert both.train["prompt"].to_list() == texts[5:]
    assert both.heldout["prompt"].to_list() == texts[:5]
    assert both.counts == {
        "rows": 48,
        "null": 1,
        "repeated": 1,
        "too_long": 1,
        "in_heldout": 5,
        "over_limit": 0,
    }
    section = PromptsSection(
        train=str(tmp_path / "a.parquet"), heldout_share=0.5, limit=10, heldout_limit=4, seed=3
    )
    drawn = load_prompts(section)
    assert (drawn.train.height, drawn.heldout.height) == (10, 4)
    assert not set(drawn.train["prompt"]) & set(drawn.heldout["prompt"])
    pl.read_parquet(tmp_path / "a.parquet").reverse().write_parquet(tmp_path / "a.parquet")
    again = load_prompts(section)
    assert set(again.train["prompt"]) == set(drawn.train["prompt"])
    assert set(load_prompts(dataclasses.replace(section, seed=4)).heldout["prompt"]) != set(
        drawn.heldout["prompt"]
    )


def test_a_split_of_a_file_can_be_divided_again(tmp_path: Path) -> None:
    """The hash that holds out is another one than that of `--split`, or such prompts would all be
    on one side.
    """
    texts = pl.DataFrame({"prompt": [f"p{i}" for i in range(400)]})
    for _, part in split_frame(texts, {"a": 0.5, "b": 0.5}, 0):
        part.write_parquet(tmp_path / "part.parquet")
        found = load_prompts(
            PromptsSection(train=str(tmp_path / "part.parquet"), heldout_share=0.5)
        )
        assert 0.35 < found.heldout.height / part.height < 0.65


def test_prompts_may_be_conversations_with_any_names(tmp_path: Path) -> None:
    rows = [[{"from": "human", "value": f"q{i}"}] for i in range(6)]
    pl.DataFrame({"prompt": rows}).write_parquet(tmp_path / "a.parquet")
    found = load_prompts(PromptsSection(train=str(tmp_path / "a.parquet"), heldout_share=0.4))
    assert {m["role"] for p in pl.concat([found.train, found.heldout])["prompt"] for m in p} == {
        "user"
    }
    with pytest.raises(errors.BadInput, match="no prompts for heldout"):
        load_prompts(PromptsSection(train=str(tmp_path / "a.parquet"), heldout_share=1e-9))
