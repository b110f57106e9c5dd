"""What is another in a second run: columns, fields of the plan, thresholds, the seed, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from prefmill.errors import ColumnMissing, PlanError
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.plan import fields_that_decide
from prefmill.runs.causes.rows import Layout
from prefmill.table.roles import RoleNames, Roles

#: The causes, in the order in which a run becomes the other one.
LEFT, MOVED, CAME, CHANGED = "row left", "order changed", "row came", "score changed"
PLAN, THRESHOLD, DRAW = "plan changed", "threshold changed", "draw"
CAUSES = (LEFT, MOVED, CAME, CHANGED, PLAN, THRESHOLD, DRAW)

_THRESHOLDS = ("chosen_min", "rejected_below", "min_score")
#: Fields of no ranking, and those that became numbers before.
_LEFT_OUT = ("rows", "expect", "on_invalid", "chosen_quantile", "rejected_quantile")


@dataclass(frozen=True)
class Change:
    """One thing that is another in the second run, and the plan and roles from then on."""

    cause: str
    told: str
    plan: FeedbackPlan
    names: RoleNames


def changes_between(a: Layout, b: Layout) -> list[Change]:
    """The changes that make the plan of `a` that of `b`, each on top of those before.

    Two that have no meaning apart, as `aggregate` and `min_votes`, are one.
    """
    out: list[Change] = []
    plan, names = a.plan, a.names
    waiting: list[tuple[str, str, Any]] = []
    for cause, name, old, new in _differences(a, b):
        waiting.append((cause, f"{name} {_word(old)} -> {_word(new)}", (name, new)))
        next_plan, next_names = plan, names
        try:
            values = {n: v for c, _, (n, v) in waiting if c != _ROLE}
            next_plan = replace(plan, **values)
            for c, _, (n, v) in waiting:
                if c == _ROLE:
                    next_names = _with_role(next_names, n, v)
            next_plan.roles(next_names, ["prompt", "completion", *a.columns], where="diff")
        except (PlanError, ColumnMissing):
            continue
        first = waiting[0][0]
        told = ", ".join(text for _, text, _ in waiting)
        out.append(Change(PLAN if first == _ROLE else first, told, next_plan, next_names))
        plan, names, waiting = next_plan, next_names, []
    if waiting:
        told = ", ".join(text for _, text, _ in waiting)
        out.append(Change(PLAN, told, b.plan, b.names))
    return out


_ROLE = "role"


def _differences(a: Layout, b: Layout) -> Iterator[tuple[str, str, Any, Any]]:
    """(cause, name, before, after), in the order of `CAUSES`."""
    for role in (field.name for field in fields(Roles)):
        if role != "negate" and a.names.get(role) != b.names.get(role):
            yield _ROLE, role, a.names.get(role), b.names.get(role)
    names = [field.name for field in fields_that_decide(type(a.plan))]
    decide = [name for name in names if name not in _LEFT_OUT]
    for name in sorted(decide, key=lambda name: (name == "seed", name in _THRESHOLDS)):
        old, new = getattr(a.plan, name), getattr(b.plan, name)
        if old != new:
            cause = DRAW if name == "seed" else THRESHOLD if name in _THRESHOLDS else PLAN
            yield cause, name, old, new


def _with_role(names: RoleNames, role: str, column: Any) -> RoleNames:
    new = {**names, role: column}
    return cast(RoleNames, {name: value for name, value in new.items() if value})


def _word(value: Any) -> str:
    """A value as people know it: shared names of columns are those of the input."""
    if isinstance(value, str):
        minus, text = ("-", value[1:]) if value.startswith("-") else ("", value)
        return minus + (text[2:] if text.startswith(("c_", "r_")) else text)
    if isinstance(value, Sequence):
        return "+".join(map(_word, value))
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ",".join(f"{_word(name)}={number:g}" for name, number in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
