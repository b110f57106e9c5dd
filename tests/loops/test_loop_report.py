"""`prefmill report` of a loop's folder: the figures of the loop, its funnel, what needs a look."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument, BadInput


def prefmill(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_figures_are_those_of_the_loop(done):
    folder, loop = done
    report = pm.loop_report(folder / "run")
    assert tuple(report.stages) == loop.stages
    assert tuple(report.said) == loop.said
    assert (report.asked, report.unfinished, report.stopped) == (2, False, None)
    assert report.prompts == {"rows": 14, "null": 1, "repeated": 1, "train": 7, "heldout": 5}
    for each in report.samples:
        pool = pl.read_parquet(folder / f"run/stage-{each.stage}/scored.parquet")
        chosen = pl.read_parquet(folder / f"run/stage-{each.stage}/selected.parquet")
        cut_off = int((pool["finish_reason"] == "length").sum())
        assert (each.prompts, each.answers, each.cut_off) == (7, pool.height, cut_off)
        assert (each.scored, dict(each.unscored)) == (pool["score"].count(), {})
        assert each.candidates == pool.height * (each.stage + 1)
        assert (each.selected, each.mean) == (chosen.height, chosen["score"].mean())
    # The judges of the fakes want the opposite of each other.
    assert report.found == ["reward hacking", "cut off"]


def test_the_command_shows_it_and_writes_a_page(done, tmp_path):
    folder, _ = done
    before = sorted(path.name for path in (folder / "run").iterdir())
    shown = prefmill("report", folder / "run")
    assert shown.exit_code == 0
    for words in ("(loop)", "== The loop", "Figures by policy", "What became of samples"):
        assert words in shown.stdout
    page = tmp_path / "loop.html"
    assert prefmill("report", folder / "run", "-o", page, "--strict").exit_code == 1
    text = page.read_text("utf-8")
    assert text.count('<svg class="lines"') == 6
    assert "Content-Security-Policy" in text
    told = json.loads(prefmill("report", folder / "run", "--json", "-q").stdout)
    assert told["warnings"][0]["name"] == "reward hacking"
    assert sorted(path.name for path in (folder / "run").iterdir()) == before
    refused = prefmill("report", folder / "run", "--near", "--score", "x")
    assert isinstance(refused.exception, BadArgument)
    assert "--near, --score are about data" in str(refused.exception)


def test_a_loop_that_was_killed_is_not_done(done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "run", tmp_path / "run")
    state = json.loads((tmp_path / "run/state.json").read_text())

    def left(until):
        steps = {name: step for name, step in state["steps"].items() if until(name)}
        (tmp_path / "run/state.json").write_text(json.dumps({**state, "steps": steps}))
        return pm.loop_report(tmp_path / "run")

    report = left(lambda name: not name.startswith(("stage-1/train", "stage-2")))
    assert report.unfinished
    assert len(report.stages) == 2
    assert report.found[0] == "unfinished"
    assert report.warnings[0].line == f"prefmill loop RECIPE -o {tmp_path}/run"
    assert left(lambda name: name != "stage-2/heldout/kl").unfinished
    nothing = left(lambda name: name == "prompts")
    assert (nothing.stages, nothing.samples, nothing.unfinished) == ([], [], True)
    assert "No policy is measured" in str(nothing)
    assert "<h1>" in nothing._repr_html_()


def test_a_rule_that_ended_a_loop_is_told(done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run/state.json"
    state = json.loads(path.read_text())
    state["decides"]["stop"]["max_kl"] = 0.01
    state["steps"] = {name: step for name, step in state["steps"].items() if "stage-2" not in name}
    path.write_text(json.dumps(state))
    report = pm.loop_report(tmp_path / "run")
    assert "over max_kl 0.01" in report.stopped
    assert not report.unfinished


def test_a_folder_without_a_loop(tmp_path):
    with pytest.raises(BadInput, match="no loop in"):
        pm.loop_report(tmp_path)
    # A saved data set has a `state.json` of its own: it is data.
    pytest.importorskip("datasets")
    from datasets import Dataset

    rows = {"prompt": ["a", "a"], "completion": ["x", "y"], "score": [1, 5]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    assert "(feedback)" in prefmill("report", tmp_path / "saved").stdout


def test_losses_and_rows_without_a_score_are_warned_of(done):
    """Figures that a loop may come to, told of a loop that is done."""
    from dataclasses import replace

    folder, _ = done
    report = pm.loop_report(folder / "run")
    first, *_, last = report.stages
    worse = {**last, "reward_mean": 1.0, "gain": -2.0, "gain_low": -3.0, "gain_high": -1.0}
    lower = replace(report, stages=[first, {**worse, "cut_off": 0.0}], samples=[])
    assert lower.found == ["lower reward"]
    assert "--set train.epochs=1 --reuse" in lower.warnings[0].line
    flat = {**last, "gain": -0.1, "gain_low": -1.0, "gain_high": 0.8, "reward_mean": 1.0}
    best = replace(report, stages=[first, {**flat, "cut_off": 0.0}], samples=[])
    assert best.found == ["best stage"]
    assert "the model it began with" in best.warnings[0].advice
    lost = replace(report.samples[0], unscored={"too_long": 7}, cut_off=0)
    shown = replace(best, samples=[lost])
    assert shown.found == ["best stage", "unscored"]
    assert "too_long 7" in str(shown)
