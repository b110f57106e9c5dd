"""Print `docs/cli.md`: the real `--help` of every command.

.venv/bin/python docs/generate_cli.py > docs/cli.md
"""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from prefmill.cli.main import app

HEAD = """# The command line

What the options mean exactly is in [semantics.md](semantics.md). The first steps are in the
[README](../README.md).
This page is generated from `--help` by `docs/generate_cli.py`; a test compares the two.

| exit code | when |
|---|---|
| 0 | done |
| 1 | the data failed: a file that cannot be read, unusable rows, nothing came out |
| 2 | usage: an option, a plan or a column that cannot be meant, an output that is already there |
| 70 | a bug of ours |
| 75 | later, the same command may do: another run writes this output, or nobody answered |
| 130 | Ctrl-C; no output was written (`score` keeps what it has done, and goes on) |
| 141 | who read stdout went away |
| 143 | SIGTERM; likewise |

Which of them are worth another try, and what a run logs: [etl.md](etl.md).
"""


def commands() -> list[str]:
    """Names of the commands, in the order of `--help`."""
    return list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def shown(*args: str) -> str:
    """What `prefmill ARGS --help` prints."""
    looks = ("FORCE_COLOR", "TERMINAL_WIDTH")
    env = {name: value for name, value in os.environ.items() if name not in looks}
    env |= {"COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "prefmill", *args, "--help"],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = [HEAD, f"```text\n{shown()}\n```\n"]
    parts += [f"## prefmill {name}\n\n```text\n{shown(name)}\n```\n" for name in commands()]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
