"""Every n-th write, fsync, rename, unlink and link fails, or the process dies in it.

`tests/support/kills/fail_calls.c` stands between the process and the C library: native code falls
too. In the torture every call of every case falls; here every hundredth or so of a few.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import told_by

KILLS = Path(__file__).parents[1] / "support" / "kills"
COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="the calls are caught by C code, on Linux"
)
LONG = (
    *("pairs", "pairs split", "pairs data set", "best", "values", "sql", "calibrate"),
    *("score", "score grown", "sample", "sample grown", "loop"),
    *("pairs incremental", "pairs incremental parts", "advantages incremental"),
    *(f"pairs {kind} append" for kind in ("delta", "iceberg", "lance", "duckdb", "sqlite")),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shim") / "fail_calls.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(made)]
    subprocess.run([*command, str(KILLS / "fail_calls.c"), "-ldl"], check=True)
    return made


def faults(library: Path, folder: Path, *words: str) -> dict[str, int]:
    return told_by("fault_lives.py", folder, *words, env={"LD_PRELOAD": str(library)})


@pytest.mark.parametrize(
    ("case", "every"), [("pairs split", 97), ("pairs incremental", 197), ("score", 97)]
)
def test_some_calls_fail(case: str, every: int, library: Path, tmp_path: Path) -> None:
    words = ("--case", case, "--every", str(every), "--first", "3", "--way", "die,ENOSPC")
    told = faults(library, tmp_path / "faults", *words)
    assert {name.split(": ")[1] for name in told} >= {"write die", "write ENOSPC", "fsync die"}


@pytest.mark.torture
@pytest.mark.parametrize("case", LONG)
def test_every_call_fails(case: str, library: Path, tmp_path: Path) -> None:
    told = faults(library, tmp_path / "faults", "--case", case)
    for kind in ("write", "fsync", "rename", "unlink"):
        for way in ("die", "EIO", "ENOSPC"):
            assert told.get(f"{case}: {kind} {way}", 0) >= 1, told
