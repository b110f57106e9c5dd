"""Values of states and actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Unpack, get_args

from prefmill.plans.plan import Plan
from prefmill.table.fields import finite, key, one_of, whole, within
from prefmill.table.roles import ValueNames

Policy = Literal["uniform", "given", "softmax", "optimal"]


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

    `prefmill.values` runs it over transitions or over a tree. Raises `PlanError` with every problem
    at once.

    >>> Values(gamma=1.5)
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: Values: gamma must be a number in 0..1; got 1.5
    """

    kind: ClassVar[str] = "values"

    gamma: float = key(within(0, 1), 1, help="The discount, 0 to 1.")
    policy: Policy = key(
        one_of(*get_args(Policy)), "uniform", help="uniform, given, softmax, or optimal."
    )
    temperature: float = key(finite(0, open_low=True), 1, help="Of softmax.")
    tolerance: float = key(finite(0, open_low=True), 1e-12, help="Of states on cycles.")
    max_sweeps: int = key(whole(1), 10_000, help="Over cycles with gamma 1.")

    def sql(self, table: str, **columns: Unpack[ValueNames]) -> str:
        """This plan as one DuckDB query over `table`: transitions, or with `parent_id` a tree.

        The macros have to be installed.

        >>> print(Values(gamma=0.9).sql("steps", parent_id="parent"))
        FROM tree_values('steps', id := "id", parent_id := "parent", policy := 'uniform', \
temperature := 1.0::DOUBLE, gamma := 0.9::DOUBLE)
        """
        from prefmill.rules import values as bellman

        return bellman.query(self, table, **columns)
