"""The site: its pages run, its pictures and lists are what is there, its links lead where the
forge's do. `make docs` builds it strictly.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pages import ROOT, blocks, make_targets, run_page, script

DOCS = ROOT / "docs"
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs")
    return script("docs/site/hooks.py")


def run(name: str, folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples")
    page = (DOCS / name).read_text("utf-8")
    assert blocks(page)
    wrong = run_page(page, folder, make_targets(), f"docs/{name}")
    assert not wrong, "\n\n".join(wrong)


def test_every_block_of_the_concepts_runs(tmp_path):
    for page in CONCEPTS[1:]:
        run(f"concepts/{page.name}", tmp_path / page.stem)


def test_a_concept_has_a_table_and_a_block_and_is_in_the_list():
    listed = CONCEPTS[0].read_text("utf-8")
    assert CONCEPTS[0].name == "README.md"
    assert len(CONCEPTS) > 10
    for path in CONCEPTS[1:]:
        page = path.read_text("utf-8")
        assert "\n|---|" in page or "\n|--:|" in page, path
        assert [b.language for b in blocks(page) if b.expected] == ["python"], path
        assert f"({path.name})" in listed


def test_the_pictures_of_the_concepts_are_what_plans_give():
    drawn = script("docs/draw_concepts.py").pictures()
    for path, picture in drawn.items():
        assert path.read_text("utf-8") == picture, "run: python docs/draw_concepts.py"
    shown = {
        name
        for page in CONCEPTS
        for name in re.findall(r"\(pictures/([\w-]+)\.svg\)", page.read_text("utf-8"))
    }
    assert shown == {path.stem for path in drawn}


@pytest.mark.parametrize("name", ["trl.md", "tutorial.md", "SKILL.md"])
def test_every_block_of_the_page_runs(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.train
@pytest.mark.torture
def test_the_commands_of_the_tutorial_that_train_run(tmp_path):
    """As they stand, but for the number of steps and the model, which is a tiny one here."""
    pytest.importorskip("trl")
    from tiny import reward_model, tokenizer

    run("tutorial.md", tmp_path)
    words = tokenizer()
    model = reward_model(words)
    model.config.max_position_embeddings = 1024
    for each in (model, words):
        each.save_pretrained(tmp_path / "encoder")
    page = (DOCS / "tutorial.md").read_text("utf-8")
    lines = [block.text for block in blocks(page) if block.language == "sh"]
    assert "--steps 100" in lines[0]
    script = "".join(lines).replace("--steps 100", "--steps 2").partition("\n")[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=os.environ | {"PATH": path}, timeout=300
    )
    assert done.returncode == 0
    best = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text("utf-8").splitlines()]
    assert len(best) == 100
    assert list(best[0]) == ["messages"]


def test_the_skill_names_commands_that_are_there():
    from typer.main import get_command

    from prefmill.cli.main import app

    known = set(get_command(app).commands)
    page = (DOCS / "SKILL.md").read_text("utf-8")
    head, named = page.split("---")[1], set(re.findall(r"`prefmill ([a-z][a-z-]*)", page))
    assert re.search(r"^name: prefmill$", head, re.MULTILINE)
    assert re.search(r"^description: \S", head, re.MULTILINE)
    assert {"check", "pairs", "best"} <= named <= known


def test_the_page_of_python_has_every_public_name():
    import prefmill as pm

    page = (DOCS / "api.md").read_text("utf-8")
    made = script("docs/generate_api.py").page()
    assert page == made, "run: python docs/generate_api.py > docs/api.md"
    assert set(re.findall(r"`prefmill\.(\w+)`", page)) == {*pm.__all__} - {"__version__"}


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/etl.md", "scaling.md", "scaling.md"),
        ("docs/etl.md", "../README.md", "index.md"),
        ("docs/etl.md", "../examples/crontab", "from/examples/crontab"),
        ("docs/etl.md", "../examples/dbt", "from/examples/dbt/index.md"),
        ("docs/etl.md", "nowhere.md", "nowhere.md"),
        ("docs/etl.md", "https://example.org/x", "https://example.org/x"),
        ("docs/concepts/votes.md", "../votes.md", "../votes.md"),
        ("README.md", "docs/hosts.md", "hosts.md"),
        ("README.md", "docs/concepts", "concepts/README.md"),
        ("README.md", "docs/decisions", "decisions/index.md"),
        ("README.md", "CONTRIBUTING.md", "from/CONTRIBUTING.md"),
        ("CONTRIBUTING.md", "docs/map.md", "../map.md"),
    ],
)
def test_a_link_leads_where_it_does_on_the_forge(hooks, source, link, there):
    page = "[a]({0}) and ![b]({0}#part)\n\n```text\n[c]({0})\n```\n\n[d]: {0}\n"
    wanted = page.format(there).replace(f"[c]({there})", f"[c]({link})")
    assert hooks.relinked(page.format(link), source) == wanted


def test_a_page_of_names_gets_their_docstrings(hooks):
    table = "| name | |\n|---|---|\n| `{0}` | What. |\n"
    for name in ("prefmill.Pairs", "prefmill.duckdb.install", "prefmill.datasets.push_to_hub"):
        assert f"\n::: {name}\n" in hooks.with_docstrings(table.format(name))
    for made in ("prefmill.polars.pairs", "prefmill.datasets.unpaired"):
        assert ":::" not in hooks.with_docstrings(table.format(made))
