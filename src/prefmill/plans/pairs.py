"""Preference pairs: high scores of a prompt against low ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from prefmill.engines.steps import Column, Output, Step
from prefmill.plans.thresholds import ThresholdOptions, ThresholdPlan
from prefmill.table.fields import finite, key, one_of, or_none, whole
from prefmill.table.roles import Roles
from prefmill.table.thresholds import AUTO

Strategy = Literal["best_worst", "best_random", "best_rest", "adjacent", "all", "threshold"]
#: Each strategy in words.
_TOLD: Mapping[Strategy, str] = {
    "best_worst": "the best answer of the prompt against the worst one",
    "best_random": "the best answer of the prompt against a random one of the others",
    "best_rest": "the best answer of the prompt against each of the others",
    "adjacent": "each answer of the prompt against the next worse one",
    "all": "every answer of the prompt against every worse one",
    "threshold": "every answer from chosen_min on against every answer below rejected_below",
}


class PairsOptions(ThresholdOptions, total=False):
    """The fields of `Pairs` and the roles, as keyword arguments."""

    strategy: Strategy
    min_margin: float
    max_pairs_per_prompt: int | None
    top_k: int | None
    bottom_k: int | None


@dataclass(frozen=True, kw_only=True)
class Pairs(ThresholdPlan):
    """Preference pairs: completions of a prompt with a high score against those with a low one.

    | prompt | completion | score |   | prompt | chosen | rejected | chosen_score | rejected_score |
    |   p    |     a      |   5   |-> |   p    |   a    |    b     |      5       |       1        |
    |   p    |     b      |   1   |

    Args:
        strategy: which ranks are paired: `best_worst`, `best_random`, `best_rest`, `adjacent`,
            `all`, `threshold`.
        chosen_min: smallest score of a chosen completion, in units of the score; None is no bound.
            `"auto"` is 4, and where all scores are one of two whole numbers the larger of these;
            scores that this does not divide raise `ThresholdsUnfit`.
        rejected_below: a rejected score is smaller than this; None and `"auto"` as for
            `chosen_min`.
        chosen_quantile, rejected_quantile: the same bounds as quantiles of the scores of all
            candidates, above 0 and below 1: the smallest score with at least this share of the
            scores at or below it. One alone is both bounds.
        min_margin: smallest `chosen_score - rejected_score` (>= 0; equal scores never pair).
        max_pairs_per_prompt: at most this many pairs of a prompt, drawn by `seed`.
        top_k, bottom_k: choose only from the k best, reject only from the k worst of a prompt.
        aggregate, min_votes: merge repeated judgements of one completion, and ask for a number of
            them.
        normalize: put annotators on one scale first: `zscore` or `rank`.
        weights: weighted sum of several score columns, or of the aspects in the `aspect` role.
        tie_break: `position` (later row wins among equal scores) or `id`.
        on_invalid: `drop` and count rows without a usable score, or `raise`.
        seed: of everything that is drawn.

    Raises `PlanError` with every problem at once.

    >>> Pairs(strategy="best", min_margin=-1)
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: Pairs: strategy is not one of ('best_worst', ...); got 'best'; \
did you mean 'best_rest'?
    Pairs: min_margin must be a finite number >= 0; got -1
    """

    kind: ClassVar[str] = "pairs"
    command: ClassVar[str] = "pairs"
    usage: ClassVar[str] = """\
Make preference pairs: per prompt, high scores against low ones.

