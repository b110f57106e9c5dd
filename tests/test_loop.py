"""The loop: every figure against a plain computation, selection over all stages, and the same pool
however often it is killed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loop_fakes
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill import errors
from prefmill.loops import findings as stage_report
from prefmill.loops import plot as stage_plot
from prefmill.loops.dry_run import explain
from prefmill.loops.parts import sampler_of, scorer_of
from prefmill.loops.prompts import load_prompts
from prefmill.loops.recipe import PromptsSection, SampleSection, StopSection, read_recipe
from prefmill.loops.serving import served
from prefmill.rules.intervals import bootstrap, wilson
from prefmill.table.chance import split_frame

DRAW = stage_plot.draw
KILL = Path(__file__).with_name("kill_loop.py")


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)


def run(
    folder: Path, name: str = "run", *, loop: dict[str, Any] | None = None, **changes: Any
) -> pm.LoopReport:
    return pm.loop(
        loop_fakes.recipe(folder, **changes),
        folder / name,
        **{**loop_fakes.parts(), **(loop or {})},
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pm.LoopReport]]:
    """One unbroken loop of two stages."""
    patch = pytest.MonkeyPatch()
    patch.setattr(stage_plot, "draw", lambda *_: None)
    folder = tmp_path_factory.mktemp("loop")
    yield folder, run(folder)
    patch.undo()


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
        '[policy]\nmodel = "m"\n[prompts]\ntrain = "p"\nheldout_share = 0.5\n[score]\nmodel = "rm"\n'
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
    assert [type(scorer_of(part)).__name__ for part in (made.score, made.second) if part] == [
        "JudgeScorer",
        "EndpointScorer",
    ]
    assert sampler_of(made, "runs/x/policy").model == "runs/x/policy"
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


# -- what a loop does


def rows_of(folder: Path, stage: int, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "run" / f"stage-{stage}" / name)


def test_every_stage_samples_from_the_policy_that_the_last_one_trained(
    done: tuple[Path, pm.LoopReport],
) -> None:
    folder, report = done
    base, strong = 1.0, []
    for stage in range(2):
        made = json.loads(
            (folder / "run" / f"stage-{stage}" / "policy" / "strength.json").read_text()
        )
        assert made["from"] == base
        base = made["strength"]
        strong.append(base)
        pool = rows_of(folder, stage, "pool.parquet")
        assert pool["stage"].unique().to_list() == [stage]
        assert (
            pool.height
            == rows_of(folder, stage, "scored.parquet").height
            == 4 * pool["prompt"].n_unique()
        )
    assert strong == sorted(strong)
    assert strong[0] > 1
    assert report.best_stage == 2
    assert Path(report.policy) == folder / "run" / "stage-1" / "policy"
    assert report.as_json()["stages"][2]["stage"] == 2


def test_selection_takes_the_best_ever_seen(tmp_path: Path) -> None:
    folder = tmp_path
    run(folder, train__learning_rate=0.02)  # so little that stage 1 is hardly better
    for stage in range(2):
        pool = pl.concat([rows_of(folder, s, "scored.parquet") for s in range(stage + 1)]).filter(
            pl.col("finish_reason") != "length"
        )
        wanted = {}
        for row in pool.to_dicts():  # of equal scores the latest row
            if row["prompt"] not in wanted or row["score"] >= wanted[row["prompt"]]["score"]:
                wanted[row["prompt"]] = row
        selected = rows_of(folder, stage, "selected.parquet")
        got = {
            row["prompt"]: (row["completion"], row["score"], row["stage"])
            for row in selected.to_dicts()
        }
        assert got == {
            prompt: (row["completion"], row["score"], row["stage"])
            for prompt, row in wanted.items()
        }
    assert set(selected["stage"]) == {0, 1}  # some of the first stage are never beaten


def test_figures_are_those_of_plain_python(done: tuple[Path, pm.LoopReport]) -> None:
    folder, report = done
    base: dict[str, list[dict[str, Any]]] = {}
    for stage in range(3):
        answers: dict[str, list[dict[str, Any]]] = {}
        for row in rows_of(
            folder, stage, f"heldout/{'kl' if stage else 'second'}.parquet"
        ).to_dicts():
            answers.setdefault(row["prompt"], []).append(row)
        base = base or answers
        told = report.stages[stage]
        mean = np.mean([np.mean([a["score"] for a in each]) for each in answers.values()])
        assert told["reward_mean"] == pytest.approx(mean)
        assert (
            told["reward_low" if "reward_low" in told else "reward_mean_low"]
            < mean
            < told["reward_mean_high"]
        )
        assert told["reward_best"] == pytest.approx(
            np.mean([max(a["score"] for a in each) for each in answers.values()])
        )
        assert told["reward_median"] == pytest.approx(
            np.mean([np.median([a["score"] for a in each]) for each in answers.values()])
        )
        words = [a["completion"].split() for each in answers.values() for a in each]
        pairs = [pair for text in words for pair in itertools.pairwise(text)]
        assert told["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
        assert told["tokens"] == pytest.approx(np.mean([len(text) + 1 for text in words]))
        assert (told["prompts"], told["answers"]) == (len(answers), 3 * len(answers))
        if not stage:
            assert told["kl"] == 0
            assert told.get("win") is None
            continue
        shares = {name: [] for name in ("score", "second")}
        for prompt, mine in answers.items():
            for name, found in shares.items():
                pairs_of = [(a[name], b[name]) for a in mine for b in base[prompt]]
                found.append(np.mean([(a > b) + (a == b) / 2 for a, b in pairs_of]))
        assert told["win"] == pytest.approx(np.mean(shares["score"]))
        assert told["second_win"] == pytest.approx(np.mean(shares["second"]))
        assert told["win_low"] < told["win"] < told["win_high"]
        ratios = [np.mean([a["log_ratio"] for a in each]) for each in answers.values()]
        assert told["kl"] == pytest.approx(np.mean(ratios))
        total = sum(a["log_ratio"] for each in answers.values() for a in each)
        assert told["kl_per_token"] == pytest.approx(total / sum(len(text) + 1 for text in words))
    table = pl.read_parquet(folder / "run" / "stages.parquet")
    assert table["stage"].to_list() == [0, 1, 2]
    assert table["reward_mean"].to_list() == pytest.approx(
        [row["reward_mean"] for row in report.stages]
    )


def test_the_report_says_reward_hacking_where_judges_part(done: tuple[Path, pm.LoopReport]) -> None:
    folder, report = done
    text = (folder / "run" / "report.md").read_text()
    assert "reward hacking" in text
    assert all(said in text for said in report.said)
    assert (
        "Under the second judge, which selection never saw, the mean over held-out prompts fell"
        in text
    )
    assert "| 0 |" in text
    assert "stages.png" not in text


def test_a_run_that_is_done_does_nothing_and_goes_on_with_more_stages(tmp_path: Path) -> None:
    one = run(tmp_path, stages=1)
    assert one.ran[-1] == "stage-1/heldout/kl"
    assert run(tmp_path, stages=1).ran == ()
    more = run(tmp_path, stages=2)
    assert more.ran[0] == "stage-1/sample"
    assert len(more.ran) == 8
    run(tmp_path, "whole", stages=2)
    assert loop_fakes.content(tmp_path / "run") == loop_fakes.content(tmp_path / "whole")
    with pytest.raises(
        errors.RunDiffers, match="stages changed; got '1, which is fewer', expected 2"
    ):
        run(tmp_path, stages=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__learning_rate": 0.2}, "train.learning_rate changed; got 0.2, expected 0.1"),
        ({"select__pick": "median"}, "select.pick changed; got 'median', expected 'best'"),
        (
            {"seed": 1, "sample__n": 3},
            "seed changed; got 1, expected 0 \\(and other differences: sample.n",
        ),
    ],
)
def test_a_changed_recipe_is_refused_by_name(
    done: tuple[Path, pm.LoopReport], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(errors.RunDiffers, match=said):
        run(done[0], **changes)


def test_other_prompts_and_scorers_are_refused_by_name(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    folder, _ = done
    pl.DataFrame({"prompt": [f"other {i}" for i in range(20)]}).write_parquet(
        tmp_path / "other.parquet"
    )
    with pytest.raises(errors.RunDiffers, match=r"prompts\.train changed.*inputs\.prompts"):
        run(folder, prompts__train=str(tmp_path / "other.parquet"))
    with pytest.raises(errors.RunDiffers, match=r"inputs\.score\.function changed"):
        run(folder, loop={"scorer": loop_fakes.dislikes_words, "second": None})


def test_overwrite_begins_anew_and_strangers_are_left_alone(tmp_path: Path) -> None:
    run(tmp_path, stages=1)
    again = pm.loop(
        loop_fakes.recipe(tmp_path, stages=1, seed=5),
        tmp_path / "run",
        overwrite=True,
        **loop_fakes.parts(),
    )
    assert "stage-0/sample" in again.ran
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(errors.TargetExists, match="holds no loop"):
        run(tmp_path, "mine")
    with pytest.raises(errors.TargetExists, match="holds no loop"):
        pm.loop(
            loop_fakes.recipe(tmp_path), tmp_path / "mine", overwrite=True, **loop_fakes.parts()
        )


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    def busy(policy: str) -> Any:
        with pytest.raises(errors.RunBusy):
            run(tmp_path)
        return loop_fakes.FakeSampler(policy)

    run(tmp_path, stages=1, loop={"sampler": busy})


def test_controls_take_over_what_is_the_same(tmp_path: Path) -> None:
    best = run(tmp_path, "best")
    median = run(tmp_path, "median", select__pick="median", loop={"reuse": [tmp_path / "best"]})
    random = run(
        tmp_path,
        "random",
        select__pick="random",
        loop={"reuse": [tmp_path / "best", tmp_path / "median"]},
    )
    for control in (median, random):
        assert control.ran[0] == "stage-0/select"
        assert control.stages[0]["reward_mean"] == best.stages[0]["reward_mean"]
    alone = run(tmp_path, "alone", select__pick="median")
    assert loop_fakes.content(tmp_path / "alone") == loop_fakes.content(tmp_path / "median")
    assert alone.stages[2]["reward_mean"] == median.stages[2]["reward_mean"]
    assert median.stages[0]["selected_mean"] < best.stages[0]["selected_mean"]
    state = json.loads((tmp_path / "median" / "state.json").read_text())
    assert state["steps"]["stage-0/sample"]["taken_from"].endswith("best")


def test_the_example_compares_best_with_its_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = loop_fakes.recipe(tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f'[policy]\nmodel = "base"\n[prompts]\ntrain = "{recipe["prompts"]["train"]}"\nheldout_share = 0.4\n[sample]\nn = 4\n'
        '[score]\nmodel = "in code"\n[train]\nlearning_rate = 0.3\n'
    )
    whole = pm.loop
    monkeypatch.setattr(
        pm,
        "loop",
        lambda *given, **more: whole(*given, **more, **loop_fakes.parts()),
        raising=False,
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "compare_picks.py",
            str(tmp_path / "recipe.toml"),
            "-o",
            str(tmp_path / "picks"),
            "--seeds",
            "2",
        ],
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # no plot
    import compare_picks

    compare_picks.main()
    found = json.loads((tmp_path / "picks" / "picks.json").read_text())
    means = {rule: figures["reward_mean"] for rule, figures in found["rules"].items()}
    assert means["best"] > means["median"]
    assert means["best"] > means["random"]
    against = found["differences"]["best - median"]["score"]
    assert against["low"] <= against["difference"] <= against["high"]
    assert against["difference"] == pytest.approx(means["best"] - means["median"])
    steps = json.loads((tmp_path / "picks" / "random-1" / "state.json").read_text())["steps"]
    assert steps["stage-0/score"]["taken_from"].endswith("best-1")
    assert "best, seed 0:" in capsys.readouterr().out


def test_dpo_trains_on_pairs_of_the_whole_pool(tmp_path: Path) -> None:
    run(tmp_path, train__method="dpo", select__strategy="best_worst")
    pairs = pl.read_parquet(tmp_path / "run" / "stage-1" / "selected.parquet")
    assert {"prompt", "chosen", "rejected", "chosen_stage", "rejected_stage"} <= set(pairs.columns)
    assert (pairs["chosen_score"] > pairs["rejected_score"]).all()
    assert (
        json.loads((tmp_path / "run" / "stage-1" / "policy" / "strength.json").read_text())[
            "method"
        ]
        == "dpo"
    )


def test_training_from_the_base_and_cut_off_answers(tmp_path: Path) -> None:
    run(tmp_path, train__start="base", select__finished=False)
    made = json.loads((tmp_path / "run" / "stage-1" / "policy" / "strength.json").read_text())
    assert made["from"] == 1.0
    steps = json.loads((tmp_path / "run" / "state.json").read_text())["steps"]
    assert steps["stage-1/select"]["figures"]["dropped"]["cut_off"] == 0
    pool = pl.read_parquet(tmp_path / "run" / "stage-0" / "scored.parquet")
    assert (pool["finish_reason"] == "length").any()
    run(tmp_path, "finished", stages=1)
    steps = json.loads((tmp_path / "finished" / "state.json").read_text())["steps"]
    assert (
        steps["stage-0/select"]["figures"]["dropped"]["cut_off"]
        == (pool["finish_reason"] == "length").sum()
    )


def test_stop_rules(tmp_path: Path) -> None:
    stopped = run(tmp_path, stages=2, stop={"max_kl": 0.01})
    assert stopped.stopped is not None
    assert stopped.stopped.startswith("stage 1: KL estimate")
    assert len(stopped.stages) == 2
    assert any("Stopped early" in each for each in stopped.said)
    weaker = {
        "scorer": loop_fakes.dislikes_words,
        "second": None,
    }  # what is trained makes answers longer
    worse = run(
        tmp_path, "worse", stages=3, stop={"patience": 1}, train__learning_rate=-0.5, loop=weaker
    )
    assert (
        worse.stopped
        == "stage 1: no held-out reward above that of stage 0 for 1 stages, patience 1"
    )
    assert worse.best_stage == 0
    assert worse.policy == "base"
    rows = [{"stage": s, "reward_mean": m} for s, m in enumerate([1.0, 2.0, 1.5, 1.9])]
    assert stage_report.stop_rule(rows, StopSection(patience=2)) is not None
    assert stage_report.stop_rule(rows[:3], StopSection(patience=2)) is None
    assert stage_report.stop_rule(rows, StopSection()) is None


def test_nothing_selected_is_an_error_and_goes_on_nowhere(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="nothing was selected at stage 0"):
        run(tmp_path, select__min_score=1000)
    with pytest.raises(errors.BadInput, match="nothing was selected at stage 0"):
        run(tmp_path, select__min_score=1000)


def test_a_plot_where_matplotlib_is_there(done: tuple[Path, pm.LoopReport], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot is optional")
    from prefmill.loops.folder import RunFolder

    with RunFolder(tmp_path / "plots", {}) as folder:
        assert DRAW(folder, done[1].stages) == "stages.png"
    assert (tmp_path / "plots" / "stages.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "plots" / "stages.svg").read_bytes()


# -- findings


def row(
    stage: int,
    gain: tuple[float, float] | None,
    second: tuple[float, float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "stage": stage,
        "prompts": 9,
        "reward_mean": 0.0,
        "second_mean": 0.0,
        "tokens": 10.0,
        "chars": 40.0,
    }
    for prefix, interval in (("", gain), ("second_", second)):
        if interval is not None:
            low, high = interval
            made |= {
                f"{prefix}gain": (low + high) / 2,
                f"{prefix}gain_low": low,
                f"{prefix}gain_high": high,
            }
            made |= {f"{prefix}win": 0.5, f"{prefix}win_low": 0.4, f"{prefix}win_high": 0.6}
    return {**made, **more}


@pytest.mark.parametrize(
    ("gain", "second", "said"),
    [
        ((0.1, 0.3), (0.1, 0.2), "no sign of reward hacking"),
        ((0.1, 0.3), (-0.2, -0.1), "what reward hacking looks like"),
        ((0.1, 0.3), (-0.1, 0.1), "does not confirm the gain"),
        ((0.1, 0.3), None, "No second judge"),
        ((-0.3, -0.1), (-0.2, -0.1), "training did harm"),
        ((-0.1, 0.1), (-0.2, -0.1), "moved only the second judge"),
    ],
)
def test_findings_say_what_the_figures_say(gain: Any, second: Any, said: str) -> None:
    found = " ".join(stage_report.findings([row(0, None), row(2, gain, second)], None))
    assert said in found
    assert ("rose" in found) == any(each is not None and each[0] > 0 for each in (gain, second))


def test_findings_say_when_selection_had_little_to_choose_from() -> None:
    pool = {"pool_cut_off": 0.5, "pool_mean": 0.2, "pool_best": 0.6, "selected_mean": 0.21}
    found = " ".join(stage_report.findings([row(0, None, **pool), row(1, (-0.1, 0.1))], None))
    assert (
        "50 % of the samples of stage 0 were cut off. What was trained on has a mean score of 0.21"
        in found
    )


def test_findings_name_length_and_diversity() -> None:
    found = " ".join(
        stage_report.findings(
            [
                row(0, None, distinct_2=0.8),
                row(1, (0.1, 0.2), tokens=14.0, distinct_2=0.4, cut_off=0.5),
            ],
            None,
        )
    )
    for part in (
        "Answers became longer: 10 tokens at stage 0, 14 at stage 1",
        "bigrams fell from 0.800 to 0.400",
        "50 % at",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("share", "trials", "wanted"),
    [(0.0, 10, (0.0, 0.2775)), (0.5, 30, (0.3315, 0.6685)), (1.0, 5, (0.5655, 1.0))],
)
def test_wilson(share: float, trials: int, wanted: tuple[float, float]) -> None:
    assert wilson(share, trials) == pytest.approx(wanted, abs=1e-4)


def test_intervals_cover_what_they_should() -> None:
    """The bootstrap interval of 40 values holds their true mean about 95 times in 100."""
    draws = np.random.default_rng(1)
    held = [
        low <= 0 <= high for low, high in (bootstrap(draws.normal(size=40)) for _ in range(200))
    ]
    assert 0.88 <= np.mean(held) <= 0.99
    assert all(map(math.isnan, bootstrap(np.ones(1))))


# -- kills


def killed(*arguments: str) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(KILL.parent), *sys.path])}
    ended = subprocess.run(
        [sys.executable, str(KILL), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return int(ended.stdout.split()[-1])


def test_killed_at_every_step_boundary_it_ends_in_the_same_pool(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    assert killed("boundaries", str(tmp_path)) == 2 * 20
    assert loop_fakes.content(tmp_path / "run") == loop_fakes.content(done[0] / "run")


def test_killed_at_twenty_random_instants_it_ends_in_the_same_pool(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    assert killed("random", str(tmp_path), "20", "7") == 20
    assert loop_fakes.content(tmp_path / "run") == loop_fakes.content(done[0] / "run")
    assert not [
        path
        for path in (tmp_path / "run").rglob("*")
        if ".tmp" in path.name and "prefmill" not in str(path.parent)
    ]


def test_killed_between_an_output_and_its_ledger_it_goes_on(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    """The output is there, and the ledger still says that it is about to appear."""
    shutil.copytree(done[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    state = json.loads((folder / "state.json").read_text())
    for step, output in (("stage-0/sample", "pool"), ("stage-1/score", "scored")):
        del state["steps"][step]
        manifest = folder / step.split("/")[0] / f".{output}.parquet.prefmill" / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "publishing"}))
    (folder / "state.json").write_text(json.dumps(state))
    again = pm.loop(loop_fakes.recipe(done[0]), folder, **loop_fakes.parts())
    assert again.ran == ("stage-0/sample", "stage-1/score")
    assert loop_fakes.content(folder) == loop_fakes.content(done[0] / "run")


# -- a server for a policy

SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": sys.argv[2]}]}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_server_is_started_for_its_policy_and_ended(tmp_path: Path) -> None:
    script, port = tmp_path / "server.py", free_port()
    script.write_text(SERVER)
    url = f"http://127.0.0.1:{port}/v1"
    command = f"{sys.executable} {script} {port} {{model}}"
    section = SampleSection(serve=command, sampler={"url": url})
    with served(section, "policy-7"):
        with served(SampleSection(sampler={"url": url}), "policy-7"):
            pass
        with (
            pytest.raises(errors.BadInput, match="got \\['policy-7'\\], expected 'policy-8'"),
            served(SampleSection(sampler={"url": url}), "policy-8"),
        ):
            pass
        with pytest.raises(errors.BadInput, match="did not start"), served(section, "policy-7"):
            pass
    with (
        pytest.raises(errors.BadInput, match="no server answers"),
        served(SampleSection(sampler={"url": url}), "policy-7"),
    ):
        pass
    for serve, said in (
        ("no-such-program {model}", "cannot be started"),
        (f"{sys.executable} -c exit(3)", "ended by itself with code 3"),
    ):
        with (
            pytest.raises(errors.BadInput, match=said),
            served(SampleSection(serve=serve, sampler={"url": url}), "policy-7"),
        ):
            pass


# -- with models, and from the command line


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy, two tiny judges, prompts and a recipe."""
    pytest.importorskip("trl", reason="needs the extra prefmill[train]")
    import tiny_models

    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_causal_model("llama", folder / "policy")
    tiny_models.save_reward_model("llama", folder / "reward")
    tiny_models.save_reward_model("qwen2", folder / "second", seed=1)
    pl.DataFrame({"prompt": [f"What is {i} plus {i}?" for i in range(12)]}).write_parquet(
        folder / "prompts.parquet"
    )
    (folder / "recipe.toml").write_text(
        f"""
        stages = 1
        [policy]
        model = "{folder}/policy"
        [prompts]
        train = "{folder}/prompts.parquet"
        heldout_share = 0.4
        [sample]
        n = 4
        max_new_tokens = 8
        device = "cpu"
        [score]
        model = "{folder}/reward"
        device = "cpu"
        [second]
        model = "{folder}/second"
        device = "cpu"
        [select]
        finished = false
        [train]
        learning_rate = 1e-3
        device = "cpu"
        """
    )
    return folder


