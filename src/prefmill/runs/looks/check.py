"""`prefmill check`: what is in the feedback, and what a plan of pairs would make of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from prefmill.errors import BadArgument, ThresholdsUnfit
from prefmill.plans import Pairs
from prefmill.plans.expect import SOURCE, Counted, Expectation
from prefmill.runs.account.expecting import counted
from prefmill.runs.account.hints import about_words, sentinels
from prefmill.runs.account.remedies import Ranking, remedies
from prefmill.runs.account.report import said_roles
from prefmill.runs.cluster.where import Looking, parted
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import opened
from prefmill.runs.looks import counts
from prefmill.runs.looks.shaped import line_told, ranks_that_meet, shape_told
from prefmill.shapes.cells import RECORD
from prefmill.shown import amount
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames, Roles
from prefmill.telemetry.watch import watched


@dataclass(frozen=True)
class Findings:
    """What a look at feedback found. Counts are rows unless the name says otherwise; quantiles are
    (min, median, max). `shape` names how the records lie, `line` are the options that read them so.

    Where a record is its own group, `repeated_pairs` prefer the same of the same two answers to a
    prompt as an earlier record, and `contradictory_pairs` are all those of which another record
    prefers the other answer.
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
    repeated_pairs: int | None = None
    contradictory_pairs: int | None = None
    shape: str = ""
    line: str = ""
    first_rows: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()
    advice: str = ""
    expected: Sequence[Expectation] = ()

    @property
    def ok(self) -> bool:
        """Every row can be used, some prompt has two different scores, and the plan makes pairs."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What makes the exit code 1, a sentence each."""
        problems = []
        if unusable := sum(self.unusable.values()):
            rows = f"{unusable:,} of {self.rows:,} rows cannot be used"
            if self.bad_scores:
                rows = f"{rows} (bad_score: {about_words(self.bad_scores).removesuffix('.')})"
            problems.append(f"{rows}; pairs are made of the others.")
        if self.rejected:
            problems.append(
                f"{amount(self.rejected, 'malformed row was', 'malformed rows were')} set aside."
            )
        contrast = self.prompts - self.prompts_without_contrast
        differ = f"{amount(contrast, 'prompt has', 'prompts have')} answers with different scores"
        if not contrast:
            problems.append(
                "no prompt has two answers with different scores;"
                " is the right column the prompt (or --group)?"
            )
        elif self.refusal:
            problems.append(f"{self.refusal} {differ}.")
        elif self.default_plan is not None and not self.default_plan.pairs_out:
            problems.append(f"the plan makes no pair, and {differ}; {self.advice}")
        problems += [f"{each}." for each in self.expected if not each.holds]
        return problems

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        return {"ok": self.ok, "problems": self.problems, **asdict(self)}

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) for people, in reading order."""
        named = {role: name for role, name in asdict(self.roles).items() if name}
        if self.roles.group == (RECORD,):
            named["group"] = "each record"
        # Of another shape the roles are made, and the line has the columns that they are made of.
        taken = {*named.values(), *re.split(r"[\s,.\[]+", self.line)}
        others = [name for name in self.columns if name not in {*taken, RECORD}]
        if len(others) > _SHOWN:
            others = [*others[:_SHOWN], f"and {len(others) - _SHOWN:,} more (--json names all)"]
        negated = " (negated)" if named.pop("negate", False) else ""
        roles = ", ".join(f"{role}={name}" for role, name in named.items())
        lines = [
            ("rows", f"{self.rows:,} in {amount(self.files, 'file')}"),
            ("shape", f"{self.shape}: {self.line}"),
            ("roles", roles + negated),
            ("other columns", ", ".join(others) or "none"),
            ("prompts", f"{self.prompts:,}, answers of each: {_spread(self.answers_per_prompt)}"),
            ("scores", f"{_spread(self.scores)}; {self.distinct_scores:,} distinct"),
            (
                "without contrast",
                f"{amount(self.prompts_without_contrast, 'prompt')}"
                " (one answer, or all scores equal)",
            ),
            (
                "repeated answers",
                f"{amount(self.repeated, 'row repeats', 'rows repeat')} an answer of their prompt,"
                f" {self.conflicting:,} with another score",
            ),
        ]
        if self.repeated_pairs is not None:
            pairs = f"{self.repeated_pairs:,} are there already"
            if self.repeated_pairs:
                pairs = f"{pairs} (--repeats drop leaves them out)"
            again = f"{self.contradictory_pairs:,} contradict another one"
            lines.append(("pairs of records", f"{pairs}, {again}"))
        for number, row in enumerate(self.first_rows):
            lines.append((f"row {number}", ", ".join(f"{k} {v}" for k, v in row.items())))
        for reason, rows in self.unusable.items():
            lines.append((f"unusable: {reason}", amount(rows, "row")))
        if self.rejected:
            lines.append(("malformed", f"{amount(self.rejected, 'row')} set aside"))
        if self.default_plan is not None:
            lines.append(self._of_plan(self.default_plan))
        lines += [("holds", str(each)) for each in self.expected if each.holds]
        return lines

    def _of_plan(self, report: PairReport) -> tuple[str, str]:
        """What the plan makes of it."""
        signs = {"chosen_min": "chosen >= ", "rejected_below": "rejected < "}
        bounds = (self.thresholds or {}).items()
        limits = ", ".join(f"{signs[name]}{bound:g}" for name, bound in bounds if bound is not None)
        name = "with default plan" if self.is_default else "with this plan"
        pairs = f"{amount(report.pairs_out, 'pair')} from {amount(report.groups_used, 'prompt')}"
        return name, f"{pairs} ({limits or 'no thresholds'})"


_SHOWN = 12  # other columns that people see


def _spread(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "none"
    return "min {:g}, median {:g}, max {:g}".format(*values)


def _short(value: str | None) -> str:
    """A value as people see where it begins and ends."""
    if value is None:
        return "null"
    return repr(value if len(value) <= 40 else f"{value[:24]} ... {value[-12:]}")


def _but_the_line(notes: Sequence[str]) -> list[str]:
    """Notes without the line, which the shape has."""
    return [note for note in notes if not note.startswith("read as: ")]


_FIRST_ROWS = """
    SELECT _prompt::VARCHAR, _completion::VARCHAR, _score0::VARCHAR
    FROM numbered WHERE _pos < 3 ORDER BY _pos
