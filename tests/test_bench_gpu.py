"""The GPU benchmark runs from end to end without a GPU: every line but the kernels, with tiny models, and without Polars and DuckDB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu" / "bench_gpu.py"
# The machine with the GPU has neither: an import of one of them is an error.
WITHOUT = """
import runpy, sys
sys.modules["polars"] = sys.modules["duckdb"] = None
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread: with tiny models more of them only wait for one another, for long on a machine that others use.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2] / "src")}
    command = [sys.executable, "-c", WITHOUT, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_every_check_and_table_runs_on_a_cpu(tmp_path):
    done = run("--device", "cpu", "--tiny", "--quick", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    raw = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    names = [check["name"] for check in raw["checks"]]
    for part in ("varlen, GQA", "sliding window", "blockmask", "soft-capping", "groups split", "invariant mode", "log-probabilities"):
        assert any(part in name for name in names), part
    assert all(check["held"] for check in raw["checks"])
    assert {(table["lengths"], table["k"]) for table in raw["tables"]} == {
        ("exact", 1),
        ("exact", 16),
        ("log-normal", 1),
        ("log-normal", 16),
    }
    for table in raw["tables"]:
        assert set(table["candidates"]) == {"padded loop", "best plain loop", "prefmill"}
        assert all(line["seconds"] and not line["reason"] and line["difference"] < 0.1 for line in table["candidates"].values())
        assert (table["flop_ratio"] > 2) == (table["k"] == 16)


def test_no_cuda_is_said_at_once():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run("--quick")
    assert done.returncode == 2
    assert "--device cpu --tiny" in done.stderr
