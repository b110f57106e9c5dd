"""The audit of a judge: what its scores depend on besides quality.

    files ──▶ numbers (lengths, formats, places) ──pairs──▶ effects with errors over prompts ──▶
    found, not found, or how many prompts it takes

What every number means is in `docs/audit.md`; the rules are in `prefmill.rules.audits`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import polars as pl

from prefmill.errors import AccountingError, BadArgument, BadInput
from prefmill.progress import Progress, peak_rss_mb
from prefmill.rules.audits.answers import Answers, Pairings, outcome, pairings
from prefmill.rules.audits.effects import FEWEST_PROMPTS, Bools
from prefmill.rules.audits.probes import compared
from prefmill.rules.audits.repeats import stable
from prefmill.rules.audits.texts import FORMATS
from prefmill.rules.audits.twice import Repeats, Shown, meetings, voted_again
from prefmill.rules.audits.verdicts import Probe, probes, share_of
from prefmill.rules.votes import Ints
from prefmill.runs.job.opening import Reading
from prefmill.runs.judges.audit_report import AuditReport
from prefmill.runs.judges.judged import Judged, both_orders, judged, numbers, own_answers
from prefmill.shown import amount
from prefmill.table.roles import Inputs, RoleNames
from prefmill.telemetry.watch import watched

#: From this share of one value on, a scale tells little.
_CROWDED = 0.5


@watched("audit")
def audit(
    inputs: Inputs,
    *,
    human: str | Sequence[str] | None = None,
    judge_name: str | Sequence[str] | None = None,
    repeat: Sequence[Inputs] = (),
    by: str | None = None,
    level: float = 0.95,
    least: float = 0.05,
    seed: int = 0,
    roles: RoleNames | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> AuditReport:
    """Look for biases of a judge in what it said: scores of a pool, verdicts, or pairs.

    Rows are those of `prefmill.run`, as in `prefmill.votes`. Looked for are: the place of an
    answer, its length, its format, who made it, and whether the judge says the same again.
    Effects are points of the win rate inside a prompt; their errors are over prompts.

    Args:
        human: the column of a reference, read as the score (or the verdict) is; of several
            columns the mean. Effects are then the judge's less the reference's.
        judge_name: which sources are the judge's own answers; `*` stands for anything. None:
            those that have the annotator's name.
        repeat: other runs of the same judge on the same answers, each as `inputs`.
        by: a column; the rows of each of its values (a judge, a category) are audited apart too.
        level: of the intervals; 1 - `level` is the chance that a fair judge is said to have any of
            the biases (Holm over all tests).
        least: the effect that matters, in points of 1: 0.05 is a win rate of 55 % for 50 %.
        seed: of the comparisons that are drawn where there are more than two million.
        roles, progress, reading: as in `prefmill.run`.

    Cost: one pass over texts, then numbers: about 100 bytes a row and 50 a comparison. Raises
    `PrefmillError`s for arguments or columns that cannot be meant.

    >>> said = {"prompt": [f"p{n // 2}" for n in range(80)], "score": [n % 2 for n in range(80)]}
    >>> said["completion"] = ["short", "a longer one"] * 40
    >>> report = audit(pl.DataFrame(said))
    >>> report.found, report["length"].effect
    (['length'], 0.5)
    """
    started = time.perf_counter()
    _check(level, least, seed)
    if human:
        _check_again(inputs)
    names = [judge_name] if isinstance(judge_name, str) else list(judge_name or ())
    runs = [judged(inputs, human=human, roles=roles, by=by, progress=progress, **reading)]
    several = [repeat] if isinstance(repeat, str | Path) else repeat
    for number, each in enumerate(several, 1):
        aside: Any = {**reading, "rejects": _rejects(reading.get("rejects"), number)}
        run = judged(each, human=None, roles=roles, by=by, progress=progress, **aside)
        if run.ordered != runs[0].ordered:
            raise BadInput(
                f"audit: repeat {number} and the audited file are not of one kind: one has verdicts"
                " on two answers, the other scores."
            )
        runs.append(run)
    main = runs[0]
    _account(main)
    rows = pl.concat([each.rows.with_columns(run=pl.lit(n)) for n, each in enumerate(runs)])
    own = own_answers(rows, names)
    rows = rows.with_columns(own=pl.lit(None, pl.Boolean) if own is None else pl.Series(own))
    look = _Look(main, level, least, seed)
    answers, pairs, told = look.at(rows)
    parts = {}
    if by is not None:
        for value in main.rows["by"].unique(maintain_order=True).to_list():
            same = pl.col("by").is_null() if value is None else pl.col("by") == value
            _, _, parts["null" if value is None else value] = look.at(rows.filter(same))
    ties = share_of((outcome(answers.score, pairs) == 0).astype(np.float64))
    return AuditReport(
        probes=told,
        parts=parts,
        by=by,
        rows_in=main.rows_in,
        rows_used=main.rows.height,
        rows_rejected=main.rejected,
        copies=main.copies,
        dropped=main.dropped,
        null=main.null,
        scale={**_scale(answers), "ties": ties},
        prompts=answers.prompts,
        judges=int(answers.judge.max(initial=-1)) + 1,
        comparisons=len(pairs.one),
        runs=len(runs),
        level=level,
        least=least,
        roles=main.roles,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_mb=peak_rss_mb(),
        records=main.records,
        notes=[*main.notes, *_notes(main, answers, pairs, runs, by)],
    )


@dataclass(frozen=True)
class _Look:
    """How rows are looked at, all of them or those of one value."""

    main: Judged
    level: float
    least: float
    seed: int

    def at(self, rows: pl.DataFrame) -> tuple[Answers, Pairings, list[Probe]]:
        """The answers of the audited file among `rows`, who met whom, and what was found."""
        everything, is_main = _answers(rows, self.main.ordered)
        answers = _of(everything, is_main)
        pairs = pairings(answers, seed=self.seed)
        swapped, repeats, again = _twice(self.main, rows, everything, self.seed)
        findings = [*compared(answers, pairs, swapped), stable(repeats, again)]
        found = probes(findings, prompts=answers.prompts, level=self.level, least=self.least)
        return answers, pairs, found


def _check(level: float, least: float, seed: int) -> None:
    for name, value in (("level", level), ("least", least)):
        if not isinstance(value, int | float) or not 0 < value < 1:
            raise BadArgument(f"audit: {name} is not between 0 and 1; got {value!r}.")
    if least >= 0.5:
        raise BadArgument(
            f"audit: least is not below 0.5; got {least!r}, expected a difference of win rates,"
            " which is at most 0.5."
        )
    if type(seed) is not int or seed < 0:
        raise BadArgument(f"audit: seed is no whole number >= 0; got {seed!r}.")


def _check_again(inputs: Inputs) -> None:
    """Raise where the input can be read once only."""
    names = [inputs] if isinstance(inputs, str) else inputs
    if isinstance(inputs, Iterator) or (isinstance(names, list | tuple) and "-" in names):
        raise BadArgument(
            "audit: a reference takes a second look at the input, and this one has one only.",
            hint="write it to a file first.",
        )


def _rejects(path: str | Path | None, number: int) -> Path | None:
    """Where malformed rows of a repeat go: next to those of the file."""
    return Path(path).with_stem(f"{Path(path).stem}-repeat{number}") if path else None


def _account(read: Judged) -> None:
    used = read.rows.height + read.copies + sum(read.dropped.values())
    if used != read.rows_in:
        raise AccountingError(
            f"audit: rows used ({read.rows.height:,}), copies ({read.copies:,}) and dropped"
            f" ({dict(read.dropped)}) are not all {read.rows_in:,} rows."
        )


def _answers(rows: pl.DataFrame, ordered: bool) -> tuple[Answers, Bools]:
    """All rows as numbers, and which are of the file that is audited."""
    # An answer that stands in a ballot again was judged again: the next ballot.
    again = pl.int_range(pl.len()).over("run", "group", "judge", "text")
    rows = rows.with_columns(again=pl.lit(0) if ordered else again)
    text = numbers(rows["prompt"], rows["text"])
    answers = Answers(
        prompt=numbers(rows["prompt"]),
        ballot=numbers(rows["run"], rows["group"], rows["judge"], rows["again"]),
        answer=text,
        judge=numbers(rows["judge"]),
        score=rows["score"].to_numpy(),
        reference=rows["reference"].to_numpy(),
        length=rows["length"].to_numpy(),
        formats={name: rows[name].to_numpy() for name in FORMATS},
        source=_sources(rows["source"]),
        own=None if rows["own"].null_count() else rows["own"].to_numpy(),
        ordered=ordered,
    )
    return answers, (rows["run"] == 0).to_numpy()


def _sources(source: pl.Series) -> Ints:
    number = numbers(source)
    null = source.is_null().to_numpy()
    if null.all():
        return np.full(len(number), -1)
    # Numbers are without gaps: that of null is taken out.
    if null.any():
        number = number - (number > number[null][0])
        number[null] = -1
    return number


def _of(answers: Answers, rows: Bools) -> Answers:
    """Some of the rows, numbers again without gaps."""
    if rows.all():
        return answers

    def dense(values: Ints) -> Ints:
        return np.asarray(np.unique(values[rows], return_inverse=True)[1], dtype=np.int64)

    return Answers(
        prompt=dense(answers.prompt),
        ballot=dense(answers.ballot),
        answer=dense(answers.answer),
        judge=dense(answers.judge),
        score=answers.score[rows],
        reference=answers.reference[rows],
        length=answers.length[rows],
        formats={name: flag[rows] for name, flag in answers.formats.items()},
        source=answers.source[rows],
        own=None if answers.own is None else answers.own[rows],
        ordered=answers.ordered,
    )


def _twice(
    main: Judged, rows: pl.DataFrame, answers: Answers, seed: int
) -> tuple[Shown, Repeats, Shown]:
    """What was judged again: in the other order, answers or matches, matches in the same order."""
    if answers.ordered:
        pairs = pairings(answers, seed=seed)
        swapped, again = meetings(answers, pairs)
        return swapped, voted_again(answers, pairs), again
    swapped = both_orders(main, rows, answers.prompt)
    unit = numbers(pl.Series(answers.answer), pl.Series(answers.judge))
    nothing = np.zeros(0)
    return (
        swapped,
        Repeats.of(answers.prompt, unit, answers.score),
        Shown(np.zeros(0, dtype=np.int64), nothing, nothing),
    )


def _scale(answers: Answers) -> dict[str, float]:
    values, counts = np.unique(answers.score, return_counts=True)
    shares = counts / counts.sum()
    most = int(np.argmax(counts))
    return {
        "distinct": float(len(values)),
        "commonest": float(values[most]),
        "commonest, share": float(shares[most]),
        "lowest": float(values[0]),
        "lowest, share": float(shares[0]),
        "highest": float(values[-1]),
        "highest, share": float(shares[-1]),
    }


def _notes(
    main: Judged, answers: Answers, pairs: Pairings, runs: Sequence[Judged], by: str | None
) -> list[str]:
    notes = []
    if not len(pairs.one):
        notes.append(
            "no two rows compare: is the right column the prompt (or --group), and is there one"
            " row for each answer?"
        )
    known = ~np.isnan(answers.reference)
    met = ~np.isnan(outcome(answers.reference, pairs))
    prompts = len(np.unique(answers.prompt[pairs.one[met]]))
    if known.any() and not known.all():
        notes.append(f"{known.sum():,} of {len(known):,} rows have a reference")
    if known.any() and prompts < FEWEST_PROMPTS:
        notes.append(
            f"{amount(prompts, 'prompt has', 'prompts have')} a reference for two answers,"
            f" expected {FEWEST_PROMPTS} or more: effects are not compared with it"
        )
    judges = int(answers.judge.max(initial=-1)) + 1
    if judges > 1 and by is None:
        name = main.roles.annotator
        notes.append(f"{judges:,} annotators are audited together; --by {name} tells them apart")
    if main.copies:
        notes.append(
            f"{amount(main.copies, 'row repeats', 'rows repeat')} an answer that the judge was"
            " asked about once:"
            " they are not counted again; other runs go to --repeat"
        )
    for number, run in enumerate(runs[1:], 1):
        left = "".join(f", {rows:,} dropped: {reason}" for reason, rows in run.dropped.items())
        if run.rejected:
            left = f"{left}, {run.rejected:,} malformed"
        notes.append(
            f"repeat {number}: {amount(run.rows_in, 'row')} in, {run.rows.height:,} used{left}"
        )
        if not main.rows["text"].is_in(run.rows["text"].implode()).any():
            notes.append(f"no answer of repeat {number} is in the audited file")
    values, share = main.rows.height, 0.0
    if values and not answers.ordered:
        share = float(np.unique(answers.score, return_counts=True)[1].max()) / values
    if share > _CROWDED:
        notes.append(f"{100 * share:.0f} % of all scores are one value: the scale tells little")
    return notes
