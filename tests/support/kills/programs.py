"""A program of this folder in a process of its own, and what its last line tells as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def told_by(program: str, *words: object, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `program` with `words`; it ends well."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
