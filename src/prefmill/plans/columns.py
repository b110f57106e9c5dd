"""The columns that a plan reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.table.roles import Fits, RoleNames, Roles


def roles_of(
    plan: FeedbackPlan,
    named: RoleNames,
    columns: Sequence[str] | None,
    *,
    where: str,
    fits: Fits | None = None,
) -> Roles:
    """As `plan.roles`."""
    return plan.roles(named, columns, where=where, fits=fits)


def used_columns(plan: FeedbackPlan, roles: Roles) -> list[str]:
    """As `plan.used_columns`."""
    return plan.used_columns(roles)


def output_columns(plan: FeedbackPlan, roles: Roles) -> list[str]:
    """As `plan.columns_out`."""
    return plan.columns_out(roles)


def named(roles: Roles) -> RoleNames:
    """`roles` as the keyword arguments that give them.

    >>> named(Roles(score="rank", negate=True))["score"]
    '-rank'
    """
    columns: RoleNames = {
        role: value for role, value in vars(roles).items() if value and role != "negate"
    }  # type: ignore[assignment]
    if roles.negate:
        columns["score"] = f"-{roles.score}"
    return columns


@dataclass(frozen=True)
class Kept:
    """One column of output that `keep` asks for: its name, the column of the input, and which row
    of a pair it is from.

    `both` is a column of the prompt's context, which has to be the same in both rows.
    """

    name: str
    column: str
    side: Literal["chosen", "rejected", "row", "both"]


def kept_columns(
    plan: FeedbackPlan,
    keep: Sequence[str],
    columns: Sequence[str] | None,
    output: Sequence[str],
    *,
    where: str,
    context: Mapping[str, str] | None = None,
) -> list[Kept]:
    """The columns that `keep` adds to the output of `plan`, which has the columns `output` itself;
    the names are given here alone.

    `columns` are those of the input, or None where they are not known. `context` are columns of the
    prompt by the name that they get (`prefmill.table.context`); they come first. Raises
    `BadArgument`.

    >>> from prefmill import Pairs
    >>> [kept.name for kept in kept_columns(Pairs(), ["model"], ["model"], ["prompt"], where="lazy")]
    ['chosen_model', 'rejected_model']
    """
    names = kept_names(keep, columns, where=where)
    kept = [
        Kept(name, column, "both" if len(plan.sides) == 2 else "row")
        for name, column in (context or {}).items()
    ]
    kept += [
        Kept(name if side == "row" else f"{side}_{name}", name, side)
        for name in names
        for side in plan.sides
    ]
    taken = [*output, *(each.name for each in kept)]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise BadArgument(
            f"{where}: keep {names} would write {twice[0]!r} twice: the output has it anyway.",
            hint="leave it out, or rename it.",
        )
    return kept


def kept_names(keep: Sequence[str], columns: Sequence[str] | None, *, where: str) -> list[str]:
    """The names in `keep`, each once. Raises `BadArgument` for one that the input, of these
    `columns`, does not have.
    """
    if isinstance(keep, str):
        raise BadArgument(
            f"{where}: keep is a list of columns; got the text {keep!r}.", hint=f"keep=[{keep!r}]."
        )
    names = list(dict.fromkeys(keep))
    missing = [] if columns is None else [name for name in names if name not in columns]
    if missing:
        raise BadArgument(
            f"{where}: keep names no column of the input; got {missing}, expected some of {list(columns or ())}."
        )
    return names


def plan_and_roles(
    kind: type[FeedbackPlan], given: Mapping[str, Any]
) -> tuple[FeedbackPlan, RoleNames]:
    """The plan of `kind` and the roles among the arguments of a function that takes both."""
    names = {field.name for field in fields(kind)}
    roles: RoleNames = {name: given[name] for name in RoleNames.__annotations__ if given.get(name)}  # type: ignore[assignment]
    return kind(**{name: value for name, value in given.items() if name in names}), roles