def command(*arguments: str) -> Any:
    from prefmill.cli.main import app

    return CliRunner().invoke(app, ["loop", *arguments])


@pytest.mark.train
@pytest.mark.filterwarnings(
    "ignore:`(is_)?gradient_checkpointing(_\\w+)?` is deprecated:FutureWarning"
)
def test_a_loop_of_tiny_models_from_a_recipe(models: Path, tmp_path: Path) -> None:
    recipe, out = str(models / "recipe.toml"), str(tmp_path / "run")
    planned = command(recipe, "-o", out, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not Path(out).exists()
    assert "stage-1/heldout/kl" in planned.stdout
    assert "about" not in planned.stdout  # nothing is measured yet
    found = command(recipe, "-o", out, "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["stopped"] is None
    assert [row["stage"] for row in report["stages"]] == [0, 1]
    assert "second wins" in found.stderr
    assert math.isfinite(report["stages"][1]["kl"])
    more = explain(read_recipe(recipe), out, stages=2)
    steps = {step.step: step for step in more.steps}
    assert steps["stage-0/sample"].done
    assert not steps["stage-1/sample"].done
    assert steps["stage-1/sample"].seconds is not None  # as stage 0 took
    assert steps["stage-0/sample"].answers == 4 * more.prompts["train"]
    assert command(recipe, "-o", out, "--quiet", "--json").exit_code == 0
    changed = command(recipe, "-o", out, "--set", "train.epochs=2")
    assert isinstance(changed.exception, errors.RunDiffers)
    # Drawn answers have the log-probability that the scorer gives them: both read the same tokens.
    answers = pl.read_parquet(Path(out) / "stage-1" / "heldout" / "kl.parquet")
    ended = answers.filter(pl.col("finish_reason") == "stop")
    assert ended["logprob"].to_list() == pytest.approx(
        ended["log_ratio_policy_logprob"].to_list(), rel=1e-3, abs=1e-3
    )


@pytest.mark.train
def test_killed_with_models_it_ends_in_the_same_pool(models: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text((models / "recipe.toml").read_text())
    assert killed("models", str(tmp_path), "4", "3") == 4
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "recipe.toml").write_text((models / "recipe.toml").read_text())
    assert killed("models", str(tmp_path / "whole"), "0", "0") == 0
    assert loop_fakes.content(tmp_path / "run") == loop_fakes.content(tmp_path / "whole" / "run")


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    file = tmp_path / "recipe.toml"
    file.write_text(
        '[policy]\nmodel = "m"\n[prompts]\ntrain = "p"\nheldout_share = 0.5\n[score]\nmodel = "rm"\n'
    )
    monkeypatch.setattr("prefmill.loops.loop.loop", interrupted)
    stopped = command(str(file), "-o", str(tmp_path / "run"))
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
