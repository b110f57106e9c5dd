"""Advantages: how much better each completion is than the others of its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from prefmill.plans.feedback import COMMON_ROLES, FeedbackOptions, FeedbackPlan
from prefmill.table.fields import finite, key, one_of
from prefmill.table.roles import Roles

Method = Literal["centered", "grpo", "rloo", "rank"]


class AdvantageOptions(FeedbackOptions, total=False):
    """The fields of `Advantage` and the roles, as keyword arguments."""

    method: Method
    epsilon: float
    weight: str
    logprob: str


@dataclass(frozen=True, kw_only=True)
class Advantage(FeedbackPlan):
    """How much better each completion is than its prompt's others: what policy gradients weight.

    | prompt | completion | score |      | prompt | completion | score | advantage |
    |   p    |     a      |   1   |  ->  |   p    |     a      |   1   |    -1     |
    |   p    |     b      |   3   |      |   p    |     b      |   3   |     1     |

    Args:
        method: `centered` (score - mean), `grpo` (that over the sample deviation + epsilon), `rloo`
            (score - mean of the others), `rank` (average rank scaled to -1..1).
        epsilon: what `grpo` adds to the deviation (> 0).

    With the role `weight` (a probability or any weight >= 0) or `logprob`, means are those under
    that policy. Scores without spread give 0, and so does a single completion. The other fields
    are those of `Pairs`. Raises `PlanError` with every problem at once.

    >>> Advantage(method="grpo").epsilon
    0.0001
    """

    kind: ClassVar[str] = "advantages"
    command: ClassVar[str] = "advantages"
    usage: ClassVar[str] = """\
Add each row's advantage over the other completions of its prompt: whole rows, in their
order, and a column `advantage`.

\b
prefmill advantages scored.parquet -o rollouts.parquet --kind grpo
"""
    card: ClassVar[str] = "completions with advantages"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "score", "advantage")
    role_names: ClassVar[tuple[str, ...]] = (*COMMON_ROLES, "weight", "logprob")
    idle: ClassVar[frozenset[str]] = frozenset({"seed"})

    method: Method = key(
        one_of(*get_args(Method)),
        "centered",
        help="centered, grpo, rloo or rank.",
        option=("--kind",),
    )
    epsilon: float = key(finite(0, open_low=True), 1e-4, help="What grpo adds to the deviation.")

    def role_problems(self, roles: Roles) -> list[str]:
        """What the plan misses in `roles`, or cannot use."""
        problems = super().role_problems(roles)
        policy = roles.weight or roles.logprob
        if roles.weight and roles.logprob:
            both = f"weight={roles.weight!r} and logprob={roles.logprob!r}"
            problems.append(f"one policy is asked for: weight or logprob; got {both}")
        elif self.method == "rank" and policy:
            problems.append(
                "method 'rank' compares ranks and knows no policy; "
                f"got the column {policy!r} for one"
            )
        return problems
