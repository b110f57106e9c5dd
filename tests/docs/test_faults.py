"""The table of faults in docs/faults/ is whole: every fault has a row, and every row names a test
that exists.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "faults"

# How many entries each kind of each page of the fault reports had.
ENTRIES = {
    "scoring": {"S1": 5, "S2": 2, "S3": 7, "S4": 2, "S5": 2, "S6": 4, "S7": 3, "S8": 2},
    "pairs": {"P1": 4, "P2": 6, "P3": 3, "P4": 4, "P5": 3, "P6": 7},
    "reliability": {"R": 8},
    "newcomer": {"N": 27},
    "gpu": {"G": 10},
}


def rows(page: str) -> list[list[str]]:
    """The cells of each row of a page's table: id, what it did, what it does, test."""
    lines = (PAGES / f"{page}.md").read_text("utf-8").splitlines()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("|")
    ]
    return [row for row in cells if not set(row[0]) <= {"-", ":"} and row[0] != "id"]


def names_in(path: Path) -> set[str]:
    """The names of the test functions of a file, those of its classes included."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("page", ENTRIES)
def test_every_fault_has_a_row(page: str) -> None:
    ids = {row[0].rstrip("abcdefghij") for row in rows(page)}
    wanted = {
        f"{kind}.{number}" if len(kind) > 1 else f"{kind}{number}"
        for kind, count in ENTRIES[page].items()
        for number in range(1, count + 1)
    }
    assert wanted - ids == set()


@pytest.mark.parametrize("page", ENTRIES)
def test_every_row_names_a_test_that_exists(page: str) -> None:
    for name, _, now, named in rows(page):
        tests = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", named)
        assert tests or now.startswith("Not mended"), (
            f"{name} names no test and is not marked as not mended"
        )
        for file, test in tests:
            assert (ROOT / file).is_file(), f"{name} names {file}, which does not exist"
            assert not test or test in names_in(ROOT / file), (
                f"{name} names {file}::{test}, which does not exist"
            )
