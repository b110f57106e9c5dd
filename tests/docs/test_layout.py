"""The tests' layout (decision 027): short files, names that are there once, folders in sight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = [path for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts]
LINES = 500
IN_A_FOLDER = 16


def test_no_file_is_long() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_no_folder_is_full() -> None:
    sizes = Counter(path.parent.relative_to(TESTS) for path in FILES)
    assert {str(folder): size for folder, size in sizes.items() if size > IN_A_FOLDER} == {}


def test_a_name_stands_for_one_file() -> None:
    """Pytest imports a file of tests by its bare name."""
    names = Counter(path.name for path in FILES if path.name != "conftest.py")
    assert [name for name, files in names.items() if files > 1] == []


def test_no_test_changes_the_path_of_imports() -> None:
    """Shared code is found through pytest's `pythonpath`."""
    changes = ("sys.path.insert", "sys.path.append", "sys.path[:0]")
    found = [
        path.name
        for path in FILES
        if path != Path(__file__)
        for change in changes
        if change in path.read_text("utf-8")
    ]
    assert found == []
