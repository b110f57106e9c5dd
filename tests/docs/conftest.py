"""A folder with the examples in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pages import ROOT


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path
