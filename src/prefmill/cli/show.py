"""What people see: progress and reports, on stderr, never a prompt's text unescaped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prefmill.errors import BAD_ROW
from prefmill.plans import BestOf, Pairs, Plan
from prefmill.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from prefmill.loops.loop import LoopReport
    from prefmill.runs.check import Findings
    from prefmill.runs.curve import Curve
    from prefmill.runs.run import RunReport
    from prefmill.runs.sample import SampleReport
    from prefmill.runs.score import ScoreReport
    from prefmill.training.report import TrainReport


#: What the rows of output are called.


# rich takes as long to import as a plan on a small file runs: what needs no table of it is printed
# plainly.


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _table() -> Table:
    """A table without lines, of names, counts and shares."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    return table


class _Plain:
    """The part of a console that reports on plans need. Control characters, of a column's name say,
    are shown.
    """

    def print(self, told: str | _Lines, *, markup: bool = False) -> None:
        """One line, or the lines of a table."""
        for line in told.lines() if isinstance(told, _Lines) else [told]:
            print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)


class _Lines:
    """Names to the left, counts and shares to the right, each as wide as it has to be."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []

    def add_row(self, name: str, count: str, share: str) -> None:
        """One line more."""
        self._rows.append((name, count, share))

    def lines(self) -> list[str]:
        """The lines as text."""
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        return [
            f"{name:<{widths[0]}}  {count:>{widths[1]}}  {share:>{widths[2]}}".rstrip()
            for name, count, share in self._rows
        ]


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """A callback for (phase, share done or None): a live line on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=_console(), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(phase: str, share: float | None = None) -> None:
            bar.update(
                task,
                description=phase,
                total=None if share is None else 1.0,
                completed=share or 0.0,
            )

        yield tell


def report(plan: Plan, done: RunReport) -> None:
    """The drop report of a run: what every row became, and where the output lies."""
    console = _Plain()
    roles = ", ".join(
        f"{role}={name}" for role, name in done.as_json()["roles"].items() if role != "negate"
    )  # type: ignore[attr-defined]
    console.print(
        f"roles: {roles}{' (negated: lower is better)' if done.roles.negate else ''}", markup=False
    )
    table = _Lines()
    whole = done.rows_in or 1

    def line(name: str, rows: int) -> None:
        table.add_row(name, f"{rows:,}", f"{100 * rows / whole:.1f} %")

    line("rows in", done.rows_in)
    line("  used", done.rows_used)
    line("  not selected", done.rows_not_selected)
    for reason, rows in sorted(done.dropped.items(), key=lambda item: -item[1]):
        line(f"  dropped: {reason}", rows)
    if done.rows_rejected:
        table.add_row("malformed, set aside", f"{done.rows_rejected:,}", "")
    console.print(table)
    console.print(
        f"{done.pairs_out:,} {plan.rows_are} from {done.groups_used:,} of {done.groups_in:,} prompts"
        f"   ({done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB, {done.engine}, plan {done.plan_hash})",
        markup=False,
    )
    if done.bad_scores:
        console.print(f"bad_score: {words_told(done.bad_scores)}", markup=False)
    if done.labels is not None:
        console.print(
            f"labels: {done.labels['true']:,} true, {done.labels['false']:,} false", markup=False
        )
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    for name, other in done.renamed.items():
        console.print(
            f"note: the input's column {name!r} is {other!r} in the output, which has a {name!r} of its own",
            markup=False,
        )
    if done.length is not None:
        slope, correlation = done.length["slope"], done.length["correlation"]
        told = "" if correlation is None else f" (correlation {correlation:.3f} inside prompts)"
        console.print(
            f"length control: {slope:+.4g} a 1,000 characters taken out{told}", markup=False
        )
    for split, path in done.output.items():
        count = f" ({done.split_rows[split]:,})" if done.split_rows else ""
        console.print(f"wrote {path}{count}", markup=False)


def words_told(words: Sequence[str]) -> str:
    """What to say of texts that are no score."""
    spelled = ", ".join(words)
    return f"got {spelled}, expected numbers, true or false: make numbers of words first, or name another column with --score."


