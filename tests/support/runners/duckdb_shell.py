"""The command-line shell of DuckDB: that of the package duckdb-cli, or one on the PATH."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def shell() -> str | None:
    """The path of the shell; None where there is none."""
    spec = importlib.util.find_spec("duckdb_cli")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(place) / "duckdb").is_file():
            return str(found)
    return shutil.which("duckdb")


def ask(script: list[str]) -> str:
    """What the shell says to `script`; only its errors are read."""
    command = [str(shell()), "-batch"]
    done = subprocess.run(
        command, input="\n".join(script), capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    return done.stderr
