"""What imports what: layers, light starts, names that are there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable

import pytest
from pages import HEAVY, ROOT

import prefmill
from prefmill.plans import kinds

SOURCE = ROOT / "src" / "prefmill"

# (c), (d) The public names, and what importing them costs


def test_all_is_sorted_documented_and_there():
    names = prefmill.__all__
    assert len(names) == len(set(names))
    assert dir(prefmill) == sorted(names)
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
    ours = {"annotations", "TYPE_CHECKING", "_kinds", "*"}
    assert imported - ours | set(kinds.__all__) == set(names)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        prefmill.nothing_of_that_name  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    """The top-level names of the modules that `statement` loads, in a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules); {statement}; print(*{{m.split('.')[0] for m "
        f"in set(sys.modules) - before}})"
    )
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


@pytest.mark.parametrize(
    "module", ["plans.kinds", "engines.steps", "table.roles", "errors", "__init__"]
)
def test_plans_need_the_standard_library_only(module):
    statement = "import prefmill" if module == "__init__" else f"import prefmill.{module}"
    assert loaded_by(statement) - set(sys.stdlib_module_names) <= {"prefmill"}
    path = SOURCE / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
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
    found = imports_of("scoring/**/*.py", "sampling/**/*.py")
    engines = ("polars", "duckdb", "prefmill.polars", "prefmill.duckdb")
    assert not refused(found, lambda name: name.startswith(engines))


def test_every_module_has_a_docstring_and_can_be_imported():
    for path in sorted(SOURCE.rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), (
            f"{path.relative_to(ROOT)} has no docstring"
        )
        if path.stem != "__main__" and path.parent == SOURCE:
            importlib.import_module(
                "prefmill" if path.stem == "__init__" else f"prefmill.{path.stem}"
            )
