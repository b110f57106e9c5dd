"""The GPU benchmark runs from end to end without a GPU: every line but the kernels, with tiny
models, and without Polars and DuckDB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "bench_gpu.py"
# The machine with the GPU has neither: an import of one of them is an error.
WITHOUT = """
import runpy, sys
sys.modules["polars"] = sys.modules["duckdb"] = None
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    # One thread: with tiny models more of them only wait for one another, for long on a machine
    # that others use.
    variables = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2] / "src"),
        **environment,
    }
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT, str(SCRIPT), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    )


@pytest.mark.torture
def test_every_stage_runs_on_a_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    process = started("--device", "cpu", "--tiny", "--seconds", "900", "--json", str(path))
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    raw = json.loads(path.read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for stage in raw["stages"]}
    assert list(stages) == [
        "about",
        "ceilings",
        "checks",
        "audit",
        "8B",
        "1B",
        "extremes",
        "memory",
    ]
    assert {name: stage["note"] for name, stage in stages.items()} == dict.fromkeys(stages, "")
    marks = {mark["what"]: mark for mark in stages["checks"]["marks"]}
    assert all(mark["held"] for mark in marks.values()), out
    # Each form of attention in its own cases, told by what ran: 2 layers a stream.
    assert marks["varlen, GQA 4:1, head_dim 64, bfloat16, one stream"]["measured"].endswith(
        "; varlen: 2 times"
    )
    in_place = marks["varlen, GQA 4:1, head_dim 64, bfloat16, prefixes in place"]["measured"]
    assert in_place.endswith("; varlen, prefixes in place: 2 times")
    soft_capped = marks["blockmask, soft-capping and sliding window, float32, one stream"][
        "measured"
    ]
    assert soft_capped.endswith("; blockmask: 2 times")
    assert marks["segments, float32, one stream"]["measured"].endswith("; segments: 2 times")
    for part in (
        "groups split",
        "sliding window",
        "invariant mode",
        "log-probabilities",
        "no other score",
    ):
        assert any(part in name for name in marks), part
    for what in (
        "of the FLOP ratio over the best plain loop",
        "of the measured rate of products",
        "times the best plain loop",
    ):
        assert any(what in mark["what"] for mark in stages["8B"]["marks"]), what
    assert all(
        mark["held"] for mark in stages["extremes"]["marks"] if "prompt-once" in mark["what"]
    )
    assert all(mark["held"] for mark in stages["memory"]["marks"])
    assert "not judged" in out


def test_a_run_that_is_killed_keeps_its_first_table(tmp_path):
    path = tmp_path / "gpu.json"
    process = started(
        "--device", "cpu", "--tiny", "--stages", "about,ceilings,checks", "--json", str(path)
    )
    while process.poll() is None and not (
        path.exists() and "tflops" in path.read_text(encoding="utf-8")
    ):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    [first, second, *_] = json.loads(path.read_text(encoding="utf-8"))["stages"]
    assert first["tables"][0]["way"] == "streams"
    assert second["tables"][0]["tflops"] > 0


@pytest.mark.torture
def test_a_compiler_that_fails_costs_one_line(tmp_path):
    """Before, `--compile` ended the run at an assertion of the compiler."""
    path = tmp_path / "gpu.json"
    arguments = (
        "--device",
        "cpu",
        "--tiny",
        "--stages",
        "8B,memory",
        "--compile",
        "on",
        "--json",
        str(path),
    )
    process = started(
        *arguments, CXX=str(tmp_path / "none"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache")
    )
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    large, memory = json.loads(path.read_text(encoding="utf-8"))["stages"]
    [failed] = [row for row in large["tables"] if row.get("candidate") == "prefmill, compiled"]
    assert failed["note"].startswith(
        "torch.compile does not serve this model, which runs without: "
    )
    assert [row["k"] for row in large["tables"]] == [16, 16, 1]
    assert all(mark["held"] for mark in memory["marks"])


def test_a_stage_without_time_is_said(tmp_path):
    path = tmp_path / "gpu.json"
    process = started(
        "--device", "cpu", "--tiny", "--seconds", "0", "--stages", "about,8B", "--json", str(path)
    )
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert [stage["note"] for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]] == [
        "not run: no time left"
    ] * 2
    assert "not run: no time left" in out


def test_no_cuda_is_said_at_once():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    process = started()
    _, err = process.communicate()
    assert process.returncode == 2
    assert "--device cpu --tiny" in err
