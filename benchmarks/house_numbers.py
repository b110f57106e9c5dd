"""Print the numbers of the house's first table, measured from the tree, next to their targets.

    python benchmarks/house_numbers.py
    python benchmarks/house_numbers.py --ref 5045b38     an old commit, to compare

How each number is counted:

- **files in the fullest folder**: files directly in one folder; of Python without `__init__.py`.
- **characters a line**: characters of lines that are not blank, over those lines, in src/*.py.
- **lines over 100**: of .py, .sql, .md and .toml files. Not counted in Markdown are rows of tables,
  which cannot be wrapped, and blocks of `text`, which show what a program prints.
- **ternaries**: `x if y else z`, from the syntax tree, per 1,000 lines of src that are not blank.
- **formatter off**: `fmt: off` and `fmt: skip` in .py files of the whole tree.
- **comment lines**: lines of src whose first character is `#`, over lines that are not blank.
- **mean sentence**: words a sentence. Left out are blocks of code, tables, headings, and lines that
  are indented by four spaces (formulas). A paragraph or an item of a list ends a sentence; so do
  `.`, `!` and `?` before a space. Code in backticks and a link are one word each. Parts of
  fewer than three words are not sentences.
- **isinstance of plan kinds**: calls that name a plan's class outside `plans/`.
- **circles**: groups of modules of src that import each other, functions and types counted.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXTS = (".py", ".sql", ".md", ".toml")
KINDS = {"Pairs", "Unpaired", "BestOf", "Advantage", "Values", "FeedbackPlan", "Plan"}
NARROW = 100


def files(root: Path, *folders: str, endings: Iterable[str] = TEXTS) -> list[Path]:
    paths = [path for folder in folders for path in (root / folder).rglob("*")]
    return sorted(path for path in paths if path.suffix in endings and path.is_file())


def lines(paths: Iterable[Path]) -> list[str]:
    """Their lines that are not blank."""
    texts = (path.read_text("utf-8") for path in paths)
    return [line for text in texts for line in text.splitlines() if line.strip()]


def fullest(paths: Iterable[Path]) -> tuple[int, str]:
    counts = Counter(path.parent for path in paths if path.stem != "__init__")
    folder, count = counts.most_common(1)[0]
    return count, folder.name


def too_long(path: Path) -> int:
    """How many lines are longer than 100 characters."""
    count, block = 0, ""
    for line in path.read_text("utf-8").splitlines():
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            block = "" if block else line.strip("` ") or "plain"
        shown = block in ("text", "console") and not line.startswith("$ ")
        row = path.suffix == ".md" and line.startswith("|")
        count += len(line) > NARROW and not shown and not row
    return count


def prose(page: str) -> Iterator[str]:
    """The paragraphs and list items of a Markdown page, each as one line."""
    page = re.sub(r"^(`{3,}).*?^\1[ ]*$", "\n", page, flags=re.MULTILINE | re.DOTALL)
    for part in re.split(r"\n[ ]*\n|\n(?=[ ]*(?:[-*]|\d+\.)[ ])", page):
        kept = [line for line in part.splitlines() if not re.match(r"#|\||!\[|    |\[.*\]:", line)]
        text = re.sub(r"^[ ]*(?:[-*]|\d+\.)[ ]+", "", " ".join(kept)).strip()
        if text:
            yield text


def sentences(page: str) -> list[str]:
    found = []
    for text in prose(page):
        plain = re.sub(r"`[^`]+`|\[[^\]]*\]\([^)]*\)", "code", text).replace("et al.", "et al")
        parts = re.split(r"(?<=[.!?])[)*\"]*\s+|(?<=[.!?][)*])\s+", plain)
        found += [part for part in parts if len(part.split()) >= 3]
    return found


def mean_sentence(paths: Iterable[Path]) -> float:
    parts = [part for path in paths for part in sentences(path.read_text("utf-8"))]
    return sum(len(part.split()) for part in parts) / max(1, len(parts))


def trees(paths: Iterable[Path]) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in paths}


def ternaries(tree: ast.Module) -> int:
    return sum(isinstance(node, ast.IfExp) for node in ast.walk(tree))


def asks_for_kinds(tree: ast.Module) -> int:
    """Calls of isinstance whose second argument names a kind of plan."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            named = set(re.findall(r"\w+", ast.unparse(node.args[1])))
            count += bool(named & KINDS)
    return count


