"""The rooms of src/prefmill stand on one another: no import runs up, and no two import each other.

Every import counts: at load time, inside a function, and under TYPE_CHECKING. The order is that of
docs/map.md. The rooms of `runs/` have floors of their own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
MAP = ROOT / "docs" / "map.md"

#: From the ground up. Rooms of one floor do not import each other.
FLOORS = (
    ("redact", "_version"),
    ("errors",),
    ("room",),
    ("objects", "shown"),
    ("connection", "progress", "forks", "ending", "arguments"),
    ("telemetry",),
    ("table",),
    ("disk",),
    ("isolation",),
    ("warehouse",),
    ("readers", "writers"),
    ("shapes",),
    ("pools",),
    ("rules",),
    ("engines",),
    ("plans",),
    ("polars", "duckdb", "spark", "ray"),
    ("models",),
    ("sampling",),
    ("scoring",),
    ("runs",),
    ("plots",),
    ("reports",),
    ("proxies",),
    ("viewer", "training", "datasets"),
    ("loops",),
    ("cli",),
    ("__main__", "__init__"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

#: The same of `runs/`; "" are the modules next to its rooms.
FLOORS_OF_RUNS = (
    ("job", "workers"),
    ("account",),
    ("records",),
    ("cluster", "resumable", "judges", "queries"),
    ("incremental", "looks"),
    ("causes",),
    ("",),
)
FLOOR_OF_RUNS = {room: floor for floor, rooms in enumerate(FLOORS_OF_RUNS) for room in rooms}

Arrows = dict[str, set[str]]


def modules(source: Path) -> dict[str, Path]:
    """The modules under `source` by dotted name; a package has the name of its folder."""
    paths = {path.relative_to(source).with_suffix("").parts: path for path in source.rglob("*.py")}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for p, path in paths.items()}


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of `known` that a file imports, wherever in the file the import stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update((inside & known) or {str(node.module)})
    return names & known


def arrows(source: Path = SOURCE) -> Arrows:
    """Which module imports which."""
    files = modules(source)
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    return {name: imports(tree, set(files)) - {name} for name, tree in trees.items()}


def room(module: str) -> str:
    _, _, rest = module.partition(".")
    return rest.split(".")[0] or "__init__"


def room_of_runs(module: str) -> str:
    """The folder of `runs/` that a module of it is in."""
    inside = module.removeprefix("prefmill.runs").removeprefix(".").split(".")[0]
    return inside if (SOURCE / "prefmill" / "runs" / inside).is_dir() else ""


def upward(
    graph: Arrows, room: Callable[[str], str] = room, floor: Mapping[str, int] = FLOOR
) -> list[str]:
    """The arrows that do not run down to a lower floor, or stay in their room."""
    return sorted(
        f"{above} <- {module}"
        for module, names in graph.items()
        for above in names
        if room(above) != room(module) and floor[room(above)] >= floor[room(module)]
    )


def circle(graph: Arrows) -> list[str]:
    """Modules that import each other in a ring, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_its_floor():
    assert {room(module) for module in arrows()} == set(FLOOR)


def test_no_import_runs_up():
    assert upward(arrows()) == []


def test_no_import_runs_up_inside_runs():
    graph = {
        module: {name for name in names if name.startswith("prefmill.runs.")}
        for module, names in arrows().items()
        if module.startswith("prefmill.runs.")
    }
    assert {room_of_runs(module) for module in graph} == set(FLOOR_OF_RUNS)
    assert upward(graph, room_of_runs, FLOOR_OF_RUNS) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(arrows()) == []


def test_the_map_has_the_order_of_the_floors():
    listed = re.findall(r"^\| `src/prefmill/(\w+)", MAP.read_text("utf-8"), re.MULTILINE)
    floors = [FLOOR[room] for room in listed if room != "__init__"]
    assert floors == sorted(floors)
    assert set(listed) == set(FLOOR)


@pytest.mark.parametrize(
    ("files", "wrong", "ring"),
    [
        ({"table": "import prefmill.errors"}, [], False),
        ({"errors": "import prefmill.table"}, ["prefmill.table <- prefmill.errors"], False),
        (
            {"errors": "def f():\n    from prefmill import table"},
            ["prefmill.table <- prefmill.errors"],
            False,
        ),
        (
            {"errors": "if TYPE_CHECKING:\n    from prefmill.table import Roles"},
            ["prefmill.table <- prefmill.errors"],
            False,
        ),
        ({"readers": "import prefmill.writers"}, ["prefmill.writers <- prefmill.readers"], False),
        ({"plans/a": "import prefmill.plans.b"}, [], False),
        (
            {"plans/a": "import prefmill.plans.b", "plans/b": "from prefmill.plans import a"},
            [],
            True,
        ),
    ],
)
def test_what_is_wrong_is_found(tmp_path, files, wrong, ring):
    names = {"errors", "table", "readers", "writers", "plans/a", "plans/b"}
    for name in names:
        path = tmp_path / "prefmill" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, ""))
    graph = arrows(tmp_path)
    assert upward(graph) == wrong
    assert bool(circle(graph)) is ring
