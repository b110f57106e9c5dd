"""The engines that tests run on: `--engine NAME` (repeatable) narrows them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest
from engines import DISTINCT, ENGINES
from hypothesis import settings

# Read by OpenMP when torch is imported: threads that wait must not spin, or tests take minutes on a
# machine that does other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# With a process a core, more threads in each only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same commit is tried on the same examples; `make torture` draws new ones.
settings.register_profile(
    "prefmill",
    deadline=None,
    database=None,
    derandomize="PREFMILL_RANDOM" not in os.environ,
    print_blob=True,
)
settings.load_profile("prefmill")


@pytest.fixture(scope="session", autouse=True)
def _options_are_made_once() -> Iterator[None]:
    """Typer makes the options of all commands anew each time that a test runs one: 50 ms."""
    import typer.main

    made = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", made)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        action="append",
        choices=list(ENGINES),
        help="run only on this engine (repeatable)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The engines that a test asks for by the name of an argument.

    engine    every engine (`test_cases` deals them to its cases itself)
    rival     one form of each but the oracle, held against it; buckets have a file of their own
    lawful    the oracle and one engine, for laws
    """
    names = metafunc.config.getoption("--engine") or list(ENGINES)
    if "engine" in metafunc.fixturenames and "case" not in metafunc.fixturenames:
        metafunc.parametrize("engine", names)
    if "rival" in metafunc.fixturenames:
        others = ("oracle", "run-buckets")
        metafunc.parametrize(
            "rival", [name for name in names if name in DISTINCT and name not in others]
        )
    if "lawful" in metafunc.fixturenames:
        metafunc.parametrize("lawful", [name for name in names if name in ("oracle", "polars")])