def imported(tree: ast.Module, known: set[str]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names.update(inside or {node.module})
    return names & known


def circles(source: Path, parsed: dict[Path, ast.Module]) -> list[int]:
    """The sizes of the groups of modules that import each other."""
    names = {}
    for path in parsed:
        parts = path.relative_to(source).with_suffix("").parts
        names[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    known = set(names.values())
    graph = {names[path]: imported(tree, known) for path, tree in parsed.items()}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {name: reach(name) for name in graph}
    ring = {name: {n for n in reached[name] if name in reached[n]} for name in graph}
    groups = {frozenset(members | {name}) for name, members in ring.items() if members - {name}}
    return sorted((len(group) for group in groups), reverse=True)


def measure(root: Path) -> list[tuple[str, str, str]]:
    """Rows of (number, measured, target)."""
    package = root / "src" / "prefmill"
    source = files(root, "src", endings=(".py",))
    tests = files(root, "tests", endings=(".py",))
    sql = files(root, "sql", endings=(".sql",))
    parsed = trees(source)
    code = lines(source)
    outside = [tree for path, tree in parsed.items() if (package / "plans") not in path.parents]
    pages = [path for path in files(root, "docs", endings=(".md",)) if path.stem != "cli"]
    readme = [root / "README.md"]
    off = re.compile(r"#\s*fmt:\s*(?:off|skip)")
    python = files(root, "src", "tests", "benchmarks", "examples", "docs", endings=(".py",))
    asked = sum(map(asks_for_kinds, outside))
    signs = sum(map(len, code))
    rows = [
        (f"files in the fullest folder of {name}", "{} ({})".format(*fullest(paths)), target)
        for name, paths, target in (("src", source, "16"), ("tests", tests, "-"), ("sql", sql, "-"))
    ]
    rows.append(("characters a line of src", f"{signs / len(code):.1f}", "42"))
    for name in ("src", "tests", "sql", "docs", "benchmarks", "examples"):
        count = sum(map(too_long, files(root, name)))
        rows.append((f"lines over {NARROW}: {name}", str(count), "0"))
    top = [path for path in root.iterdir() if path.suffix in TEXTS]
    rows += [
        (f"lines over {NARROW}: the root", str(sum(map(too_long, top))), "0"),
        (
            "ternaries per 1,000 lines",
            f"{1000 * sum(map(ternaries, parsed.values())) / len(code):.1f}",
            "15",
        ),
        ("formatter off", str(sum(bool(off.search(line)) for line in lines(python))), "0"),
        (
            "comment lines, %",
            f"{100 * sum(line.lstrip().startswith('#') for line in code) / len(code):.1f}",
            "3",
        ),
        ("lines of README", str(len(readme[0].read_text("utf-8").splitlines())), "150"),
        ("mean sentence of README, words", f"{mean_sentence(readme):.1f}", "20"),
        ("mean sentence of docs, words", f"{mean_sentence(pages):.1f}", "20"),
        ("isinstance of plan kinds outside plans", str(asked), "0"),
        ("circles of imports", " + ".join(map(str, circles(root / "src", parsed))) or "0", "0"),
        ("characters of src, without blank lines", f"{signs:,}", "-"),
        ("characters of sql, without blank lines", f"{sum(map(len, lines(sql))):,}", "-"),
        ("lines of src, without blank ones", f"{len(code):,}", "-"),
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ref", help="a commit to measure instead of the files that are there")
    ref = parser.parse_args().ref
    with tempfile.TemporaryDirectory() as folder:
        root = ROOT
        if ref:
            command = ["git", "-C", str(ROOT), "archive", ref]
            packed = subprocess.run(command, check=True, capture_output=True).stdout
            root = Path(folder)
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(root, filter="data")
        print(f"{'':48} {'measured':>20} {'target':>7}")
        for name, value, target in measure(root):
            print(f"{name:48} {value:>20} {target:>7}")


if __name__ == "__main__":
    main()
