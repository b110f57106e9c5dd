"""A loop whose models are real, and servers that it starts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from prefmill import errors
from prefmill.loops import plot as stage_plot
from prefmill.loops.dry_run import explain
from prefmill.loops.recipe import SampleSection, read_recipe
from prefmill.loops.serving import served


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)


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
