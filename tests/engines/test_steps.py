"""A step is one rule: a function of `prefmill.rules`, and a macro, with the same arguments."""

from __future__ import annotations

import importlib
import inspect
import re
from itertools import chain

import pytest

import prefmill as pm
from prefmill.engines.macros import macro_texts
from prefmill.engines.sql import with_cells
from prefmill.engines.steps import Cell, Step
from prefmill.table.roles import Roles

ROLES = Roles()
POLICY = Roles(weight="weight")
PLANS = [
    (pm.Pairs(), ROLES),
    (pm.Pairs(strategy="all", top_k=2, chosen_min=4, rejected_below=None), ROLES),
    (pm.Pairs(aggregate="mean", weights={"help": 1.0}), Roles(aspect="aspect")),
    (pm.Unpaired(), ROLES),
    (pm.Unpaired(chosen_min=3, rejected_below=2), ROLES),
    (pm.BestOf(), ROLES),
    (pm.BestOf(pick="random", scope="pool", min_score=0), ROLES),
    (pm.BestOf(pick="rso", length_control=True, min_score=0), ROLES),
    (pm.BestOf(stages="last"), Roles(stage="stage")),
    (pm.Advantage(), ROLES),
    (pm.Advantage(method="grpo"), POLICY),
]


def parameters_of(macro: str) -> list[str]:
    """The parameters of a macro, as its file spells them."""
    text = "".join(macro_texts().values())
    (head,) = re.findall(rf"MACRO {macro}\((.*?)\) AS\s+TABLE", text, re.S)
    return [part.split(":=")[0].strip() for part in head.split(",")]


def all_steps(plan: object, roles: Roles) -> list[Step]:
    program = plan.program(roles)
    output = program.output
    more = [step for step in (output.report, output.scale, output.proposals) if step]
    return with_cells([*program.steps, *more])


@pytest.mark.parametrize(("plan", "roles"), PLANS, ids=lambda value: getattr(value, "kind", ""))
def test_a_step_is_a_function_and_a_macro_with_the_same_arguments(plan, roles):
    program = plan.program(roles)
    # Only SQL asks these: Polars settles thresholds inside its query, and proposes lazily.
    only_sql = [program.output.proposals, program.output.scale]
    for step in program.steps:
        only_sql += [arg.step for arg in step.sql.values() if isinstance(arg, Cell)]
    for step in all_steps(plan, roles):
        module, name = step.function
        macro = parameters_of(f"pref_{name}")
        assert set(step.args) | set(step.sql) <= set(macro[len(step.over) :])
        if step in only_sql:
            continue
        function = inspect.signature(
            getattr(importlib.import_module(f"prefmill.rules.{module}"), name)
        )
        kinds = {parameter.name: parameter.kind for parameter in function.parameters.values()}
        named = {n for n, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}
        assert set(step.args) <= named
        assert len(kinds) - len(named) == len(step.over)
        assert named <= set(macro), "an argument that the macro does not have"


@pytest.mark.parametrize(("plan", "roles"), PLANS, ids=lambda value: getattr(value, "kind", ""))
def test_a_step_reads_earlier_steps_only(plan, roles):
    known = {"numbered", "judged"}
    for step in plan.program(roles).steps:
        assert set(step.over) <= known
        assert step.name not in known
        known.add(step.name)
    told = {"told"} if plan.program(roles).output.paired else set()
    assert set(plan.program(roles).output.report.over) <= known | told


def test_every_public_function_of_the_rules_with_a_macro_takes_the_macros_arguments():
    pairs = {("rows", "rows"), ("rows", "candidates"), ("pairs", "groups"), ("pairs", "pairs")}
    used = {step.function for plan, roles in PLANS for step in all_steps(plan, roles)}
    assert pairs < used
    assert len(set(chain.from_iterable(used))) > 10
