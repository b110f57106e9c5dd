"""docs/steps.md runs as it stands, and each of its lines reads its data set."""

from __future__ import annotations

import re
import shlex

import polars as pl
import pytest
import typer
from pages import ROOT, make_targets, run_page
from step_records import SHAPES, write

from prefmill.cli.main import app

PAGE = (ROOT / "docs" / "steps.md").read_text("utf-8")
LINES = dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|$", PAGE, re.MULTILINE))


def test_every_block_of_the_page_runs(folder):
    wrong = run_page(PAGE, folder, make_targets())
    assert not wrong, "\n\n".join(wrong).replace("README.md", "docs/steps.md")


@pytest.mark.parametrize("name", LINES)
def test_every_line_of_the_page(name, tmp_path):
    records, _, wanted, read_as = SHAPES[name]
    assert LINES[name] == read_as
    write(tmp_path / "in.jsonl", records)
    command = typer.main.get_command(app)
    files = ["steps", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.parquet"), "--quiet"]
    command.main([*files, *shlex.split(LINES[name])], standalone_mode=False)
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == wanted
