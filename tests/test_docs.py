"""What the documents say is what happens: every block of the README runs, and the pages list what
there is.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "prefmill"
README = ROOT / "README.md"
COOKBOOK = ROOT / "docs" / "sql-cookbook.md"
MAP = ROOT / "docs" / "map.md"
#: What sets up an environment is not run in one that is set up.
SETS_UP = ("pip ", "git ", "python3 -m venv ", ". .venv/bin/activate")
HEAVY = ("polars", "duckdb", "pyarrow", "datasets", "transformers", "torch", "trl")


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


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("", []),
        ("# only words\n", []),
        ("```console\n$ ls\na\n```\n", [Block("console", "$ ls\na\n", 1)]),
        (
            "x\n```python\nprint(1)\n```\n```text\n1\n```\n",
            [Block("python", "print(1)\n", 2, "1\n")],
        ),
        ("```sql\nFROM t\n```\n\n```text\n(1,)\n```\n", [Block("sql", "FROM t\n", 1, "(1,)\n")]),
        (
            "```sql\nFROM t\n```\nwords\n```text\nno answer\n```\n",
            [Block("sql", "FROM t\n", 1), Block("text", "no answer\n", 5)],
        ),
        ("```text\na\n```\n```text\nb\n```\n", [Block("text", "a\n", 1), Block("text", "b\n", 4)]),
        ("```\nplain\n```\n```python\n```\n", [Block("", "plain\n", 1), Block("python", "", 4)]),
        ("````text\n```sql\n```\n````\n", [Block("text", "```sql\n```\n", 1)]),
    ],
)
def test_the_parser_of_blocks(page, wanted):
    assert blocks(page) == wanted


def test_the_parser_refuses_an_open_block():
    with pytest.raises(AssertionError, match="line 2: the block is never closed"):
        blocks("a\n```python\nx\n")


def test_the_parser_of_commands():
    text = "$ one -a\nout 1\n\nout 2\n$ two \\\n> -b\n$ three\nout 3\n"
    assert commands(text) == [
        ("one -a", "out 1\n\nout 2\n"),
        ("two \\\n-b", ""),
        ("three", "out 3\n"),
    ]
    assert commands("") == []
    with pytest.raises(AssertionError, match="output before the first command"):
        commands("stray\n$ one\n")


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        ("2 pairs (0.31 s, 1,237 MB, duckdb)\n", "2 pairs (9 s, 4 MB, duckdb)", True),
        ("2 pairs (0.31 s, 237 MB, duckdb)", "3 pairs (0.31 s, 237 MB, duckdb)", False),
        ("a\nb\nc\n", "a\n...\nc\n", True),
        ("a\nb\n", "a\n...", True),
        ("a\nb\n", "a\n", False),
        ("a  \nb\n\n", "a\nb", True),
        ("a+b (c)", "a+b (c)", True),
        ("axb", "a.b", False),
        ("", "", True),
    ],
)
def test_the_comparison_of_outputs(got, expected, equal):
    assert same(got, expected) is equal


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


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def test_every_block_of_the_readme_runs(folder):
    page = README.read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets())
    assert not wrong, "\n\n".join(wrong)
    # What writes runs a second time as well.
    again = [
        command
        for block in blocks(page)
        if block.language == "console"
        for command, _ in commands(block.text)
        if " -o " in command
    ]
    assert again
    assert [run_in(folder, command).returncode for command in again] == [0] * len(again)


def run_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """`command` in a shell, with the `prefmill` of this environment."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, text=True, capture_output=True, timeout=300
    )