def nothing_hint(plan: Plan, done: RunReport) -> str:
    """One thing to do about an empty output, drawn from the data."""
    if not done.rows_in:
        return "the input has no rows."
    if done.score_range is None:
        reason = max(done.dropped, key=lambda r: done.dropped[r])
        words = f"; {words_told(done.bad_scores)}" if reason == "bad_score" else "."
        return f"no row could be used: {done.dropped[reason]:,} of {done.rows_in:,} rows are {reason}{words}"
    low, high = done.score_range
    if isinstance(plan, BestOf) and plan.min_score is not None and high < plan.min_score:
        return f"largest score seen {high:g}, min_score {plan.min_score:g}: lower --min-score."
    least, below = (
        (done.thresholds or {}).get("chosen_min"),
        (done.thresholds or {}).get("rejected_below"),
    )
    off = ", or --no-thresholds" if isinstance(plan, Pairs) else ""
    # Where all rows tie, or stand alone, no threshold would change what comes out.
    bounded = bool(
        {"below_chosen_min", "not_below_rejected", "between_thresholds"} & set(done.dropped)
    )
    if bounded and least is not None and high < least:
        return f"largest score seen {high:g}, chosen_min {least:g}: lower --chosen-min and --rejected-below{off}."
    if bounded and below is not None and low >= below:
        return (
            f"smallest score seen {low:g}, rejected_below {below:g}: raise --rejected-below{off}."
        )
    reason = max(done.dropped, key=lambda r: done.dropped[r])
    advice = {
        "single_completion": "every prompt has one answer only; is the right column the prompt (or --group)?",
        "no_weight": "the policy's weights of a prompt are all 0.",
        "tie": "all answers of a prompt have one score; --weights or --aggregate mean may separate them.",
        "identical_text": "the answers of a prompt are the same text; --aggregate mean merges them.",
        "below_min_margin": f"no prompt spans the margin {plan.min_margin:g}."
        if isinstance(plan, Pairs)
        else "",
    }.get(reason, f"scores run from {low:g} to {high:g}.")
    return f"{done.dropped[reason]:,} of {done.rows_in:,} rows dropped as {reason}: {advice}"