\b
prefmill pairs feedback.csv -o pairs.parquet
prefmill pairs ratings.jsonl -o pairs --strategy all --no-thresholds --min-margin 1
"""
    rows_are: ClassVar[str] = "pairs"
    card: ClassVar[str] = "preference pairs"
    unbounded: ClassVar[bool] = True

    strategy: Strategy = key(
        one_of(*get_args(Strategy)),
        "best_worst",
        help="best_worst, best_random, best_rest, adjacent, all, threshold.",
    )
    min_margin: float = key(finite(0), 0, help="Smallest difference of scores.")
    max_pairs_per_prompt: int | None = key(
        or_none(whole(1)), None, help="Draw at most so many pairs of a prompt."
    )
    top_k: int | None = key(or_none(whole(1)), None, help="Choose from the k best only.")
    bottom_k: int | None = key(or_none(whole(1)), None, help="Reject from the k worst only.")

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        problems = super().problems()
        if self.strategy == "threshold" and None in self.thresholds.values():
            problems.append("strategy 'threshold' needs both chosen_min and rejected_below")
        return problems

    def in_words(self) -> str:
        """The rule for people, without the fields that bound it."""
        return f"{self.strategy}: {_TOLD[self.strategy]}"

    def steps(self, roles: Roles) -> tuple[Step, ...]:
        """Groups of candidates in rank order, then the pairs of ranks that stand."""
        fields = ("max_pairs_per_prompt", "top_k", "bottom_k", "seed")
        wanted = {"strategy": self.strategy, **self._refusal}
        wanted |= {name: getattr(self, name) for name in fields}
        return (
            Step(
                "groups",
                "pairs.groups",
                ("candidates",),
                {"tie_break": self.tie_break},
                # Only the ends of a group pair, and they are cheaper than its whole order.
                sql={"ends_only": self.strategy == "best_worst"},
                table=True,
                once=self.max_pairs_per_prompt is not None,
            ),
            Step("pairs", "pairs.pairs", ("groups",), wanted, sql=self.limits()),
        )

    def _inside_records(self) -> Pairs:
        """Without thresholds that nobody gave: a verdict, or a rank, says which one is better."""
        least, below = (None if value == AUTO else value for value in self.thresholds.values())
        return replace(self, chosen_min=least, rejected_below=below)

    def advice(self) -> dict[str, str]:
        """What to do where nothing came out, by the reason that dropped most rows."""
        spans = f"no prompt spans the margin {self.min_margin:g}."
        return super().advice() | {"below_min_margin": spans}

    @property
    def _refusal(self) -> dict[str, object]:
        """What decides whether a group can have a pair."""
        return {**self.bounds, "min_margin": self.min_margin}

    def output(self, roles: Roles) -> Output:
        """A pair a row: the texts of two candidates, and their scores."""
        # No candidate stands in two such pairs, so none has to be told apart.
        once = self.strategy in ("best_worst", "best_random")
        report = Step(
            "report",
            "pairs.report",
            ("counted", "candidates", "groups", "told"),
            self._refusal,
            sql={**self.limits(), "aggregate": self.aggregate, "once": once},
        )
        proposals = None
        if self.strategy in ("all", "threshold"):
            bounds = {
                "strategy": self.strategy,
                "max_pairs_per_prompt": self.max_pairs_per_prompt,
                "top_k": self.top_k,
                "bottom_k": self.bottom_k,
            }
            name = f"strategy {self.strategy!r}"
            proposals = Step(name, "pairs.proposals", ("groups",), bounds)
        return Output(
            step="pairs",
            texts={"chosen": "_chosen", "rejected": "_rejected"},
            columns=(
                Column("chosen_score", "_chosen_score"),
                Column("rejected_score", "_rejected_score"),
            ),
            order=("_first", "-_c", "_r"),
            report=report,
            also=("_first",),
            for_trainer=True,
            scale=Step("scale", "limits.group_scale", ("groups",)),
            quantiles=self.quantile_step(),
            proposals=proposals,
        )

    def most_rows(self, prompts: int, answers: int) -> int | None:
        """How many pairs come out at most, of so many answers to each prompt; None: unknown.

        >>> Pairs(strategy="all").most_rows(10, 4), Pairs().most_rows(10, 4)
        (60, 10)
        """
        one_against_others = answers - 1
        proposed = {
            "best_worst": 1,
            "best_random": 1,
            "best_rest": one_against_others,
            "adjacent": one_against_others,
            "all": answers * one_against_others // 2,
        }
        bounds = (proposed.get(self.strategy), self.max_pairs_per_prompt)
        known = [bound for bound in bounds if bound is not None]
        return prompts * min(known) if known else None