def test_every_command_of_the_table_of_shapes_makes_rows(folder):
    page = README.read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ") and "`prefmill" in line]
    found = [command for line in table for command in re.findall(r"`(prefmill [^`]+)`", line)]
    assert len(found) >= 10
    for command in found:
        done = run_in(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        target = folder / re.search(r"-o (\S+)", command)[1]
        assert target.is_dir() or target.stat().st_size > 0, command
    rows = [json.loads(line) for line in (folder / "out" / "sft.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == ["Seven minutes in boiling water."]


@pytest.mark.train
def test_the_chain_of_the_readme_runs_on_what_the_demo_made(folder):
    """Its five commands, on the demo's files; the demo's reward model is a tiny one here, which
    takes no minutes to train.
    """
    pytest.importorskip("trl")
    from tiny import reward_model, tokenizer

    demo = folder / "out" / "demo"
    spec = importlib.util.spec_from_file_location(
        "make_feedback", folder / "examples" / "make_feedback.py"
    )
    assert spec
    assert spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.make(demo)
    words = tokenizer()
    model = reward_model(words)
    model.config.max_position_embeddings = 1024  # a token a character
    model.save_pretrained(demo / "reward")
    words.save_pretrained(demo / "reward")
    chain = [
        block
        for block in blocks(README.read_text(encoding="utf-8"))
        if block.language == "sh" and "out/demo" in block.text
    ]
    assert len(chain) == 1
    lines = chain[0].text.replace("\\\n", "").splitlines()
    assert len(lines) == 5
    for command in lines:
        done = run_in(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert pl.read_parquet(folder / "out" / "chain-best.parquet").height == 100


def test_every_block_of_the_cookbook_runs(folder):
    page = COOKBOOK.read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets(), "docs/sql-cookbook.md")
    assert not wrong, "\n\n".join(wrong)
    assert len(re.findall(r"^## \d+\. ", page, re.MULTILINE)) >= 15
    unanswered = [
        b.line
        for b in blocks(page)
        if b.language == "sql" and b.expected is None and not b.text.startswith("CREATE VIEW")
    ]
    assert not unanswered, (
        f"docs/sql-cookbook.md: no answer behind the blocks of lines {unanswered}"
    )


def test_a_page_without_blocks_runs(folder):
    assert run_page("", folder, set()) == []


def test_a_page_that_is_wrong_is_found_out(folder):
    page = (
        "```console\n$ make nothing\n$ make demo\n$ echo 1\n2\n$ echo 3 >&2; ls\n3\nexamples\n$ pip install nothing\n```\n"
        "```python\na = 1\nprint(a)\n```\n```text\n2\n```\n```python\nprint(a)\n```\n```text\n1\n```\n"
        "```python\nraise ValueError('no')\n```\n"
        "```sql\nSELECT 1, 'a'\n```\n```text\n(1, 'b')\n```\n```sql\nSELECT 1, 'a';\n```\n```text\n(1, 'a')\n```\n"
    )
    wrong = run_page(page, folder, {"demo"})
    assert [text.splitlines()[0] for text in wrong] == [
        "README.md, line 1: `make nothing`: the Makefile has no target 'nothing'",
        "README.md, line 1: $ echo 1 (exit code 0)",
        "README.md, line 11",
        "README.md, line 18: NameError: name 'a' is not defined",
        "README.md, line 24: ValueError: no",
        "README.md, line 27",
    ]


def test_the_map_names_every_module():
    """Paths `src/prefmill/...` in docs/map.md: all exist, and every module at the top of the
    package is among them.
    """
    named = {
        path.rstrip("/").removesuffix(".py")
        for path in re.findall(r"src/prefmill/[\w./-]*\w", MAP.read_text(encoding="utf-8"))
    }
    there = {f"src/prefmill/{path.stem}" for path in SOURCE.glob("*.py")}
    there |= {f"src/prefmill/{path.parent.name}" for path in SOURCE.glob("*/__init__.py")}
    assert not there - named, f"docs/map.md lacks {sorted(there - named)}"
    inside = {
        path
        for path in named
        if (SOURCE.parents[1] / f"{path}.py").exists() or (SOURCE.parents[1] / path).exists()
    }
    assert not named - inside, f"docs/map.md names what is not there: {sorted(named - inside)}"


# (b) docs/cli.md


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_what_help_prints():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == generator().page(), "run: .venv/bin/python docs/generate_cli.py > docs/cli.md"


def test_the_page_of_the_command_line_has_every_command_and_option():
    import typer

    from prefmill.cli.main import app

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## prefmill (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    )
    app_commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(sections) == list(app_commands)
    for name, command in app_commands.items():
        for parameter in command.params:
            for option in (
                (*parameter.opts, *parameter.secondary_opts)
                if parameter.param_type_name == "option"
                else ()
            ):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", sections[name]), (
                    f"docs/cli.md: {name} lacks {option}"
                )
    for code in (0, 1, 2, 70, 130, 143):
        assert f"\n| {code} | " in page


# (c), (d) The public names, and what importing them costs


def test_all_is_sorted_documented_and_there():
    names = prefmill.__all__
    assert names == sorted(names)
    assert set(dir(prefmill)) == set(names)
    for name in names:
        value = getattr(prefmill, name)
        if not name.startswith("__"):
            assert (getattr(value, "__doc__", None) or "").strip(), (
                f"prefmill.{name} has no docstring"
            )
            assert not (value.__doc__ or "").startswith(f"{name}("), (
                f"prefmill.{name} has only the docstring of its dataclass"
            )
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        a.asname or a.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    }
    assert imported - {"annotations", "TYPE_CHECKING"} == set(names)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        prefmill.nothing_of_that_name  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    """The top-level names of the modules that `statement` loads, in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*{{m.split('.')[0] for m in set(sys.modules) - before}})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy():
    assert not loaded_by("import prefmill") & set(HEAVY)


@pytest.mark.parametrize("module", ["plans", "schema", "errors", "__init__"])
def test_plans_need_the_standard_library_only(module):
    statement = "import prefmill" if module == "__init__" else f"import prefmill.{module}"
    assert loaded_by(statement) - set(sys.stdlib_module_names) <= {"prefmill"}
    tree = ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))
    at_once = {name.split(".")[0] for node in _outside_functions(tree) for name in _imports(node)}
    assert at_once <= {*sys.stdlib_module_names, "prefmill"}


# (f) Layers


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _outside_functions(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run when the module is imported (what stands under `if TYPE_CHECKING`
    does not).
    """
    found: list[ast.stmt] = []
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += [
                child
                for child in ast.walk(node)
                if isinstance(child, ast.stmt) and child is not node
            ]
    return found


def imports_of(*patterns: str) -> dict[str, set[str]]:
    """Everything that the modules matching `patterns` import, anywhere in them."""
    paths = sorted({path for pattern in patterns for path in SOURCE.glob(pattern)})
    return {
        str(path.relative_to(SOURCE)): {
            name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in _imports(node)
        }
        for path in paths
    }


def refused(found: dict[str, set[str]], wrong: Callable[[str], bool]) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in found.items()
        for name in sorted(names)
        if wrong(name)
    ]


def test_scoring_and_sampling_know_no_engine():
    found = imports_of("scoring.py", "scoring/**/*.py", "sampling.py", "sampling/**/*.py")
    engines = ("polars", "duckdb", "prefmill.polars", "prefmill.duckdb")
    assert not refused(found, lambda name: name.startswith(engines))


def test_readers_and_writers_know_no_rules():
    """They move rows and know neither plans, nor what the engines make of them, nor runs."""
    found = imports_of(
        "readers.py", "readers/**/*.py", "writers.py", "writers/**/*.py", "formats.py", "hashing.py"
    )
    assert found
    rules = tuple(
        f"prefmill.{name}"
        for name in (
            "polars",
            "duckdb",
            "plans",
            "job",
            "runs",
            "gather",
            "report",
            "cli",
            "checks",
            "scoring",
            "sampling",
        )
    )
    assert not refused(found, lambda name: name.startswith(rules))
    assert not refused(
        imports_of("readers.py", "readers/**/*.py"),
        lambda name: name.startswith("prefmill.writers.write"),
    )
    assert not refused(
        imports_of("writers.py", "writers/**/*.py"),
        lambda name: name.startswith("prefmill.readers"),
    )


def test_every_module_has_a_docstring_and_can_be_imported():
    for path in sorted(SOURCE.rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), (
            f"{path.relative_to(ROOT)} has no docstring"
        )
        if path.stem != "__main__" and path.parent == SOURCE:
            importlib.import_module(
                "prefmill" if path.stem == "__init__" else f"prefmill.{path.stem}"
            )
