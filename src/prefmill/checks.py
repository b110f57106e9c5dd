"""`prefmill check`: what is in the feedback, before any plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Unpack

from prefmill.job import Reading, opened
from prefmill.plans import Pairs
from prefmill.report import PairReport
from prefmill.schema import RoleNames, Roles


@dataclass(frozen=True)
class Findings:
    """What a look at feedback found. Counts are rows unless the name says otherwise; quantiles are (min, median, max)."""

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
    default_plan: PairReport

    @property
    def ok(self) -> bool:
        """Every row can be used, and some prompt has two different scores."""
        return not self.unusable and not self.rejected and self.prompts > self.prompts_without_contrast

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) for people, in reading order."""

        def spread(values: tuple[float, float, float] | None) -> str:
            return "none" if values is None else "min {:g}, median {:g}, max {:g}".format(*values)

        roles = ", ".join(f"{k}={v}" for k, v in asdict(self.roles).items() if v and k != "negate")
        others = [name for name in self.columns if name not in asdict(self.roles).values()]
        told = [
            ("rows", f"{self.rows:,} in {self.files} file{'s' if self.files != 1 else ''}"),
            ("roles", roles + (" (negated)" if self.roles.negate else "")),
            ("other columns", ", ".join(others) or "none"),
            ("prompts", f"{self.prompts:,}, answers of each: {spread(self.answers_per_prompt)}"),
            ("scores", f"{spread(self.scores)}; {self.distinct_scores:,} distinct"),
            ("without contrast", f"{self.prompts_without_contrast:,} prompts (one answer, or all scores equal)"),
            ("repeated answers", f"{self.repeated:,} rows repeat an answer of their prompt, {self.conflicting:,} with another score"),
        ]
        told += [(f"unusable: {reason}", f"{rows:,} rows") for reason, rows in self.unusable.items()]
        if self.rejected:
            told.append(("malformed", f"{self.rejected:,} rows set aside"))
        plan = self.default_plan
        told.append(("with default plan", f"{plan.pairs_out:,} pairs from {plan.groups_used:,} prompts (chosen >= 4, rejected < 4)"))
        return told


def check(inputs: str | Path | Sequence[str | Path], *, roles: RoleNames | None = None, **reading: Unpack[Reading]) -> Findings:
    """Look at files of feedback (as `run` takes them) and say what is there; writes nothing.

    Cost: one narrow pass, and one over the completions for repeats.
    """
    with opened(Pairs(), inputs, roles=roles, **reading) as job:
        job.rank()

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
        (flat,) = one("SELECT count(*) FROM groups WHERE _n < 2 OR pref_key_score(_ranks[1]) = pref_key_score(_ranks[-1])")
        (prompts,) = one("SELECT count(*) FROM groups")
        (distinct,) = one("SELECT count(DISTINCT _score) FROM candidates WHERE _reason IS NULL")
        default = job.report()
        return Findings(
            files=len(job.source.files), rows=job.source.rows, rejected=job.source.rejected,
            columns={f.name: str(f.type) for f in job.source.columns}, roles=job.roles, prompts=int(prompts),
            answers_per_prompt=spread("SELECT min(_n), median(_n), max(_n) FROM groups"),
            scores=spread("SELECT min(_score), median(_score), max(_score) FROM candidates WHERE _reason IS NULL"),
            distinct_scores=int(distinct), unusable={str(r): int(n) for r, n in unusable},
            repeated=int(repeated), conflicting=int(conflicting),
            prompts_without_contrast=int(flat), default_plan=default,
        )  # fmt: skip
