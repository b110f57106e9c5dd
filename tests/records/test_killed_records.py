"""The record agrees with what stands, also after a kill; of two writers one has the target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "runners" / "kill_records.py"


def run(folder, *words):
    command = [sys.executable, str(PROGRAM), str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.torture
def test_a_run_that_dies_at_any_change_of_a_name(tmp_path):
    lines = run(tmp_path, "kills", "0").splitlines()
    assert len(lines) == 6
    assert all("'2'" in line for line in lines)  # some died once all was published


def test_of_two_writers_one_has_the_target(tmp_path):
    assert run(tmp_path, "races", "20") == "{'file': 7, 'split': 7, 'folder': 6}\n"