def check(found: Findings) -> None:
    """What `prefmill check` found, in words."""
    console = _Plain()
    lines = found.lines()
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print(f"{name:<{width}}  {value}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    for problem in found.problems:
        console.print(f"not ok: {problem}", markup=False)


def _template_date(console: Console, date: str | None) -> None:
    if date is not None:
        console.print(f"date in the chat template: {date} (--template-date sets it)", markup=False)


def scored(done: ScoreReport) -> None:
    """What scoring did: every row, tokens saved, how fast."""
    console = _console()
    table = _table()
    whole = done.rows_in or 1
    lines = [
        ("rows in", done.rows_in),
        ("  scored", done.rows_scored),
        *((f"  no score: {reason}", n) for reason, n in done.null.items()),
    ]
    asides = [
        ("  of these duplicates", done.duplicates),
        ("  of these cut to fit", done.truncated),
        ("  of these cut by the template", done.cut_by_template),
        ("  of these from the cache", done.cached),
    ]
    for name, rows in [*lines, *(aside for aside in asides if aside[1])]:
        table.add_row(name, f"{rows:,}", f"{100 * rows / whole:.1f} %")
    console.print(table)
    _first_null(console, done.first_null)
    _template_date(console, done.template_date)
    if done.tokens:
        ratio = done.tokens / max(1, done.tokens_run)
        console.print(
            f"{done.tokens:,} tokens, {done.tokens_run:,} through the model ({ratio:.2f} to 1)",
            markup=False,
        )
    if done.requests:
        spent = (
            f", {done.tokens_in:,} tokens in and {done.tokens_out:,} out"
            if done.tokens_in or done.tokens_out
            else ""
        )
        cost = "" if done.cost is None else f", cost {done.cost:,.4g}"
        console.print(f"{_requests(done)}{spent}{cost}", markup=False)
    if done.way.startswith("batches"):
        console.print(f"padded batches{done.way.removeprefix('batches')}", markup=False)
    if done.splits:
        console.print(f"{done.splits} batches did not fit into memory and were split", markup=False)
    went_on = (
        f", {done.chunks_resumed} of {done.chunks} chunks were there" if done.chunks_resumed else ""
    )
    rate = (
        f"{done.rows_scored / done.seconds:,.0f} rows/s, "
        if done.seconds and not done.chunks_resumed
        else ""
    )
    console.print(
        f"{done.seconds:.1f} s ({rate}{done.seconds_model:.1f} s in the scorer, {done.peak_rss_mb:,.0f} MB{went_on})",
        markup=False,
    )
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {done.output} ({', '.join(done.columns)})", markup=False)


def sampled(done: SampleReport) -> None:
    """What sampling did: every prompt, every answer, how fast."""
    from rich.markup import escape

    console = _console()
    table = _table()
    table.add_row("prompts in", f"{done.prompts_in:,}", "")
    for name, rows in (("  null", done.null_prompts), ("  seen before", done.duplicate_prompts)):
        if rows:
            table.add_row(name, f"{rows:,}", "")
    table.add_row("  sampled", f"{done.prompts:,}", "")
    said = {
        "stop": "  ended",
        "length": "  cut off",
        **{reason: f"  none: {reason}" for reason in BAD_ROW},
    }
    lines = [
        ("answers", done.answers),
        *(
            (said.get(name, f"  {name}"), n)
            for name, n in sorted(done.finish_reasons.items(), reverse=True)
        ),
    ]
    asides = [
        ("  of these seen before in their prompt", done.duplicates),
        ("  of these empty", done.empty),
    ]
    for name, rows in [*lines, *(aside for aside in asides if aside[1])]:
        table.add_row(escape(name), f"{rows:,}", f"{100 * rows / max(1, done.answers):.1f} %")
    console.print(table)
    _template_date(console, done.template_date)
    _first_null(console, done.first_null)
    went_on = (
        f", {done.chunks_resumed} of {done.chunks} chunks were there" if done.chunks_resumed else ""
    )
    rate = f"{done.tokens_per_second:,.0f} tokens/s, " if done.tokens_per_second else ""
    took = f"{done.seconds:.1f} s ({rate}{done.seconds_model:.1f} s in the sampler, {done.peak_rss_mb:,.0f} MB{went_on})"
    console.print(f"{done.tokens:,} tokens; {took}", markup=False)
    if done.requests:
        console.print(_requests(done), markup=False)
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {done.output} ({', '.join(done.columns)})", markup=False)


def _first_null(console: Console, first: Mapping[str, str]) -> None:
    """Where the first row without a result stands, for every reason."""
    for reason, place in first.items():
        console.print(f"first {reason}: {place}", markup=False)


def _requests(done: ScoreReport | SampleReport) -> str:
    """Requests to a server, and those that had to be sent again, by reason."""
    why = ", ".join(
        f"{reason}: {times:,}"
        for reason, times in sorted(done.retried.items(), key=lambda item: -item[1])
    )
    return f"{done.requests:,} requests" + (
        f", {done.retries:,} of them again ({why})" if done.retries else ""
    )


def curve(found: Curve) -> None:
    """Best-of-n curves as a table, and the rows that are in none."""
    from rich.markup import escape
    from rich.table import Table

    console = _console()
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    interval = f"{100 * found.level:g} % interval"
    for name in (
        *([found.by] if found.by else []),
        "n",
        "prompts",
        "best of n",
        interval,
        "median",
        "mean",
        "KL",
    ):
        table.add_column(escape(name), justify="left" if name == found.by else "right")
    for row in found.points.iter_rows():
        *of, n, prompts, best, median, mean, low, high, kl = row
        spread = "" if low is None else f"{low:.4g} to {high:.4g}"
        told = [escape(str(value)) for value in of]
        table.add_row(
            *told,
            f"{n}",
            f"{prompts:,}",
            f"{best:.4g}",
            spread,
            f"{median:.4g}",
            f"{mean:.4g}",
            f"{kl:.3f}",
        )
    console.print(table)
    if console.is_terminal:
        from prefmill.plots import text_curve

        console.print(
            "\n".join(["", *text_curve(found, min(console.width, 100)), ""]), markup=False
        )
    dropped = "".join(
        f", {rows:,} dropped: {reason}"
        for reason, rows in sorted(found.dropped.items(), key=lambda item: -item[1])
    )
    console.print(f"{found.rows_in:,} rows in, {found.rows_used:,} used{dropped}", markup=False)


#: the columns of a loop's report that fit into a terminal, and their headings there
_LOOP_COLUMNS = {
    "stage": "stage",
    "mean reward": "reward",
    "wins": "wins",
    "second judge": "second",
    "second wins": "second wins",
    "KL": "KL",
    "tokens": "tokens",
    "distinct-2": "distinct-2",
}


def looped(done: LoopReport) -> None:
    """The stages of a loop as a table, and what they came to."""
    from rich.table import Table

    from prefmill.loops.report import cells

    console = _console()
    rows = [cells(row, intervals=False) for row in done.stages]
    used = {name: label for name, label in _LOOP_COLUMNS.items() if any(row[name] for row in rows)}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for label in used.values():
        table.add_column(label, justify="right")
    for row in rows:
        table.add_row(*(row[name] for name in used))
    console.print(table)
    nothing = "" if done.ran else ", all of it was there"
    lines = [
        *(f"- {sentence}" for sentence in done.said),
        f"best policy: stage {done.best_stage}, {done.policy}",
        f"{done.seconds:.1f} s ({len(done.ran)} steps{nothing})",
        f"wrote {done.output}/report.md",
    ]
    console.print("\n".join(lines), markup=False)


def trained(done: TrainReport) -> None:
    """What a training did: every row, the loss, and how often a reward model is right on what it
    has not seen.
    """
    from rich.table import Table

    from prefmill.training.report import named_shares

    console = _console()
    table = _table()
    lines = [
        ("rows in", done.rows_in),
        ("  trained on", done.rows_used),
        ("  held out", done.rows_held_out),
    ]
    lines += [
        (f"  dropped: {reason}", rows)
        for reason, rows in sorted(done.dropped.items(), key=lambda item: -item[1])
    ]
    for name, rows in lines:
        if rows or name in ("rows in", "  trained on"):
            table.add_row(name, f"{rows:,}", f"{100 * rows / (done.rows_in or 1):.1f} %")
    console.print(table)
    console.print(
        f"{done.steps:,} steps of {done.settings['batch_size']} ({done.epochs:.2f} epochs), {done.tokens:,} tokens;"
        f" loss {done.losses[0][1] if done.losses else done.loss:.3f} to {done.loss:.3f}",
        markup=False,
    )
    for held in done.held_out:
        again = (
            f", {held.prompts_trained:,} of them in training too" if held.prompts_trained else ""
        )
        lost = "".join(f", {rows:,} dropped: {reason}" for reason, rows in held.dropped.items())
        console.print(
            f"\n{held.name}: {held.accuracy.pairs:,} pairs of {held.prompts:,} prompts{again}{lost}; loss {held.loss:.3f}",
            markup=False,
        )
        shares = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("chosen wins by", "share", "95 % interval", "pairs"):
            shares.add_column(name, justify="left" if name.startswith("chosen") else "right")
        for name, share in named_shares(held):
            inside = name.startswith("margin")
            shares.add_row(
                f"  {name}" if inside else name,
                f"{share.value:.3f}",
                f"{share.low:.3f} to {share.high:.3f}",
                f"{share.pairs:,}",
            )
        console.print(shares)
    console.print(
        f"\n{done.seconds:.1f} s ({done.seconds_training:.1f} s in the trainer, {done.peak_rss_mb:,.0f} MB)",
        markup=False,
    )
    console.print(f"wrote {done.output}", markup=False)
