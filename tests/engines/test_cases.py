"""Every case of `cases/*.toml` on every engine. A case that fails on one engine only is that
engine's bug.

In a case "<null>" is null and "<nan>", "<inf>", "<-inf>" are floats; `expect` is written by hand.
`gaps = { engine = "reason; until 0.2" }` says where a case cannot hold, and up to which version
that may stay so; it then has to fail there. The name before the dash stands for all forms of an
engine: `duckdb` also for `duckdb-table`.
"""

from __future__ import annotations

import re

import pytest
from case_tables import CASES, KEYS, expected, table_of
from engines import (
    ALL_PROMPTS,
    DISTINCT,
    ENGINES,
    assert_same,
    known_to_duckdb,
    needs_all_prompts,
    our_errors,
    rows_of,
)
from grid import grid

import prefmill
from prefmill.errors import PrefmillError
from prefmill.plans import FEEDBACK_KINDS as KINDS
from prefmill.plans import Plan
from prefmill.table.report import PairReport
from prefmill.table.roles import Roles

#: A run in buckets takes seconds where others take tenths.
DAILY = tuple(name for name in DISTINCT if name != "run-buckets")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Daily every case runs on each engine, and on a third of its further forms and of the runs in
    buckets, in turn.
    """
    if "engine" not in metafunc.fixturenames:
        return
    cells = []
    for number, case in enumerate(CASES):
        for place, engine in enumerate(metafunc.config.getoption("--engine") or list(ENGINES)):
            daily = engine in DAILY or (number + place) % 3 == 0
            marks = () if daily else pytest.mark.torture
            cells.append(
                pytest.param(case.values[0], engine, id=f"{engine}-{case.id}", marks=marks)
            )
    metafunc.parametrize(("case", "engine"), cells)


def plan_of(case: dict) -> Plan:
    return KINDS[case.get("kind", "pairs")].from_mapping(case.get("plan", {}))


def spans(case: dict) -> bool:
    """Whether the case is one that a run in buckets refuses."""
    try:
        return needs_all_prompts(plan_of(case))
    except PrefmillError:  # no plan at all
        return False


def test_case(case: dict, engine: str, request: pytest.FixtureRequest) -> None:
    gaps = case.get("gaps", {})
    if reason := gaps.get(engine, gaps.get(engine.partition("-")[0])):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    assert set(case) <= KEYS, f"{case['name']}: keys {sorted(set(case) - KEYS)}"
    kind = case.get("kind", "pairs")

    def run() -> tuple[list[tuple], dict]:
        plan = plan_of(case)
        return ENGINES[engine](table_of(case), plan, case.get("roles", {}))

    if engine == "run-buckets" and spans(case):
        # What is wrong with the roles is said first.
        with pytest.raises(PrefmillError, match=f"{ALL_PROMPTS}|{case.get('error', ALL_PROMPTS)}"):
            run()
    elif "error" in case:
        with pytest.raises(PrefmillError, match=case["error"]):
            run()
    else:
        assert_same(case["name"], engine, run(), expected(case, kind))


def test_gaps_name_engines_and_expire() -> None:
    known = {*ENGINES, *(name.partition("-")[0] for name in ENGINES)}
    for case in (param.values[0] for param in CASES):
        for engine, reason in case.get("gaps", {}).items():
            assert engine in known, f"{case['name']}: no engine {engine!r}"
            until = re.search(r"; until (\d+)\.(\d+)$", reason)
            assert until, f"{case['name']}: a gap ends in `; until VERSION`; got {reason!r}"
            now = tuple(map(int, prefmill.__version__.split(".")[:2]))
            assert now < tuple(map(int, until.groups())), (
                f"{case['name']}: the gap of {engine} has expired: {reason}"
            )


# What the public macros of `sql/` have arguments for.
MACROS = {
    "pairs": (
        "preference_pairs",
        {
            "strategy",
            "chosen_min",
            "rejected_below",
            "chosen_quantile",
            "rejected_quantile",
            "min_margin",
            "max_pairs_per_prompt",
            "top_k",
            "bottom_k",
            "seed",
        },
    ),
    "unpaired": (
        "unpaired",
        {"chosen_min", "rejected_below", "chosen_quantile", "rejected_quantile"},
    ),
    "best_of": ("best_of", {"k", "pick", "scope", "min_score", "seed", "beta", "length_control"}),
    "advantages": ("advantages", {"method", "epsilon"}),
}


def sayable(case: dict) -> bool:
    fields = MACROS[case.get("kind", "pairs")][1]
    roles = case.get("roles", {})
    if roles.get("score", "").startswith("-") and any(
        isinstance(value, str) for row in case["rows"] for value in row[2:]
    ):
        # an expression over text that is no number is null: the macro cannot tell that from a
        # missing score
        return False
    return (
        "error" not in case
        and set(case.get("plan", {})) <= fields
        and set(roles) <= {"prompt", "completion", "score"}
    )


SAYABLE = [param for param in CASES if sayable(param.values[0])]


@pytest.mark.parametrize(("case", "kind"), grid(SAYABLE, ["table", "parquet", "frame"]))
def test_public_macro(case: dict, kind: str) -> None:
    """`FROM preference_pairs(feedback, prompt := ..., k := ...)`: the cases whose plan the public
    macros can say.
    """
    from prefmill.engines.sql import value as sql

    plan = KINDS[case.get("kind", "pairs")].from_mapping(case.get("plan", {}))
    table = table_of(case)
    roles = Roles.resolve(table.column_names, case.get("roles", {}))
    columns = {
        "prompt": f'"{roles.prompt}"',
        "completion": f'"{roles.completion}"',
        "score": f'"{roles.score}"',
    }
    if roles.negate:
        columns["score"] = (
            # as plan.sql does: SQL negates neither text nor booleans
            f"-pref_number({columns['score']})"
        )
    macro, fields = MACROS[plan.kind]
    arguments = columns | {
        "kind" if name == "method" else name: sql(getattr(plan, name)) for name in sorted(fields)
    }
    call = ", ".join(f"{name} := {value}" for name, value in arguments.items())
    with known_to_duckdb(kind, table) as (con, name), our_errors():
        rows = rows_of(con.sql(f"FROM {macro}('{name}', {call})").to_arrow_table(), plan)
        report = expected(case, plan.kind)[1]
        if plan.kind == "pairs":
            report = PairReport.of_row(con.sql(f"FROM pair_report('{name}', {call})").fetchall()[0])
    assert_same(case["name"], f"macro over a {kind}", (rows, report), expected(case, plan.kind))


def test_the_public_macros_can_say_most() -> None:
    assert len(SAYABLE) >= 80


def test_names_are_unique() -> None:
    assert len(CASES) == len({case.id for case in CASES})
