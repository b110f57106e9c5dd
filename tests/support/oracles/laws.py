"""How many examples a law is tried on, and what it is tried with."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

from engines import ENGINES
from hypothesis import HealthCheck, settings
from strategies import Problem

EXAMPLES = int(os.environ.get("PREFMILL_EXAMPLES", "30"))

common = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)


def answer(
    engine: str, problem: Problem, keep: list[int] | None = None, **changes: object
) -> tuple[list[tuple], dict]:
    return ENGINES[engine](problem.table(keep), replace(problem.plan, **changes), problem.roles)


def bag(rows: list[tuple]) -> Counter:
    """Rows without their order; message lists are no keys, so rows are compared as they print."""
    return Counter(map(repr, rows))
