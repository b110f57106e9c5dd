"""Values of states and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Unpack, get_args

from prefmill.arguments import refuse_unknown
from prefmill.errors import ColumnMissing
from prefmill.plans.bounds import VALUES, Bounds
from prefmill.plans.plan import Plan
from prefmill.table.fields import finite, key, one_of, whole, within
from prefmill.table.roles import ValueNames

Policy = Literal["uniform", "given", "softmax", "optimal"]

_TRANSITIONS = ("state", "action", "next_state")
_TREE = ("id", "parent_id")
#: The role that a policy reads.
_WEIGHTS = {"given": ("policy_probability",), "softmax": ("score",)}
#: Fields that may be whole numbers, and are doubles in SQL.
_DOUBLES = ("temperature", "gamma", "tolerance")


@dataclass(frozen=True, kw_only=True)
class Values(Plan):
    """Values of states and actions: V(s) = sum of pi(a|s) q(s, a).

    An action is worth q(s, a) = r(s, a) + gamma sum of P(s'|s, a) V(s').

    Args:
        gamma: the discount, from 0 to 1.
        policy: `uniform` over a state's actions, `given` (their probabilities), `softmax` (of their
            scores), or `optimal` (the best).
        temperature: of `softmax` (> 0).
        tolerance: of states on cycles, relative to values above 1 (> 0); all others are exact.
        max_sweeps: with gamma 1 on cycles: so many, then an error.
        expect: what must hold of a run over files (`prefmill.Expect`): `min_rows`, `max_dropped`
            of `malformed` rows, `sources`.

    `prefmill.values` runs it in memory, over transitions or over a tree; `prefmill.run` runs it
    over files, out of core. Raises `PlanError` with every problem at once.

    >>> Values(gamma=1.5)
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: Values: gamma must be a number in 0..1; got 1.5
    """

    kind: ClassVar[str] = "values"
    runs: ClassVar[str] = "values"
    where: ClassVar[str] = "values"
    contract: ClassVar[Bounds] = VALUES
    has_ids: ClassVar[bool] = False

    gamma: float = key(within(0, 1), 1, help="The discount, 0 to 1.")
    policy: Policy = key(
        one_of(*get_args(Policy)), "uniform", help="uniform, given, softmax, or optimal."
    )
    temperature: float = key(finite(0, open_low=True), 1, help="Of softmax.")
    tolerance: float = key(finite(0, open_low=True), 1e-12, help="Of states on cycles.")
    max_sweeps: int = key(whole(1), 10_000, help="Over cycles with gamma 1.")

    def columns(self, names: ValueNames, there: Sequence[str] | None = None) -> dict[str, str]:
        """The column of every role that is used: of a tree if `parent_id` is among them.

        It is a tree if `parent_id` is named, or is `there` and `state` is neither. Without `there`
        the columns are not known: then those are taken that are named or needed.
        """
        refuse_unknown("values", names, ValueNames.__annotations__, thing="role")
        given = {role: str(name) for role, name in names.items() if name}
        found = {*given, *(there or ())}
        is_tree = "parent_id" in given or ("parent_id" in found and "state" not in found)
        keys = _TREE if is_tree else _TRANSITIONS
        numbers = ("reward",) if is_tree else ("probability", "reward")
        weight = _WEIGHTS.get(self.policy, ())
        needed = {*keys, *weight}
        columns: dict[str, str] = {}
        for role in (*keys, *numbers, *weight):
            name = given.get(role, role)
            asked = role in given or role in needed
            if asked and there is not None and name not in there:
                raise ColumnMissing.for_role("values", role, name, there)
            if asked or name in (there or ()):
                columns[role] = name
        return columns

    def arguments(self, columns: Mapping[str, str]) -> dict[str, Any]:
        """What the rule is told: the fields that it has. A tree has no cycles to sweep."""
        fields = ["policy", "temperature", "gamma"]
        if "parent_id" not in columns:
            fields += ["tolerance", "max_sweeps"]
        return {name: getattr(self, name) for name in fields}

    def sql(self, table: str, **names: Unpack[ValueNames]) -> str:
        """This plan as one DuckDB query over `table`: transitions, or with `parent_id` a tree.

        The macros have to be installed.

        >>> print(Values(gamma=0.9).sql("steps", parent_id="parent"))
        FROM tree_values('steps', id := "id", parent_id := "parent", policy := 'uniform', \
temperature := 1.0::DOUBLE, gamma := 0.9::DOUBLE)
        """
        from prefmill.connection import literal, quote  # loads DuckDB
        from prefmill.engines.sql import value

        columns = self.columns(names)
        macro = "tree_values" if "parent_id" in columns else "state_values"
        arguments = {
            name: float(argument) if name in _DOUBLES else argument
            for name, argument in self.arguments(columns).items()
        }
        told = [f"{role} := {quote(name)}" for role, name in columns.items()]
        told += [f"{name} := {value(argument)}" for name, argument in arguments.items()]
        return f"FROM {macro}({literal(table)}, {', '.join(told)})"
