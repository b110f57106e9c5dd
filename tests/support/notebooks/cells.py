"""Run the cells of a notebook in IPython, as a kernel would, without one.

    python cells.py CELLS.json

`CELLS.json` is a list of sources. Printed is a JSON list: for each cell what it showed, as mappings
with `stream`, `data` (by type), and `update` where something shown before was changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config


def main(path: str) -> None:
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.kernel = None  # what tells a notebook from a terminal
    told = []
    for source in json.loads(Path(path).read_text("utf-8")):
        with capture_output() as seen:
            done = shell.run_cell(source, store_history=False)
        told.append(outputs(shell, seen, done))
    print(json.dumps(told))


def outputs(shell: Any, seen: Any, done: Any) -> list[dict[str, Any]]:
    """What one cell showed, its value last; an error in it ends us."""
    done.raise_error()
    printed = seen.stdout
    shown = [{"data": each.data, "update": each.update} for each in seen.outputs]
    if done.result is not None:
        printed = printed.rpartition("Out[")[0]
        shown.append({"data": shell.display_formatter.format(done.result)[0], "update": False})
    return [{"stream": text} for text in (printed, seen.stderr) if text] + shown


if __name__ == "__main__":
    main(sys.argv[1])
