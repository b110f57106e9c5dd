"""`prefmill check`: what is in the feedback, and what a plan of pairs would make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Unpack

from prefmill.errors import ThresholdsUnfit
from prefmill.plans import Pairs
from prefmill.runs.job import Reading, opened
from prefmill.runs.run import said_roles
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames, Roles


@dataclass(frozen=True)
class Findings:
    """What a look at feedback found. Counts are rows unless the name says otherwise; quantiles are
    (min, median, max).
    """

    files: int
    rows: int
    rejected: int
    columns: Mapping[str, str]
    roles: Roles
    prompts: int
    answers_per_prompt: tuple[float, float, float] | None
    scores: tuple[float, float, float] | None
    distinct_scores: int
    unusable: Mapping[str, int]
    repeated: int
    conflicting: int
    prompts_without_contrast: int
    bad_scores: Sequence[str]
    default_plan: PairReport | None
    thresholds: Mapping[str, float | None] | None
    refusal: str
    is_default: bool
    first_rows: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Every row can be used, some prompt has two different scores, and the plan makes pairs."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What makes the exit code 1, a sentence each."""
        told = []
        if unusable := sum(self.unusable.values()):
            words = f" ({', '.join(self.bad_scores)})" if self.bad_scores else ""
            told.append(
                f"{unusable:,} of {self.rows:,} rows cannot be used{words}; pairs are made of the others."
            )
        if self.rejected:
            told.append(f"{self.rejected:,} malformed rows were set aside.")
        contrast = self.prompts - self.prompts_without_contrast
        if not contrast:
            told.append(
                "no prompt has two answers with different scores; is the right column the prompt (or --group)?"
            )
        elif self.refusal:
            told.append(f"{self.refusal} {contrast:,} prompts have answers with different scores.")
        elif self.default_plan is not None and not self.default_plan.pairs_out:
            told.append(
                f"the plan makes no pair, and {contrast:,} prompts have answers with different scores:"
                " see what --chosen-min none --rejected-below none gives."
            )
        return told

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        return {"ok": self.ok, "problems": self.problems, **asdict(self)}

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) for people, in reading order."""

        def spread(values: tuple[float, float, float] | None) -> str:
            return "none" if values is None else "min {:g}, median {:g}, max {:g}".format(*values)

        roles = ", ".join(f"{k}={v}" for k, v in asdict(self.roles).items() if v and k != "negate")
        others = [name for name in self.columns if name not in asdict(self.roles).values()]
        if len(others) > _SHOWN:
            others = [*others[:_SHOWN], f"and {len(others) - _SHOWN:,} more (--json names all)"]
        told = [
            ("rows", f"{self.rows:,} in {self.files} file{'s' if self.files != 1 else ''}"),
            ("roles", roles + (" (negated)" if self.roles.negate else "")),
            ("other columns", ", ".join(others) or "none"),
            ("prompts", f"{self.prompts:,}, answers of each: {spread(self.answers_per_prompt)}"),
            ("scores", f"{spread(self.scores)}; {self.distinct_scores:,} distinct"),
            (
                "without contrast",
                f"{self.prompts_without_contrast:,} prompts (one answer, or all scores equal)",
            ),
            (
                "repeated answers",
                f"{self.repeated:,} rows repeat an answer of their prompt, {self.conflicting:,} with another score",
            ),
        ]
        told += [
            (f"row {number}", ", ".join(f"{k} {v}" for k, v in row.items()))
            for number, row in enumerate(self.first_rows)
        ]
        told += [
            (f"unusable: {reason}", f"{rows:,} rows") for reason, rows in self.unusable.items()
        ]
        if self.rejected:
            told.append(("malformed", f"{self.rejected:,} rows set aside"))
        plan, bounds = self.default_plan, self.thresholds or {}
        if plan is not None:
            signs = {"chosen_min": "chosen >= ", "rejected_below": "rejected < "}
            limits = ", ".join(
                f"{signs[name]}{value:g}" for name, value in bounds.items() if value is not None
            )
            name = "with default plan" if self.is_default else "with this plan"
            told.append(
                (
                    name,
                    f"{plan.pairs_out:,} pairs from {plan.groups_used:,} prompts ({limits or 'no thresholds'})",
                )
            )
        return told


def _short(value: str | None) -> str:
    """A value as people see where it begins and ends."""
    if value is None:
        return "null"
    return repr(value if len(value) <= 40 else f"{value[:24]} ... {value[-12:]}")


_SHOWN = 12  # other columns that people see


def check(
    inputs: str | Path | Sequence[str | Path],
    *,
    plan: Pairs | None = None,
    roles: RoleNames | None = None,
    **reading: Unpack[Reading],
) -> Findings:
    """Look at files of feedback (as `run` takes them), say what is there and what `plan` would make
    of it; writes nothing.

    Cost: one narrow pass, one over the completions for repeats, and what `plan` costs.
    """
    plan = plan or Pairs()
    with opened(plan, inputs, roles=roles, **reading) as job:
        refusal = ""
        try:
            job.rank()
        except ThresholdsUnfit as error:  # said, and the rest is looked at
            refusal = f"{error.message} Hint: {error.hint}"

        def one(query: str) -> tuple[float, ...]:
            (row,) = job.con.execute(query).fetchall()
            return tuple(row)

        def spread(query: str) -> tuple[float, float, float] | None:
            low, middle, high = one(query)
            return None if low is None else (float(low), float(middle), float(high))

        unusable = job.con.execute(
            "SELECT _reason, count(*) FROM counted WHERE _reason IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
        repeats = (
            "SELECT coalesce(sum(n - 1), 0)::BIGINT, coalesce(sum(n) FILTER (scores > 1), 0)::BIGINT FROM"
            " (SELECT count(*) AS n, count(DISTINCT _value) AS scores FROM counted JOIN numbered USING (_pos)"
            "  WHERE _reason IS NULL GROUP BY _grp, _completion HAVING count(*) > 1)"
        )
        repeated, conflicting = one(repeats)
        (flat,) = one(
            "SELECT count(*) FROM groups WHERE _n < 2 OR pref_key_score(_ranks[1]) = pref_key_score(_ranks[-1])"
        )
        (prompts,) = one("SELECT count(*) FROM groups")
        (distinct,) = one("SELECT count(DISTINCT _score) FROM candidates WHERE _reason IS NULL")
        default = None if refusal else job.report()
        shown = "SELECT _prompt::VARCHAR, _completion::VARCHAR, _score0::VARCHAR FROM numbered WHERE _pos < 3 ORDER BY _pos"
        names = (job.roles.prompt, job.roles.completion, job.roles.score)
        first_rows = [
            dict(zip(names, map(_short, row), strict=True))
            for row in job.con.execute(shown).fetchall()
        ]
        return Findings(
            files=len(job.source.files),
            rows=job.source.rows,
            rejected=job.source.rejected,
            columns={f.name: str(f.type) for f in job.source.columns},
            roles=said_roles(plan, job.roles),
            prompts=int(prompts),
            answers_per_prompt=spread("SELECT min(_n), median(_n), max(_n) FROM groups"),
            scores=spread(
                "SELECT min(_score), median(_score), max(_score) FROM candidates WHERE _reason IS NULL"
            ),
            distinct_scores=int(distinct),
            unusable={str(r): int(n) for r, n in unusable},
            repeated=int(repeated),
            conflicting=int(conflicting),
            prompts_without_contrast=int(flat),
            default_plan=default,
            bad_scores=job.bad_scores()
            if any(reason == "bad_score" for reason, _ in unusable)
            else (),
            thresholds=None if refusal else job.plan.thresholds or None,
            refusal=refusal,
            is_default=plan == Pairs(),
            first_rows=first_rows,
            notes=job.source.notes,
        )
