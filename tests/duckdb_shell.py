"""Where the command-line shell of DuckDB is: that of the package duckdb-cli, or one on the PATH."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


def shell() -> str | None:
    """The path of the shell; None where there is none."""
    spec = importlib.util.find_spec("duckdb_cli")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(place) / "duckdb").is_file():
            return str(found)
    return shutil.which("duckdb")
