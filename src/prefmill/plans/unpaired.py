"""Labels: single completions that are good or bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prefmill.engines.steps import Column, Output, Step
from prefmill.plans.thresholds import ThresholdOptions, ThresholdPlan
from prefmill.table.fields import finite
from prefmill.table.roles import Roles
from prefmill.table.thresholds import USUAL, crossed

_is_number = finite()


class UnpairedOptions(ThresholdOptions, total=False):
    """The fields of `Unpaired` and the roles, as keyword arguments."""


@dataclass(frozen=True, kw_only=True)
class Unpaired(ThresholdPlan):
    """Single completions with a label, for KTO.

    The label is true at or above `chosen_min`, and false below `rejected_below`. Thresholds that
    are not given are 4 and 4. Booleans, and scores that are one of two whole numbers, are labels:
    the larger is true.

    | prompt | completion | score |      | prompt | completion | label | score |
    |   p    |     a      |   5   |  ->  |   p    |     a      | true  |   5   |
    |   p    |     b      |   1   |      |   p    |     b      | false |   1   |

    Between the two thresholds a row has no label and is dropped and counted. Fields as in `Pairs`.
    """

    kind: ClassVar[str] = "unpaired"
    command: ClassVar[str] = "unpair"
    usage: ClassVar[str] = """\
Label completions for KTO: true from --chosen-min on, false below --rejected-below. Thumbs
(true/false, 0/1, -1/1) need neither. Scores without a scale have quantiles.

\b
prefmill unpair feedback.csv -o labels.parquet
prefmill unpair scored.parquet -o labels.parquet --chosen-quantile 0.7 --rejected-quantile 0.3
"""
    rows_are: ClassVar[str] = "labels"
    card: ClassVar[str] = "labelled completions"
    ranks: ClassVar[bool] = False
    passed_over: ClassVar[str] = "between_thresholds"

    def in_words(self) -> str:
        """The rule for people, without the fields that bound it."""
        return "label: true from chosen_min on, false below rejected_below"

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        problems = super().problems()
        if None in self.thresholds.values():
            return [*problems, "labels need both chosen_min and rejected_below"]
        if crossing := self._crossing():
            problems.append(crossing)
        return problems

    def _crossing(self) -> str:
        """What is wrong with bounds that overlap, as far as they are known before the scores."""
        chosen, rejected = self.chosen_quantile, self.rejected_quantile
        if not _is_number(chosen) and not _is_number(rejected):
            wrong = f"rejected_quantile must not exceed chosen_quantile; got {rejected} > {chosen}"
            return wrong if rejected > chosen else ""  # type: ignore[operator]
        if self.quantiles:
            return ""
        # What is not given is 4 unless the scores are two-valued.
        high, low = (USUAL if value == "auto" else value for value in self.thresholds.values())
        if _is_number(high) or _is_number(low) or low <= high:  # type: ignore[operator]
            return ""
        return crossed(low, high)  # type: ignore[arg-type]

    def steps(self, roles: Roles) -> tuple[Step, ...]:
        """Candidates with a label."""
        # Where every candidate is one vote, lists hold numbers and not structs.
        sql = {**self.limits(), "plain": self.aggregate == "none"}
        labels = Step("labels", "labels.labels", ("candidates",), self.bounds, sql=sql, table=True)
        return (labels,)

    def output(self, roles: Roles) -> Output:
        """A labelled completion a row."""
        return Output(
            step="labels",
            texts={"completion": "_pos"},
            columns=(Column("label", "_label", "Boolean"), Column("score", "_score")),
            order=("_turn", "_first"),
            report=Step("report", "labels.label_report", ("counted", "candidates", "labels")),
            present="_label",
            for_trainer=True,
            scale=Step("scale", "limits.score_scale", ("candidates",)),
            quantiles=self.quantile_step(),
        )
