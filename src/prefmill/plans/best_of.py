"""Best-of-K: the best completions of every prompt, or controls that are picked by rank as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from prefmill.plans.feedback import COMMON_ROLES, FeedbackOptions, FeedbackPlan
from prefmill.plans.scale import Scale
from prefmill.table.fields import finite, flag, key, one_of, or_none, whole
from prefmill.table.report import PairReport
from prefmill.table.roles import Roles

Pick = Literal["best", "median", "worst", "random", "rso"]
Scope = Literal["prompt", "pool"]
StagesUsed = Literal["all", "last"]


class BestOfOptions(FeedbackOptions, total=False):
    """The fields of `BestOf` and the roles, as keyword arguments."""

    k: int
    pick: Pick
    scope: Scope
    min_score: float | None
    stages: StagesUsed
    beta: float
    length_control: bool
    stage: str


@dataclass(frozen=True, kw_only=True)
class BestOf(FeedbackPlan):
    """The k best completions of every prompt, for SFT on best-of-K; or controls, picked by rank.

    | prompt | completion | score |      | prompt | completion | score | rank |
    |   p    |     a      |  0.2  |  ->  |   p    |     b      |  0.9  |  1   |
    |   p    |     b      |  0.9  |

    Args:
        k: so many of a prompt; a prompt with fewer gives all it has.
        pick: `best`, `worst`, `median` (the middle ones; k=1 of an even number: the lower),
            `random` (drawn by `seed`), or `rso`: statistical rejection sampling (Liu et al. 2024,
            arXiv:2309.06657). It accepts a completion with probability exp((score - best score
            left) / beta), and none twice.
        scope: `prompt`, or `pool`: k of the whole table.
        min_score: smaller scores are left out before anything is picked; None is no bound.
        stages: `all`, or `last`: only rows of the largest stage in the input (the role `stage`).
        beta: of `rso`, in units of the score (> 0): small picks the best, large at random.
        length_control: pick by the residual of a least-squares line of score on completion length,
            with one slope for all prompts and an intercept for each. The output has it as
            `adjusted_score`.

    The other fields are those of `Pairs`; `aggregate="max"` merges a text that several stages
    repeat. Raises `PlanError` with every problem at once.

    >>> BestOf(k=2).hash() != BestOf(k=2, pick="random").hash()
    True
    """

    kind: ClassVar[str] = "best_of"
    command: ClassVar[str] = "best"
    usage: ClassVar[str] = """\
Select the k best completions of every prompt, for SFT on best-of-K; or accepted, median,
worst or random ones.

\b
prefmill best scored.parquet -o best.parquet
prefmill best scored.parquet -o sft.jsonl -k 4 --min-score 0 --format messages
prefmill best stage0.parquet stage1.parquet -o best.parquet -k 8 --pick rso --beta 0.5
--length-control
"""
    card: ClassVar[str] = "best-of-K completions"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "score", "rank")
    layouts: ClassVar[str] = (
        "pool (every column, and the rank), prompt-completion, messages, "
        "pairs (best against worst).  [default: pool]"
    )
    role_names: ClassVar[tuple[str, ...]] = (*COMMON_ROLES, "stage")

    k: int = key(whole(1), 1, help="So many of a prompt (or of the pool).", option=("--k", "-k"))
    pick: Pick = key(
        one_of(*get_args(Pick)),
        "best",
        help="best, median, worst, random, or rso (statistical rejection sampling).",
    )
    scope: Scope = key(
        one_of(*get_args(Scope)),
        "prompt",
        help="prompt: k of every prompt; pool: k of the whole table.",
    )
    min_score: float | None = key(
        or_none(finite()), None, help="Leave smaller scores out first.", shown="none"
    )
    stages: StagesUsed = key(
        one_of(*get_args(StagesUsed)), "all", help="all, or last: rows of the largest stage only."
    )
    beta: float = key(
        finite(0, open_low=True),
        0.5,
        help="Of rso, in units of the score: small picks the best, large at random.",
        later=True,
    )
    length_control: bool = key(
        flag,
        False,
        help="Take what length explains out of the scores before picking.",
        later=True,
    )

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        problems = super().problems()
        if self.pick == "rso" and self.scope == "pool":
            problems.append(
                "pick 'rso' accepts inside a prompt; got scope 'pool', expected 'prompt'"
            )
        return problems

    def needs(self) -> dict[str, str]:
        """The optional roles that the fields use, and which field uses each."""
        needs = super().needs()
        return needs | {"stage": "stages 'last'"} if self.stages == "last" else needs

    def columns_out(self, roles: Roles) -> list[str]:
        """The columns of a lazy frame or a query, but for those that are kept.

        >>> BestOf(length_control=True).columns_out(Roles(stage="round"))
        ['prompt', 'completion', 'score', 'rank', 'adjusted_score', 'stage']
        """
        adjusted = ["adjusted_score"] if self.length_control else []
        return [*self.columns, *adjusted, *(["stage"] if roles.stage else [])]

    def notes(self, asked: FeedbackPlan, report: PairReport, scale: Scale) -> list[str]:
        """What people are told about numbers in units of the score."""
        if self.pick != "rso" or scale.low is None or scale.high is None:
            return []
        return [
            f"rso: beta {self.beta:g} is in units of the score, "
            f"and scores run from {scale.low:g} to {scale.high:g}"
        ]

    @property
    def wide(self) -> str:
        """The setting that needs more than one prompt's rows, if there is one."""
        if setting := super().wide:
            return setting
        if self.scope == "pool":
            return "scope 'pool'"
        if self.stages == "last":
            return "stages 'last'"
        return "length_control" if self.length_control else ""
