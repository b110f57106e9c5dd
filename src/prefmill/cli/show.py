"""What people see: progress, and reports on plans and checks, on stderr.

A prompt's text is never printed unescaped. Tables of rich are in `prefmill.cli.tables`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefmill.cli.texts import wrote
from prefmill.plans import Expectation, FeedbackPlan
from prefmill.runs.account.hints import about_words
from prefmill.shapes.account import line_of
from prefmill.shown import amount, bare, shown

if TYPE_CHECKING:
    from rich.console import Console

    from prefmill.proxies.label_next import NextReport
    from prefmill.runs.account.report import RunReport
    from prefmill.runs.judges.audit_report import AuditReport
    from prefmill.runs.judges.votes import VotesReport
    from prefmill.runs.looks.check import Findings
    from prefmill.runs.rows import RowsReport
    from prefmill.runs.steps import StepsReport
    from prefmill.runs.values import ValuesReport


def line(text: str) -> None:
    """Print one line; control characters, of a column's name say, are shown."""
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), file=sys.stderr)


def columns(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print names to the left, counts and shares to the right, each as wide as it has to be."""
    names, counts, shares = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, count, share in rows:
        line(f"{name:<{names}}  {count:>{counts}}  {share:>{shares}}".rstrip())


def console() -> Console:
    """A console of rich on stderr."""
    from rich.console import Console

    return Console(file=bare(sys.stderr), highlight=False, soft_wrap=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str, float | None], None]]:
    """A callback for (phase, share done or None): a live line on a terminal, nothing elsewhere."""
    # A log has no use for a line that moves.
    if quiet or not sys.stderr.isatty():
        yield _silent
        return
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    parts = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*parts, console=console(), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(phase: str, share: float | None = None) -> None:
            total = None if share is None else 1.0
            bar.update(task, description=shown(phase), total=total, completed=share or 0.0)

        yield tell


def _silent(phase: str, share: float | None = None) -> None:
    """Where nobody watches, nothing is shown."""


def _read_as(done: RunReport | VotesReport | AuditReport) -> None:
    """Which column is what, or how records became rows."""
    roles = {role: column for role, column in vars(done.roles).items() if column}
    roles.pop("negate", None)
    shown = ", ".join(f"{role}={column}" for role, column in roles.items())
    if done.roles.negate:
        shown += " (negated: lower is better)"
    if done.records is None:
        line(f"roles: {shown}")
    else:
        line(f"read as: {done.records['read_as']}")
        line(line_of(done.records))


def report(plan: FeedbackPlan, done: RunReport) -> None:
    """The drop report of a run: what every row became, and where the output lies."""
    _read_as(done)
    # Also where they are 0: every row has to be seen in one of the lines below the first.
    rows = [("rows in", done.rows_in), ("  used", done.rows_used)]
    rows.append(("  not selected", done.rows_not_selected))
    reasons = sorted(done.dropped.items(), key=lambda item: -item[1])
    rows += [(f"  dropped: {reason}", count) for reason, count in reasons]
    whole = done.rows_in or 1
    cells = [(name, f"{count:,}", f"{100 * count / whole:.1f} %") for name, count in rows]
    if done.rows_rejected:
        cells.append(("malformed, set aside", f"{done.rows_rejected:,}", ""))
    columns(cells)
    made = amount(done.pairs_out, plan.rows_are.removesuffix("s"))
    line(
        f"{made} from {done.groups_used:,} of {amount(done.groups_in, 'prompt')}   "
        f"({done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB, {done.engine}, "
        f"plan {done.plan_hash})"
    )
    if done.bad_scores:
        line(f"bad_score: {about_words(done.bad_scores)}")
    for text in expected_told(done.expected):
        line(text)
    if done.labels is not None:
        line(f"labels: {done.labels['true']:,} true, {done.labels['false']:,} false")
    for note in [*done.notes, *_renamed(done)]:
        line(f"note: {note}")
    if done.length is not None:
        slope, correlation = done.length["slope"], done.length["correlation"]
        inside = ""
        if correlation is not None:
            inside = f" (correlation {correlation:.3f} inside prompts)"
        line(f"length control: {slope:+.4g} a 1,000 characters taken out{inside}")
    for split, path in done.output.items():
        count = f" ({done.split_rows[split]:,})" if done.split_rows else ""
        line(f"{wrote(done.notes)} {path}{count}")


def expected_told(expected: Sequence[Mapping[str, Any]]) -> list[str]:
    """What holds and what does not."""
    return [f"{'holds' if each['holds'] else 'broken'}: {Expectation(**each)}" for each in expected]


def chosen(done: NextReport) -> None:
    """Which pairs were chosen to be labelled next, and of what."""
    rows = [("prompts with two answers", done.prompts), ("answers of them", done.answers)]
    rows += [("  looked at", done.looked_at), ("pairs without a label", done.pairs)]
    rows += [("labels that were learned from", done.labels)]
    columns([(name, f"{count:,}", "") for name, count in rows])
    run = f"{done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB"
    asked, prompts = amount(done.rows_out, "pair"), amount(done.prompts_out, "prompt")
    line(f"{asked} to label, of {prompts}   ({run})")
    _end(done)


def _end(done: NextReport | ValuesReport | VotesReport | StepsReport) -> None:
    """The last lines about a run: what to know of it, and its output."""
    for text in expected_told(getattr(done, "expected", ())):
        line(text)
    for note in done.notes:
        line(f"note: {note}")
    if done.output:
        line(f"{wrote(done.notes)} {done.output}")


def _renamed(done: RunReport) -> list[str]:
    return [
        f"the input's column {name!r} is {other!r} in the output, which has a {name!r} of its own"
        for name, other in done.renamed.items()
    ]


def nothing_hint(plan: FeedbackPlan, done: RunReport) -> str:
    """One thing to do about an empty output, drawn from the data."""
    if not done.rows_in:
        return "the input has no rows."
    reason = max(done.dropped, key=lambda reason: done.dropped[reason], default="")
    share = f"{done.dropped.get(reason, 0):,} of {done.rows_in:,} rows"
    if done.score_range is None:
        unusable = f"no row could be used: {share} are {reason}"
        if reason == "bad_score":
            return f"{unusable}; {about_words(done.bad_scores)}"
        return f"{unusable}."
    low, high = done.score_range
    # The thresholds that held are told, also where the plan left them open.
    thresholds: Any = done.thresholds or {}
    settled = replace(plan, **thresholds)
    if hint := settled.hint(done.dropped, low, high):
        return hint
    advice = plan.advice().get(reason, f"scores run from {low:g} to {high:g}.")
    return f"{share} dropped as {reason}: {advice}"


def valued(done: ValuesReport) -> None:
    """What became of the rows of values, and where the output lies."""
    named = ", ".join(f"{role}={column}" for role, column in done.columns.items())
    line(f"roles: {named}")
    cells = [("rows in", f"{done.rows_in:,}", "")]
    if done.rows_rejected:
        cells.append(("malformed, set aside", f"{done.rows_rejected:,}", ""))
    columns(cells)
    what = "nodes of a tree" if done.tree else f"actions of {done.states:,} states"
    run = f"{done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB, plan {done.plan_hash}"
    line(f"values of {done.rows_out:,} {what}   ({run})")
    _end(done)


def voted(done: VotesReport) -> None:
    """What became of every row and comparison of votes, and where the output lies."""
    _read_as(done)
    whole, compared = done.rows_in or 1, done.comparisons or 1
    rows = [("rows in", done.rows_in), ("  used", done.rows_used)]
    rows += [(f"  dropped: {reason}", count) for reason, count in done.dropped.items()]
    cells = [(name, f"{count:,}", f"{100 * count / whole:.1f} %") for name, count in rows]
    if done.rows_rejected:
        cells.append(("malformed, set aside", f"{done.rows_rejected:,}", ""))
    cells.append(("ballots", f"{done.ballots:,}", ""))
    if done.single:
        cells.append(
            ("  of one row", f"{done.single:,}", f"{100 * done.single / (done.ballots or 1):.1f} %")
        )
    cells.append(("comparisons", f"{done.comparisons:,}", ""))
    cells.append(("  tied", f"{done.ties:,}", f"{100 * done.ties / compared:.1f} %"))
    columns(cells)
    what = "answers" if done.over == "prompt" else "sources"
    run = f"{done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB"
    line(
        f"{done.method}: scores of {done.rows_out:,} {what} to {amount(done.prompts, 'prompt')};"
        f" parts that compare: {done.parts:,}   ({run})"
    )
    if done.bad_scores:
        line(f"bad_score: {about_words(done.bad_scores)}")
    if done.tie_parameter is not None:
        line(f"tie parameter: {done.tie_parameter:.3f}")
    if done.annotators:
        shares = sorted(share for _, share in done.annotators.values())
        line(
            f"{len(shares):,} annotators, reliability {shares[0]:.3f} to {shares[-1]:.3f},"
            f" median {shares[len(shares) // 2]:.3f} (--json names them)"
        )
    _end(done)


def audited(done: AuditReport) -> None:
    """What an audit found of a judge."""
    _read_as(done)
    for text in str(done).splitlines():
        line(text)
    for note in done.notes:
        line(f"note: {note}")


def rows(done: RowsReport) -> None:
    """What became of records, and where their rows lie."""
    if done.read_as:
        line(f"read as: {done.read_as}")
    cells = [("records in", f"{done.records_in:,}", ""), ("  rows", f"{done.rows_out:,}", "")]
    cells += [(f"  dropped: {reason}", f"{n:,}", "") for reason, n in done.dropped.items()]
    if done.rows_rejected:
        cells.append(("malformed, set aside", f"{done.rows_rejected:,}", ""))
    columns(cells)
    line(f"columns: {', '.join(done.columns)}   ({done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB)")
    for note in done.notes:
        line(f"note: {note}")
    if done.group:
        line(f"note: only rows of one record compare: --group {done.group}")
    if done.output:
        line(f"{wrote(done.notes)} {done.output}")


def stepped(done: StepsReport) -> None:
    """What became of the records or rollouts of steps, and where the output lies."""
    line(f"read as: {done.read_as}")
    found = "rollouts" if done.tree else "paths"
    rows = [("rows in", done.rows_in), (found, done.paths), ("  used", done.rows_out)]
    reasons = sorted(done.dropped.items(), key=lambda item: -item[1])
    rows += [(f"  dropped: {reason}", count) for reason, count in reasons]
    cells = [(name, f"{count:,}", "") for name, count in rows]
    if done.rows_rejected:
        cells.append(("malformed, set aside", f"{done.rows_rejected:,}", ""))
    columns(cells)
    steps = f"{done.steps['true']:,} true, {done.steps['false']:,} false"
    run = f"{done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB"
    line(f"{amount(done.rows_out, 'row')} with labels of steps: {steps}   ({run})")
    _end(done)


def check(findings: Findings) -> None:
    """What `prefmill check` found, in words."""
    rows = findings.lines()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line(f"{name:<{width}}  {value}")
    for note in findings.notes:
        line(f"note: {note}")
    for problem in findings.problems:
        line(f"not ok: {problem}")
