"""The command as users run it: a process of its own, forked from one that has imported it all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from forked import server


def prefmill(
    *args: object, stdin: bytes | None = None, cwd: Path | None = None, models: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; with `models` one that loads some."""
    words = list(map(str, args))
    asked = {"words": words, "folder": str(cwd or Path.cwd()), "env": dict(os.environ)}
    code, out, err = server(models).run(asked, stdin)
    return subprocess.CompletedProcess(words, code, out.decode(), err.decode())
