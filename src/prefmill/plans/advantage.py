"""Advantages: how much better each completion is than the others of its prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from prefmill.engines.steps import Column, Output, Step
from prefmill.plans.feedback import COMMON_ROLES, FeedbackOptions, FeedbackPlan
from prefmill.table.fields import finite, key, one_of
from prefmill.table.roles import Paths, Read, Roles

Method = Literal["centered", "grpo", "rloo", "rank"]


class AdvantageOptions(FeedbackOptions, total=False):
    """The fields of `Advantage` and the roles, as keyword arguments."""

    method: Method
    epsilon: float
    weight: Paths
    logprob: Paths


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
    every_row: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    passed_over: ClassVar[str] = "no advantage"
    role_names: ClassVar[tuple[str, ...]] = (*COMMON_ROLES, "weight", "logprob")
    idle: ClassVar[frozenset[str]] = frozenset({"seed", "stage"})

    method: Method = key(
        one_of(*get_args(Method)),
        "centered",
        help="centered, grpo, rloo or rank.",
        option=("--kind",),
    )
    epsilon: float = key(finite(0, open_low=True), 1e-4, help="What grpo adds to the deviation.")

    def in_words(self) -> str:
        """The rule for people, without the fields that bound it."""
        return f"advantage {self.method} over the answers of the prompt"

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

    def advice(self) -> dict[str, str]:
        """What to do where nothing came out, by the reason that dropped most rows."""
        zero = "the policy's weights of a prompt are all 0."
        return super().advice() | {"no_weight": zero}

    def reading(self, roles: Roles) -> Read:
        """How rows of the input are read."""
        return replace(super().reading(roles), policy=roles.weight or roles.logprob)

    def steps(self, roles: Roles) -> tuple[Step, ...]:
        """Candidates with the weight of their policy, then each one's advantage."""
        policy = roles.weight or roles.logprob
        acting = Step("acting", "advantages.alike", ("candidates",))
        if policy:
            logs = {"logs": roles.logprob is not None}
            acting = Step("acting", "advantages.weighted", ("candidates", "numbered"), logs)
        # Without a policy, and where every candidate is one vote, lists hold numbers, not structs.
        plain = self.aggregate == "none" and not policy
        return (
            acting,
            Step(
                "advantages",
                "advantages.advantages",
                ("acting",),
                {"kind": self.method, "epsilon": float(self.epsilon)},
                sql={"plain": plain},
                table=True,
                release=True,
            ),
        )

    def output(self, roles: Roles) -> Output:
        """A completion a row, in the order of the input."""
        sides = ("counted", "candidates", "advantages")
        return Output(
            step="advantages",
            texts={"completion": "_pos"},
            columns=(Column("score", "_score"), Column("advantage", "_advantage")),
            order=("_pos",),
            report=Step("report", "advantages.advantage_report", sides),
            present="_advantage",
            added=("_advantage",),
            layouts=False,
        )
