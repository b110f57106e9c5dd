"""The version ranges that users get: their lower bounds are what `make test-oldest` installs, and
the pages say the same.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Extras whose lower bounds `make test-oldest` runs.
RUN = ("datasets", "excel")
#: Extras whose lower bounds are the versions that they were written with, and nothing older.
WRITTEN_WITH = {
    "delta",
    "endpoint",
    "gguf",
    "iceberg",
    "lance",
    "lineage",
    "lora",
    "postgres",
    "ray",
    "report",
    "s3",
    "score",
    "spark",
    "tables",
    "telemetry",
    "train",
    "verify",
    "vllm",
    "worth",
}


def bounds(requirements: list[str]) -> dict[str, str]:
    """The lower bound of each requirement, by name."""
    found = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
        assert match, f"{requirement}: a range begins with its lower bound"
        found[match[1]] = match[2]
    return found


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def padded(version: str) -> tuple[int, ...]:
    """`version` as numbers: 2.0 and 2.0.0 are one."""
    numbers = tuple(map(int, version.split(".")))
    return numbers + (0,) * (4 - len(numbers))


def lower_bounds() -> dict[str, str]:
    extras = PROJECT["optional-dependencies"]
    return bounds([*PROJECT["dependencies"], *(each for name in RUN for each in extras[name])])


@pytest.mark.parametrize("package", lower_bounds())
def test_lower_bounds_are_what_is_run(package):
    pinned = pins("constraints-oldest.txt")[package]
    assert padded(pinned) == padded(lower_bounds()[package])


def test_the_first_pins_are_the_lower_bounds():
    """Below them stands what they need: there an old version says nothing."""
    text = (ROOT / "constraints-oldest.txt").read_text()
    first = re.split(r"(?m)^#.*\n", text)
    assert [line.split("==")[0] for line in first[2].split()] == list(lower_bounds())


def test_every_extra_is_one_or_the_other():
    assert set(PROJECT["optional-dependencies"]) <= set(RUN) | WRITTEN_WITH


def test_the_newest_versions_are_in_the_ranges():
    newest = pins("constraints.txt")
    for package, lower in lower_bounds().items():
        assert padded(newest[package]) >= padded(lower), package
