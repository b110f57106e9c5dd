"""docs/shapes.md is what its lines give: each shape of the corpus, run as it is typed there."""

from __future__ import annotations

import importlib.util
from typing import Any

from corpus import ENTRIES, STEPS
from pages import ROOT


def generator() -> Any:
    path = ROOT / "docs" / "generate_shapes.py"
    spec = importlib.util.spec_from_file_location("generate_shapes", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_shapes_is_what_its_lines_give() -> None:
    page = (ROOT / "docs" / "shapes.md").read_text(encoding="utf-8")
    assert page == generator().page(), (
        "run: .venv/bin/python docs/generate_shapes.py > docs/shapes.md"
    )


def test_every_shape_is_one_line() -> None:
    """No shape needs more than options: nothing is reshaped first."""
    for entry in [*ENTRIES, *STEPS]:
        assert "\n" not in entry.line
        assert "|" not in entry.line.replace('"', "") or "--wins" in entry.line
