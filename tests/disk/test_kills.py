"""Commands killed at random instants: 1,000 times in the torture, by four processes.

`PREFMILL_KILLS=200` asks for another number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "runners" / "kill_commands.py"
TORTURE = int(os.environ.get("PREFMILL_KILLS", "1000"))
PARTS = 4


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (5, 5),
        *(pytest.param(TORTURE // PARTS, seed, marks=pytest.mark.torture) for seed in range(PARTS)),
    ],
)
def test_killed_at_random_instants_there_is_old_or_new(kills, seed, tmp_path):
    command = [sys.executable, str(PROGRAM), str(tmp_path / "kills"), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert sum(told["killed"].values()) == kills
    assert told["looks"] >= kills
