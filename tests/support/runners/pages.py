"""Pages whose blocks are run, in order, in a folder of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]

README = ROOT / "README.md"

COOKBOOK = ROOT / "docs" / "sql-cookbook.md"

#: What sets up an environment is not run in one that is set up.
SETS_UP = ("pip ", "git ", "python3 -m venv ", ". .venv/bin/activate")

HEAVY = ("polars", "duckdb", "pyarrow", "datasets", "transformers", "torch", "trl")


def script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The parser of blocks


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its fence, and the
    ```text block that follows it at once, if any.
    """

    language: str
    text: str
    line: int
    expected: str | None = None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a Markdown page, in order; a
    ```text block right behind another block becomes its `expected`.
    """
    found: list[Block] = []
    fence, language, start, text = "", "", 0, []
    closed_at = -1  # the last line that was not blank is the closing fence of found[-1]
    for number, line in enumerate(page.splitlines(), 1):
        if fence:
            if line.strip() == fence:
                block = Block(language, "".join(f"{t}\n" for t in text), start)
                if language == "text" and closed_at >= 0 and found and found[-1].expected is None:
                    found[-1] = Block(
                        found[-1].language, found[-1].text, found[-1].line, block.text
                    )
                else:
                    found.append(block)
                fence, closed_at = "", number if language != "text" else -1
            else:
                text.append(line)
        elif opened := re.match(r"(`{3,})\s*(\w*)", line):
            fence, language, start, text = opened[1], opened[2], number, []
        elif line.strip():
            closed_at = -1
    assert not fence, f"line {start}: the block is never closed"
    return found


def commands(text: str) -> list[tuple[str, str]]:
    """(command, expected output) of a console block; a command goes on in the next line behind a
    backslash.
    """
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", "")
        else:
            assert found, f"output before the first command: {line!r}"
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def normal(text: str) -> str:
    """Without what differs from run to run: time, memory, trailing space."""
    text = re.sub(r"\([0-9.]+ s, [0-9,]+ MB", "(S s, M MB", text)
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def same(got: str, expected: str) -> bool:
    """Whether `got` is `expected`, in which `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in normal(expected).split("..."))
    return re.fullmatch(pattern, normal(got), re.DOTALL) is not None


def differs(what: str, got: str, expected: str) -> list[str]:
    return (
        []
        if same(got, expected)
        else [f"{what}\n--- expected\n{normal(expected)}\n--- got\n{normal(got)}"]
    )


# (a) The README runs


def run_console(text: str, folder: Path, targets: set[str], where: str) -> list[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS")}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    wrong = []
    for command, expected in commands(text):
        if command.startswith("make "):
            named = [
                word
                for word in command.split("#")[0].split()[1:]
                if "=" not in word and not word.startswith("-")
            ]
            wrong += [
                f"{where}: `{command}`: the Makefile has no target {name!r}"
                for name in named
                if name not in targets
            ]
        elif not command.startswith(SETS_UP):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=env,
                text=True,
                timeout=120,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            wrong += differs(
                f"{where}: $ {command} (exit code {done.returncode})", done.stdout, expected
            )
    return wrong


def run_python(block: Block, namespace: dict[str, Any], where: str) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile("\n" * block.line + block.text, "README.md", "exec"), namespace)
    except Exception as error:
        return [f"{where}: {type(error).__name__}: {error}"]
    return [] if block.expected is None else differs(where, said.getvalue(), block.expected)


def run_sql(block: Block, con: Any, where: str) -> list[str]:
    try:
        result = con.sql(block.text.strip().rstrip(";"))
        rows = result.fetchall() if result is not None else []
    except Exception as error:
        return [f"{where}: {type(error).__name__}: {error}"]
    return (
        [] if block.expected is None else differs(where, "\n".join(map(repr, rows)), block.expected)
    )


def run_page(page: str, folder: Path, targets: set[str], name: str = "README.md") -> list[str]:
    """Run every block of `page` in `folder`, in order and each on its own; what went wrong."""
    import duckdb

    import prefmill.duckdb

    wrong: list[str] = []
    with contextlib.chdir(folder), duckdb.connect(config={"threads": 2}) as con:
        prefmill.duckdb.install(con)
        for block in blocks(page):
            where = f"{name}, line {block.line}"
            if block.language == "console":
                wrong += run_console(block.text, folder, targets, where)
            elif block.language == "python":
                wrong += run_python(block, {"__name__": "readme"}, where)
            elif block.language == "sql":
                wrong += run_sql(block, con, where)
    return wrong


def make_targets() -> set[str]:
    return set(re.findall(r"^([A-Za-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
