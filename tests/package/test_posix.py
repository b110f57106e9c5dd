"""A system that is not POSIX: one error says so, before anything else is tried."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


@pytest.mark.parametrize("absent", ["fcntl", "resource"])
@pytest.mark.parametrize("module", ["prefmill", "prefmill.cli.main", "prefmill.disk.whole"])
def test_import_says_that_the_system_is_not_posix(absent: str, module: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: prefmill needs a POSIX system")
    assert absent in last


def test_metadata_says_posix() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert "Operating System :: POSIX" in project["classifiers"]
