"""The loop: every figure against a plain computation, selection over all stages, and the same pool
however often it is killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import loop_fakes
import polars as pl
import pytest
from loop_runs import run

import prefmill as pm
from prefmill import errors
from prefmill.loops import findings as stage_report
from prefmill.loops import plot as stage_plot
from prefmill.loops.recipe import StopSection


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)


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


def test_a_run_that_is_done_does_nothing_and_goes_on_with_more_stages(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    one = run(tmp_path, stages=1)
    assert one.ran[-1] == "stage-1/heldout/kl"
    assert run(tmp_path, stages=1).ran == ()
    more = run(tmp_path, stages=2)
    assert more.ran[0] == "stage-1/sample"
    assert len(more.ran) == 8
    assert loop_fakes.content(tmp_path / "run") == loop_fakes.content(done[0] / "run")
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


@pytest.mark.parametrize(
    "stages", [["--stages", "1"], pytest.param([], marks=pytest.mark.torture)], ids=["1", "2"]
)
def test_the_example_compares_best_with_its_controls(
    stages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = loop_fakes.recipe(tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f'[policy]\nmodel = "base"\n[prompts]\ntrain = "{recipe["prompts"]["train"]}"\n'
        f"heldout_share = 0.4\n[sample]\nn = 4\n"
        '[score]\nmodel = "in code"\n[train]\nlearning_rate = 0.3\n'
    )
    whole = pm.loop
    monkeypatch.setattr(
        pm,
        "loop",
        lambda *given, **more: whole(*given, **more, **loop_fakes.parts()),
        raising=False,
    )
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
            *stages,
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
