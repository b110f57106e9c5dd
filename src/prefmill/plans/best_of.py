"""Best-of-K: the best completions of every prompt, or controls that are picked by rank as well."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from prefmill.engines.steps import ByRank, Column, Output, Step
from prefmill.plans.feedback import COMMON_ROLES, FeedbackOptions, FeedbackPlan
from prefmill.table.fields import finite, flag, key, one_of, or_none, whole
from prefmill.table.roles import Paths, Read, Roles
from prefmill.table.thresholds import Scale

if TYPE_CHECKING:
    from prefmill.table.report import PairReport

Pick = Literal["best", "median", "worst", "random", "rso", "majority"]
Scope = Literal["prompt", "pool"]
StagesUsed = Literal["all", "last"]
#: Each pick in words.
_TOLD: Mapping[Pick, str] = {
    "best": "the k best answers",
    "worst": "the k worst answers",
    "median": "the k answers in the middle",
    "random": "k answers, drawn",
    "rso": "k answers by statistical rejection sampling",
    "majority": "the k best of the answers that come to what most come to",
}


class BestOfOptions(FeedbackOptions, total=False):
    """The fields of `BestOf` and the roles, as keyword arguments."""

    k: int
    pick: Pick
    scope: Scope
    min_score: float | None
    stages: StagesUsed
    beta: float
    length_control: bool
    conclusion: Paths


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
            left) / beta), and none twice. `majority` is self-consistency (Wang et al. 2023,
            arXiv:2203.11171): the best of those that come to the answer (the role `conclusion`) to
            which most completions of the prompt come; of answers with as many, to that of the
            better completion. The output has their number as `agreeing`.
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
    role_names: ClassVar[tuple[str, ...]] = (*COMMON_ROLES, "conclusion")
    idle: ClassVar[frozenset[str]] = frozenset()

    k: int = key(whole(1), 1, help="So many of a prompt (or of the pool).", option=("--k", "-k"))
    pick: Pick = key(
        one_of(*get_args(Pick)),
        "best",
        help="best, median, worst, random, rso (statistical rejection sampling), or majority.",
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
        if self.pick == "majority" and self.length_control:
            problems.append(
                "pick 'majority' goes by answers, and length_control changes scores; got both"
            )
        return problems

    def in_words(self) -> str:
        """The rule for people, without the fields that bound it."""
        return f"{self.pick}: {_TOLD[self.pick]}"

    def needs(self) -> dict[str, str]:
        """The optional roles that the fields use, and which field uses each."""
        needs = super().needs()
        if self.stages == "last":
            needs["stage"] = "stages 'last'"
        if self.pick == "majority":
            needs["conclusion"] = "pick 'majority'"
        return needs

    @property
    def in_units(self) -> bool:
        """Whether a number of the plan is in units of the score: beta is."""
        return self.pick == "rso"

    def reading(self, roles: Roles) -> Read:
        """How rows of the input are read."""
        read = replace(super().reading(roles), last_stage=self.stages == "last")
        return replace(read, conclusion=roles.conclusion) if self.pick == "majority" else read

    def steps(self, roles: Roles) -> tuple[Step, ...]:
        """Pools in rank order, then what is picked; by residuals, and back, with length control."""
        by_chance = self.pick in ("random", "rso")
        votes = self.pick == "majority"
        pick = "best" if votes else self.pick
        asked = {"k": self.k, "pick": pick, "scope": self.scope}
        pools = Step(
            "pools",
            "picks.pools",
            ("candidates",),
            {**asked, "min_score": self.min_score, "tie_break": self.tie_break},
            table=True,
            release=True,
            spare=("_grp",),
            drawn=by_chance,
        )
        picks = Step("picks", "picks.picks", ("pools",), {**asked, "seed": self.seed})
        if self.pick == "rso":
            drawing = {"k": self.k, "seed": self.seed, "beta": float(self.beta)}
            picks = Step("picks", "picks.rso", ("pools",), drawing)
        if votes:
            bounds = {"min_score": self.min_score, "tie_break": self.tie_break}
            return (
                Step("agreeing", "picks.agreeing", ("candidates", "numbered"), bounds, table=True),
                replace(pools, over=("agreeing",)),
                replace(picks, name="ranked"),
                Step("picks", "picks.agreed", ("ranked", "agreeing")),
            )
        if not self.length_control:
            return pools, picks
        low = {"min_score": self.min_score}
        # `adjusted` takes candidates below the bound out: the macro by a score of -infinity.
        bound = None if self.min_score is None else -sys.float_info.max
        return (
            Step("measured", "lengths.measured", ("candidates", "numbered")),
            Step("fit", "lengths.length_fit", ("measured",), table=True),
            Step("adjusted", "lengths.adjusted", ("measured", "fit"), low),
            replace(
                pools,
                over=("adjusted",),
                args={**pools.args, "min_score": None},
                sql={"min_score": bound},
            ),
            replace(picks, name="ranked"),
            Step("picks", "lengths.given", ("ranked", "candidates")),
        )

    def output(self, roles: Roles) -> Output:
        """A picked completion a row, with its rank in its pool."""
        columns = [Column("score", "_score"), Column("rank", "_rank", "Int64")]
        added = ["_rank"]
        if self.length_control:
            columns.append(Column("adjusted_score", "_adjusted_score", whole_only=True))
            added.append("_adjusted_score")
        if self.pick == "majority":
            columns.append(Column("agreeing", "_agreeing", "Int64", whole_only=True))
            added.append("_agreeing")
        if roles.stage:
            columns.append(Column("stage", "_stage", of_row=True))
        report = Step(
            "report",
            "picks.best_report",
            ("counted", "candidates", "pools", "picks"),
            {"scope": self.scope, "min_score": self.min_score},
            sql={"aggregate": self.aggregate},
        )
        return Output(
            step="picks",
            texts={"completion": "_pos"},
            columns=tuple(columns),
            order=("_first", "_rank"),
            report=report,
            added=tuple(added),
            keyed=self.scope == "prompt",
            few=True,
            by_rank=self._by_rank,
            length="fit" if self.length_control else "",
        )

    @property
    def _by_rank(self) -> ByRank | None:
        if self.pick in ("best", "worst", "median"):
            return ByRank(self.k, self.pick, self.min_score)
        return None

    def most_rows(self, prompts: int, answers: int) -> int:
        """How many rows come out at most, of so many answers to each prompt.

        >>> BestOf(k=2).most_rows(10, 4), BestOf(k=2, scope="pool").most_rows(10, 4)
        (20, 2)
        """
        pools = prompts if self.scope == "prompt" else 1
        return min(prompts * answers, self.k * pools)

    def hint(self, dropped: Collection[str], low: float, high: float) -> str:
        """What to do where a bound of the scores leaves nothing; "" where none does."""
        if self.min_score is None or high >= self.min_score:
            return ""
        return f"largest score seen {high:g}, min_score {self.min_score:g}: lower --min-score."

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
