"""What the documents say is what happens: every block of the README runs, and the pages list what
there is.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain as chained
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pages import COOKBOOK, README, ROOT, blocks, commands, make_targets, run_page

SOURCE = ROOT / "src" / "prefmill"

MAP = ROOT / "docs" / "map.md"


def test_every_block_of_the_readme_runs(folder):
    page = README.read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets())
    assert not wrong, "\n\n".join(wrong)
    # What writes runs a second time as well.
    again = [
        command
        for block in blocks(page)
        if block.language == "console"
        for command, _ in commands(block.text)
        if " -o " in command
    ]
    assert again
    assert [run_in(folder, command).returncode for command in again] == [0] * len(again)


def run_in(folder: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`command` in a shell, with the `prefmill` of this environment."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "NO_COLOR": "1",
        **more,
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, text=True, capture_output=True, timeout=300
    )


def without_extras(folder: Path) -> str:
    """A path of Python in which what the extras bring is not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder.mkdir()
    for line in chained.from_iterable(project["optional-dependencies"].values()):
        name = re.match(r"[\w-]+", line)[0].replace("-", "_")
        if name != "prefmill":
            (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    return os.pathsep.join([str(folder), str(SOURCE.parent)])


def test_every_command_of_the_table_of_shapes_makes_rows(folder, tmp_path):
    """With what `pip install .` installs, and no more."""
    bare = without_extras(tmp_path / "bare")
    refused = run_in(folder, "python -c 'import datasets'", PYTHONPATH=bare)
    assert "ModuleNotFoundError" in refused.stderr
    page = README.read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ") and "`prefmill" in line]
    found = [command for line in table for command in re.findall(r"`(prefmill [^`]+)`", line)]
    assert len(found) >= 10
    for command in found:
        done = run_in(folder, command, PYTHONPATH=bare)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        written = [folder / name for name in re.findall(r"^wrote (\S+)", done.stderr, re.MULTILINE)]
        assert written, command
        assert all(path.stat().st_size > 0 for path in written), command
    rows = [json.loads(line) for line in (folder / "out" / "sft.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == ["Seven minutes in boiling water."]


@pytest.mark.train
def test_the_chain_of_the_readme_runs_on_what_the_demo_made(folder):
    """Its five commands, on the demo's files; the demo's reward model is a tiny one here, which
    takes no minutes to train.
    """
    pytest.importorskip("trl")
    from tiny import reward_model, tokenizer

    demo = folder / "out" / "demo"
    spec = importlib.util.spec_from_file_location(
        "make_feedback", folder / "examples" / "make_feedback.py"
    )
    assert spec
    assert spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.make(demo)
    words = tokenizer()
    model = reward_model(words)
    model.config.max_position_embeddings = 1024  # a token a character
    model.save_pretrained(demo / "reward")
    words.save_pretrained(demo / "reward")
    chain = [
        block
        for block in blocks(README.read_text(encoding="utf-8"))
        if block.language == "sh" and "out/demo" in block.text
    ]
    assert len(chain) == 1
    lines = chain[0].text.replace("\\\n", "").splitlines()
    assert len(lines) == 5
    for command in lines:
        done = run_in(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert pl.read_parquet(folder / "out" / "chain-best.parquet").height == 100


def test_every_block_of_the_cookbook_runs(folder):
    page = COOKBOOK.read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets(), "docs/sql-cookbook.md")
    assert not wrong, "\n\n".join(wrong)
    assert len(re.findall(r"^## \d+\. ", page, re.MULTILINE)) >= 15
    unanswered = [
        b.line
        for b in blocks(page)
        if b.language == "sql" and b.expected is None and not b.text.startswith("CREATE VIEW")
    ]
    assert not unanswered, (
        f"docs/sql-cookbook.md: no answer behind the blocks of lines {unanswered}"
    )


def test_the_map_names_every_module():
    """Paths `src/prefmill/...` in docs/map.md: all exist, and every module at the top of the
    package is among them.
    """
    named = {
        path.rstrip("/").removesuffix(".py")
        for path in re.findall(r"src/prefmill/[\w./-]*\w", MAP.read_text(encoding="utf-8"))
    }
    there = {f"src/prefmill/{path.stem}" for path in SOURCE.glob("*.py")}
    there |= {f"src/prefmill/{path.parent.name}" for path in SOURCE.glob("*/__init__.py")}
    assert not there - named, f"docs/map.md lacks {sorted(there - named)}"
    inside = {
        path
        for path in named
        if (SOURCE.parents[1] / f"{path}.py").exists() or (SOURCE.parents[1] / path).exists()
    }
    assert not named - inside, f"docs/map.md names what is not there: {sorted(named - inside)}"


# (b) docs/cli.md


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_what_help_prints():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == generator().page(), "run: .venv/bin/python docs/generate_cli.py > docs/cli.md"


def test_the_page_of_the_command_line_has_every_command_and_option():
    import typer

    from prefmill.cli.main import app

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## prefmill (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    )
    app_commands = typer.main.get_command(app).commands
    assert list(sections) == list(app_commands)
    for name, command in app_commands.items():
        for parameter in command.params:
            for option in (
                (*parameter.opts, *parameter.secondary_opts)
                if parameter.param_type_name == "option"
                else ()
            ):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", sections[name]), (
                    f"docs/cli.md: {name} lacks {option}"
                )
    for code in (0, 1, 2, 70, 130, 143):
        assert f"\n| {code} | " in page
