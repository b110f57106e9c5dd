"""Where `diff` reads outputs from and writes differences to."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs in splits, which have no pair in common."""
    monkeypatch.chdir(tmp_path)
    rows = {"prompt": ["p"] * 2 + ["q"] * 2, "completion": list("abcd"), "score": [5, 1, 5, 2]}
    for name in ("a", "b"):
        pl.DataFrame(rows).write_parquet(f"{name}_rows.parquet")
        pm.run(pm.Pairs(), f"{name}_rows.parquet", name, split={"train": 0.5, "test": 0.5})
        rows["completion"] = list("efgh")
    return "a", "b"


def test_outputs_in_splits_are_compared_into_a_file(runs):
    report = pm.diff(*runs, "differences.jsonl")
    assert (report.appeared, report.vanished) == (2, 2)
    assert pl.read_ndjson("differences.jsonl").height == 4


def test_a_dash_is_stdout(runs, tmp_path):
    result = CliRunner().invoke(app, ["diff", *runs, "-o", "-", "-q"])
    assert result.exit_code == 0, result.output
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    assert sorted(kinds) == ["appeared", "appeared", "vanished", "vanished"]
    assert not (tmp_path / "-").exists()
    both = CliRunner().invoke(app, ["diff", *runs, "-o", "-", "--json"])
    assert isinstance(both.exception, BadArgument)
