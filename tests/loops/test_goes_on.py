"""A loop that was ended goes on, and ends in the same pool."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import loop_fakes
import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.disk.hidden import hidden_name
from prefmill.loops import plot as stage_plot

KILL = Path(__file__).parents[1] / "support" / "runners" / "kill_loop.py"


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)
    monkeypatch.setattr(stage_plot, "can_draw", lambda: False)


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
        manifest = folder / step.split("/")[0] / f".{output}.parquet.prefmill" / "ledger.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "publishing"}))
    (folder / "state.json").write_text(json.dumps(state))
    again = pm.loop(loop_fakes.recipe(done[0]), folder, **loop_fakes.parts())
    assert again.ran == ("stage-0/sample", "stage-1/score")
    assert loop_fakes.content(folder) == loop_fakes.content(done[0] / "run")


def test_killed_as_it_wrote_its_first_state_it_goes_on(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / hidden_name("state.json")).write_text("{")
    again = pm.loop(loop_fakes.recipe(done[0]), folder, **loop_fakes.parts())
    assert len(again.ran) > 10
    assert loop_fakes.content(folder) == loop_fakes.content(done[0] / "run")
    assert not list(folder.glob(".state*"))


def test_killed_between_the_last_step_and_the_report_it_is_written(
    done: tuple[Path, pm.LoopReport], tmp_path: Path
) -> None:
    """All steps are done, and the report is that of a stage before."""
    shutil.copytree(done[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    stages, report = folder / "stages.parquet", folder / "report.md"
    whole = report.read_text()
    pl.read_parquet(stages).head(1).write_parquet(stages)
    for text in (whole, "of a stage before"):
        report.write_text(text)
        assert pm.loop(loop_fakes.recipe(done[0]), folder, **loop_fakes.parts()).ran == ()
        assert report.read_text() == whole
        assert loop_fakes.content(folder) == loop_fakes.content(done[0] / "run")
    before = stages.stat().st_mtime_ns, report.stat().st_mtime_ns
    pm.loop(loop_fakes.recipe(done[0]), folder, **loop_fakes.parts())
    assert (stages.stat().st_mtime_ns, report.stat().st_mtime_ns) == before


def command(*arguments: str) -> Any:
    from prefmill.cli.main import app

    return CliRunner().invoke(app, ["loop", *arguments])


@pytest.mark.train
@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.torture)])
def test_killed_with_models_it_ends_in_the_same_pool(
    kills: int, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text((models / "recipe.toml").read_text())
    assert killed("models", str(tmp_path), str(kills), "3") == kills
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
        '[policy]\nmodel = "m"\n[prompts]\ntrain = "p"\nheldout_share = 0.5\n[score]\nmodel = '
        '"rm"\n'
    )
    monkeypatch.setattr("prefmill.loops.loop.loop", interrupted)
    stopped = command(str(file), "-o", str(tmp_path / "run"))
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