"""


@watched("check")
def check(
    inputs: str | Path | Sequence[str | Path],
    *,
    plan: Pairs | None = None,
    roles: RoleNames | None = None,
    engine: Literal["auto", "ray"] = "auto",
    **looking: Unpack[Looking],
) -> Findings:
    """Look at files of feedback, say what is there and what `plan` would make of it.

    Files are those that `run` takes; nothing is written. With `engine="ray"` a cluster brings the
    answers of each prompt together (`address`, `work`, `shuffle` as in `prefmill.run`).
    Cost: one narrow pass, one over the completions for repeats, and what `plan` costs.
    """
    plan = plan or Pairs()
    if engine not in ("auto", "ray"):
        raise BadArgument(f"check: no engine {engine!r}; expected 'auto' or 'ray'.")
    spreading, reading = parted("check", engine, looking)
    if engine == "ray":
        from prefmill.runs.cluster.outcome import counted_apart
        from prefmill.runs.cluster.spread import looked_at

        words: dict[str, Any] = {"texts_read": True}
        if plan.expect is not None and plan.expect.sources is not None:
            words["keep"] = (SOURCE,)
        with looked_at(plan, inputs, spreading, reading, roles=roles, **words) as spread:
            figures = partial(counted_apart, plan, spread)
            return _findings(plan, spread.job, spread, counts.OfSpread(spread), figures)
    with opened(plan, inputs, roles=roles, **reading) as job:
        return _findings(plan, job, job, counts.OfJob(job), partial(counted, plan, job))


def _findings(
    plan: Pairs, job: Job, ranking: Ranking, asks: counts.Asks, figures: Callable[[], Counted]
) -> Findings:
    """What `job` reads, as `ranking` ranks it and `asks` counts it.

    `figures` are what the plan's expectations are compared with.
    """
    refusal, default, thresholds = "", None, None
    try:
        ranking.rank()
    except ThresholdsUnfit as error:  # said, and the rest is looked at
        refusal = f"{error.message} Hint: {error.hint}"
    else:
        default, thresholds = ranking.report(), ranking.plan.thresholds or None
    unusable = counts.unusable(asks)
    repeated, conflicting = counts.repeats(asks)
    flat, prompts = counts.flat(asks)
    scores, distinct = counts.scores(asks)
    one_machine = ranking is job
    pairs = counts.pairs_of_records(job) if job.rowed.inside_records and one_machine else None
    names = (job.roles.prompt, job.roles.completion, job.roles.score)
    rows = job.con.execute(_FIRST_ROWS).fetchall()
    return Findings(
        files=len(job.records.inputs),
        rows=job.source.rows,
        rejected=job.source.rejected,
        columns={field.name: str(field.type) for field in job.source.columns},
        roles=said_roles(plan, job.roles),
        prompts=prompts,
        answers_per_prompt=counts.sizes(asks),
        scores=scores,
        distinct_scores=distinct,
        unusable=unusable,
        repeated=repeated,
        conflicting=conflicting,
        prompts_without_contrast=flat,
        default_plan=default,
        bad_scores=ranking.bad_scores() if "bad_score" in unusable else (),
        thresholds=thresholds,
        refusal=refusal,
        is_default=plan == Pairs(),
        repeated_pairs=None if pairs is None else pairs[0],
        contradictory_pairs=None if pairs is None else pairs[1],
        shape=shape_told(job),
        line=line_told(job),
        first_rows=[dict(zip(names, map(_short, row), strict=True)) for row in rows],
        notes=[*_but_the_line(job.notes), *_told(job, ranking, asks, default)],
        advice=_advice(ranking, default),
        expected=plan.expect.looked_at(figures()) if plan.expect and default else (),
    )


def _told(job: Job, ranking: Ranking, asks: counts.Asks, report: PairReport | None) -> list[str]:
    """Notes on the data."""
    return [*_sentinels(job, asks), *ranks_that_meet(job, asks), *remedies(ranking, report)]


def _sentinels(job: Job, asks: counts.Asks) -> list[str]:
    """What is said of numbers that are likely a sign for no score."""
    notes = []
    for place, name in enumerate(job.program.read.scores):
        times = counts.values(asks, f"pref_scored(_score{place})")
        seen = list(times)
        for value in sentinels(len(seen), seen[:2], seen[:-3:-1]):
            rows = times[value]
            notes.append(
                f"{name}: {value:g} stands apart from the other scores ({amount(rows, 'row')}); "
                f'if it is no score, --values "{value:g}=null"'
            )
    return notes


def _advice(ranking: Ranking, report: PairReport | None) -> str:
    """What to do where the plan makes no pair."""
    if report is None or report.pairs_out:
        return ""
    reason = max(report.dropped, key=lambda reason: report.dropped[reason], default="")
    low, high = ranking.score_range() or (0, 0)
    advice = ranking.plan.hint(report.dropped, low, high) or ranking.plan.advice().get(reason, "")
    return advice or f"most rows are dropped as {reason}."
