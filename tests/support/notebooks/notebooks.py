"""Notebooks: their cells are run, and what they show is compared or written anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pages import ROOT, normal

CELLS = Path(__file__).parent / "cells.py"
KEPT = ("text/html", "text/plain")


def run_cells(sources: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """What each cell shows, in a process of its own."""
    path = folder / "cells.json"
    path.write_text(json.dumps(sources), "utf-8")
    done = subprocess.run(
        [sys.executable, CELLS, path],
        cwd=folder,
        env=os.environ | {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT / "src")},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def left(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What stays below a cell as the format of notebooks has it: not the bar, which went away."""
    kept = []
    for each in shown:
        if "stream" in each:
            kept.append({"name": "stdout", "output_type": "stream", "text": each["stream"]})
        elif not each["update"] and "<progress" not in each["data"].get("text/html", ""):
            data = {kind: each["data"][kind] for kind in KEPT if kind in each["data"]}
            if "text/html" in data:
                data["text/plain"] = data["text/plain"].partition("(")[0]
            kept.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return kept


def same_everywhere(outputs: object) -> str:
    """Without what differs from run to run: time, memory."""
    text = json.dumps(outputs, indent=1, ensure_ascii=False, sort_keys=True)
    return re.sub(r"(seconds|peak_rss_mb)</td><td>[\d.]+", r"\1</td><td>0", normal(text))
