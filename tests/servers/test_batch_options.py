"""Batches on the command line and in recipes, and what cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import batch_serving
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_serving import BatchServer, chat_body
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument, BatchesUnderWay
from prefmill.loops.keys import policy_sampler
from prefmill.loops.recipe import read_recipe
from prefmill.sampling.samplers import Request

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

POOL = pa.table(
    {
        "prompt": [f"question {i // 3}?" for i in range(24)],
        "completion": [f"answer {i}" for i in range(24)],
    }
)


def rating(body: Any) -> tuple[int, Any]:
    return 200, chat_body(str(len(body["messages"][-1]["content"]) % 10 + 1))


def test_the_command_line_ends_with_75_and_goes_on(tmp_path: Path) -> None:
    pool, out = tmp_path / "pool.parquet", tmp_path / "out.parquet"
    pq.write_table(POOL, pool)
    state = BatchServer(rating, looks=2)
    with batch_serving.serve(state) as url:
        command = ["score", str(pool), "-o", str(out), "--scorer", "judge", "--model", "m"]
        command += ["--url", url, "--backend", "batch", "--batch-requests", "20", "--json"]
        for _ in range(2):
            done = CliRunner().invoke(app, [*command, "--no-wait"])
            assert isinstance(done.exception, BatchesUnderWay)
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["requests"], len(state.batches)) == (24, 2)
    assert "asked in 2 batches" in report["notes"][-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--backend", "batch"], "backend batch needs a server"),
        (["--backend", "other"], "backend is not one of"),
        (["--url", "http://h/v1", "--no-wait"], "--no-wait has no meaning"),
        (["--url", "http://h/v1", "--backend", "batch", "--concurrency", "4"], "--concurrency"),
        (["--url", "http://h/v1", "--batch-files", "d"], "batch_files are for a program"),
        (["--url", "http://h/v1", "--backend", "local"], "--url has no meaning"),
    ],
)
@pytest.mark.parametrize("command", [["sample"], ["score", "--scorer", "judge"]])
def test_options_without_a_meaning_are_refused(
    command: list[str], options: list[str], says: str, tmp_path: Path
) -> None:
    pool, out = tmp_path / "pool.parquet", tmp_path / "out.parquet"
    pq.write_table(POOL, pool)
    arguments = [*command, str(pool), "-o", str(out), "--model", "m", *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, BadArgument)
    assert says in str(done.exception)


def test_a_recipe_names_a_backend(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
[policy]
model = "base"
[prompts]
train = "prompts.jsonl"
heldout_share = 0.1
[sample]
url = "http://h/v1"
backend = "batch"
poll = 5.0
[score]
kind = "judge"
[score.sampler]
url = "http://h/v1"
model = "judge"
backend = "batch"
"""
    )
    read = read_recipe(recipe)
    assert type(policy_sampler("policy", read.sample.sampler)) is pm.BatchSampler
    # How batches are asked decides no result, what answers does.
    assert read.decides()["sample"]["backend"] == "batch"
    assert "poll" not in read.decides()["sample"]


# -- arguments


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_requests": 0}, "batch_requests must be a whole number >= 1"),
        ({"batch_mb": float("nan")}, "batch_mb must be a number > 0"),
        ({"poll": 0}, "poll must be a number > 0"),
        ({"url": "ftp://h"}, r"url must be http\(s\)"),
        ({"batch_files": "d"}, "batch_files are for a program"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        pm.BatchSampler(**{"url": "http://h/v1", "model": "m", **options})


def test_outside_of_a_run_a_file_must_be_named() -> None:
    sampler = pm.BatchSampler(url="http://127.0.0.1:1/v1", model="m")
    with pytest.raises(BadArgument, match=r"keep_in\(PATH\)"):
        sampler.sample([Request("p", 0.0, 0)])
