"""Reports of models, curves, loops and trainings as tables, on stderr.

rich takes as long to import as a plan on a small file runs, so only what needs its tables is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from prefmill.cli.show import console, expected_told
from prefmill.cli.texts import wrote
from prefmill.errors import BAD_ROW
from prefmill.shown import amount, shown

if TYPE_CHECKING:
    from prefmill.loops.loop import LoopReport
    from prefmill.runs.looks.calibrate import CalibrateReport
    from prefmill.runs.looks.curve import Curve
    from prefmill.runs.resumable.sample_report import SampleReport
    from prefmill.runs.resumable.score_report import ScoreReport
    from prefmill.training.report import TrainReport


def _cell(text: str) -> str:
    """A text as it is: neither markup nor control characters."""
    return escape(shown(text))


class Told:
    """A console on stderr. What is printed is no markup of rich."""

    def __init__(self) -> None:
        self.console = console()

    def line(self, *parts: str) -> None:
        """One line, of parts that may be empty."""
        self.console.print(shown("".join(parts)), markup=False)

    def counts(self, rows: Sequence[tuple[str, int]], whole: int) -> None:
        """Names, counts, and their shares of `whole`."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_column(justify="right", style="dim")
        for name, count in rows:
            share = f"{100 * count / whole:.1f} %" if whole else ""
            table.add_row(_cell(name), f"{count:,}", share)
        self.console.print(table)

    def table(self, names: Sequence[str], rows: Sequence[Sequence[str]], left: str = "") -> None:
        """Rows under names; the column `left` is aligned there, the others to the right."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in names:
            table.add_column(_cell(name), justify="left" if name == left else "right")
        for row in rows:
            table.add_row(*map(_cell, row))
        self.console.print(table)

    def run(self, done: ScoreReport | SampleReport) -> None:
        """The last lines about a run with a model: what was expected, notes, the output."""
        for text in expected_told(done.expected):
            self.line(text)
        for note in done.notes:
            self.line(f"note: {note}")
        self.line(f"{wrote(done.notes)} {done.output} ({', '.join(done.columns)})")

    def first_null(self, done: ScoreReport | SampleReport) -> None:
        """Where the first row without a result stands, for every reason."""
        for reason, place in done.first_null.items():
            self.line(f"first {reason}: {place}")

    def workers(self, done: ScoreReport | SampleReport) -> None:
        """Who did the work, on a cluster."""
        if done.workers:
            lost = f", {done.workers_lost} lost on the way" if done.workers_lost else ""
            size = f"the largest {done.worker_peak_rss_mb:,.0f} MB"
            many = "worker" if done.workers == 1 else "workers at a time"
            self.line(f"{done.workers} {many}{lost}; {size}")

    def template_date(self, done: ScoreReport | SampleReport) -> None:
        """The date that the chat template printed."""
        if done.template_date is not None:
            date = done.template_date
            self.line(f"date in the chat template: {date} (--template-date sets it)")


def _resumed(done: ScoreReport | SampleReport) -> str:
    if not done.chunks_resumed:
        return ""
    return f", {done.chunks_resumed} of {done.chunks} chunks were there"


def _requests(done: ScoreReport | SampleReport) -> str:
    """Requests to a server, and those that had to be sent again, by reason."""
    again = ""
    if done.retries:
        times = sorted(done.retried.items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in times)
        again = f", {done.retries:,} of them again ({reasons})"
    return f"{done.requests:,} requests{again}"


def _named(rows: Mapping[str, int]) -> list[tuple[str, int]]:
    """Only the rows that there are."""
    return [(name, count) for name, count in rows.items() if count]


def scored(done: ScoreReport) -> None:
    """What scoring did: every row, tokens saved, how fast."""
    told = Told()
    nulls = [(f"  no score: {reason}", rows) for reason, rows in done.null.items()]
    asides = {
        "  of these duplicates": done.duplicates,
        "  of these cut to fit": done.truncated,
        "  of these cut by the template": done.cut_by_template,
        "  of these from the cache": done.cached,
    }
    reasons = sorted(done.reasons.items(), key=lambda item: (-item[1], item[0]))
    asides |= {f"  of these {reason}": rows for reason, rows in reasons}
    rows = [("rows in", done.rows_in), ("  scored", done.rows_scored), *nulls, *_named(asides)]
    told.counts(rows, done.rows_in or 1)
    if done.rows_before:
        told.line(f"{amount(done.rows_before, 'row')} scored before, {done.rows_new:,} new")
    told.first_null(done)
    told.template_date(done)
    told.workers(done)
    if done.tokens:
        ratio = done.tokens / max(1, done.tokens_run)
        through = f"{done.tokens_run:,} through the model ({ratio:.2f} to 1)"
        told.line(f"{done.tokens:,} tokens, {through}")
    if done.requests:
        told.line(_requests(done), _spent(done))
    if done.way.startswith("batches"):
        told.line(f"padded batches{done.way.removeprefix('batches')}")
    elif ": batches" in done.way:  # of one of several scorers
        told.line(f"padded batches: {done.way}")
    for scorer, groups in done.flat.items():
        flat = f"{scorer} gives one score to all answers of {amount(groups, 'group')}"
        told.line(f"{flat}: no opinion there")
    if done.way.startswith("in a sandbox"):
        told.line(f"code ran {done.way}")
    if done.splits:
        told.line(
            f"{amount(done.splits, 'batch', 'batches')} did not fit into memory and were split"
        )
    rate = ""
    # Chunks that were there cost no time, so a rate over all rows would be a boast.
    if done.seconds and not done.chunks_resumed:
        rate = f"{done.rows_new / done.seconds:,.0f} rows/s, "
    told.line(
        f"{done.seconds:.1f} s ({rate}{done.seconds_model:.1f} s in the scorer, ",
        f"{done.peak_rss_mb:,.0f} MB{_resumed(done)})",
    )
    told.run(done)


def calibrated(done: CalibrateReport) -> None:
    """How often the better score wins, by how far, and how far chances can be believed."""
    told = Told()
    dropped = [(f"  dropped: {reason}", rows) for reason, rows in done.dropped.items()]
    told.counts([("rows in", done.rows_in), ("  pairs", done.pairs), *dropped], done.rows_in or 1)
    share = _within(done.accuracy, percent=True)
    told.line(
        f"{amount(done.prompts, 'prompt')}; the chosen answer has the better score in {share}"
    )
    if done.brier:
        names = ("prompts not seen by the fit", "Brier", "calibration error")
        words = {"before": "scores as log-odds", "after": "calibrated"}
        rows = [
            (text, _within(done.brier[name]), f"{done.error[name]:.4f}")
            for name, text in words.items()
        ]
        told.table(names, [*rows, ("difference", _within(done.brier["difference"]), "")], names[0])
    steps = [
        (f"{step['from']:.4g} to {step['to']:.4g}", _within([step[n] for n in _ENDS]), _pairs(step))
        for step in _some(done.steps)
    ]
    told.table(("margin", "chance to win", "pairs"), steps, "margin")
    told.line(f"{len(done.steps):,} steps   ({done.seconds:.1f} s, {done.peak_rss_mb:,.0f} MB)")
    for note in done.notes:
        told.line(f"note: {note}")
    if done.output:
        told.line(f"wrote {done.output}")


_ENDS = ("chance", "low", "high")


def _within(mean: Sequence[float], *, percent: bool = False) -> str:
    """A mean and its interval."""
    value, low, high = mean
    if percent:
        return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _pairs(step: Mapping[str, float]) -> str:
    return f"{step['pairs']:,.0f}"


def _some(steps: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """At most ten steps, spread over all."""
    if len(steps) <= 10:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / 9)] for place in range(10)]


def _spent(done: ScoreReport) -> str:
    """Tokens of a server, and what they cost."""
    spent = ""
    if done.tokens_in or done.tokens_out:
        spent = f", {done.tokens_in:,} tokens in and {done.tokens_out:,} out"
    return spent if done.cost is None else f"{spent}, cost {done.cost:,.4g}"


def sampled(done: SampleReport) -> None:
    """What sampling did: every prompt, every answer, how fast."""
    told = Told()
    prompts = {"  null": done.null_prompts, "  seen before": done.duplicate_prompts}
    rows = [("prompts in", done.prompts_in), *_named(prompts), ("  sampled", done.prompts)]
    told.counts(rows, 0)
    if done.prompts_before:
        told.line(
            f"{amount(done.prompts_before, 'prompt')} sampled before, {done.prompts_new:,} new"
        )
    words = {"stop": "  ended", "length": "  cut off"}
    words |= {reason: f"  none: {reason}" for reason in BAD_ROW}
    ends = sorted(done.finish_reasons.items(), reverse=True)
    asides = {
        "  of these seen before in their prompt": done.duplicates,
        "  of these empty": done.empty,
    }
    rows = [("answers", done.answers), *((words.get(name, f"  {name}"), n) for name, n in ends)]
    told.counts([*rows, *_named(asides)], max(1, done.answers))
    told.template_date(done)
    told.first_null(done)
    told.workers(done)
    rate = ""
    if done.tokens_per_second:
        rate = f"{done.tokens_per_second:,.0f} tokens/s, "
    told.line(
        f"{done.tokens:,} tokens; {done.seconds:.1f} s ({rate}{done.seconds_model:.1f} s in the ",
        f"sampler, {done.peak_rss_mb:,.0f} MB{_resumed(done)})",
    )
    if done.requests:
        told.line(_requests(done))
    told.run(done)


def curve(found: Curve) -> None:
    """Best-of-n curves as a table, and the rows that are in none."""
    told = Told()
    for note in found.notes:
        told.line(f"note: {note}")
    interval = f"{100 * found.level:g} % interval"
    by = [found.by] if found.by else []
    names = [*by, "n", "prompts", "best of n", interval, "median", "mean", "KL"]
    rows = []
    for row in found.points.iter_rows(named=True):
        numbers = [f"{row['best']:.4g}", _spread(row, ""), f"{row['median']:.4g}"]
        numbers += [f"{row['mean']:.4g}", f"{row['kl']:.3f}"]
        value = [str(row[name]) for name in by]
        rows.append([*value, f"{row['n']}", f"{row['prompts']:,}", *numbers])
    told.table(names, rows, left=found.by or "")
    if found.check is not None:
        told.line("", f"what is right, by {found.check}:")
        told.table(*_of_checks(found, by), left=found.by or "")
    if told.console.is_terminal:
        from prefmill.plots import text_curve

        told.line("\n".join(["", *text_curve(found, min(told.console.width, 100)), ""]))
    reasons = sorted(found.dropped.items(), key=lambda item: -item[1])
    dropped = "".join(f", {rows:,} dropped: {reason}" for reason, rows in reasons)
    told.line(f"{amount(found.rows_in, 'row')} in, {found.rows_used:,} used{dropped}")


def _spread(row: Mapping[str, Any], way: str, digits: str = ".4g") -> str:
    """An interval, where there is one."""
    low, high = row[f"{way}low"], row[f"{way}high"]
    return "" if low is None else f"{low:{digits}} to {high:{digits}}"


#: What the columns of a checked curve are called for people.
_WAYS = {"passed": "pass@n", "picked": "best score", "majority": "majority"}


def _of_checks(found: Curve, by: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The ways to choose one of n, each with its interval."""
    ways = {way: name for way, name in _WAYS.items() if way in found.points.columns}
    interval = f"{100 * found.level:g} %"
    names = [*by, "n", *(text for name in ways.values() for text in (name, interval))]
    rows = []
    for row in found.points.iter_rows(named=True):
        cells = [str(row[name]) for name in (*by, "n")]
        for way in ways:
            cells += [f"{row[way]:.3f}", _spread(row, f"{way}_", ".3f")]
        rows.append(cells)
    return names, rows


#: The columns of a loop's report that fit into a terminal, and their headings there.
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
    from prefmill.loops.report import cells

    told = Told()
    rows = [cells(row, intervals=False) for row in done.stages]
    used = [name for name in _LOOP_COLUMNS if any(row[name] for row in rows)]
    shown = [[row[name] for name in used] for row in rows]
    told.table([_LOOP_COLUMNS[name] for name in used], shown)
    for sentence in done.said:
        told.line(f"- {sentence}")
    nothing = ""
    if not done.ran:
        nothing = ", all of it was there"
    told.line(f"best policy: stage {done.best_stage}, {done.policy}")
    told.line(f"{done.seconds:.1f} s ({len(done.ran)} steps{nothing})")
    told.line(f"wrote {done.output}/report.md")


def trained(done: TrainReport) -> None:
    """What a training did: every row, the loss, and how well it does on what it has not seen."""
    from prefmill.training.report import named_shares

    told = Told()
    reasons = sorted(done.dropped.items(), key=lambda item: -item[1])
    dropped = {f"  dropped: {reason}": rows for reason, rows in reasons}
    rows = [("rows in", done.rows_in), ("  trained on", done.rows_used)]
    rows += _named({"  held out": done.rows_held_out, **dropped})
    told.counts(rows, done.rows_in or 1)
    first = done.losses[0][1] if done.losses else done.loss
    told.line(
        f"{done.steps:,} steps of {done.settings['batch_size']} ({done.epochs:.2f} epochs), ",
        f"{done.tokens:,} tokens; loss {first:.3f} to {done.loss:.3f}",
    )
    for held in done.held_out:
        again = ""
        if held.prompts_trained:
            again = f", {held.prompts_trained:,} of them in training too"
        lost = "".join(f", {rows:,} dropped: {reason}" for reason, rows in held.dropped.items())
        pairs, prompts = amount(held.accuracy.pairs, "pair"), amount(held.prompts, "prompt")
        told.line(
            f"\n{held.name}: {pairs} of {prompts}{again}",
            f"{lost}; loss {held.loss:.3f}",
        )
        shares = []
        for name, share in named_shares(held):
            if name.startswith("margin"):  # a part of the line above it
                name = f"  {name}"
            spread = f"{share.low:.3f} to {share.high:.3f}"
            shares.append([name, f"{share.value:.3f}", spread, f"{share.pairs:,}"])
        names = ["chosen wins by", "share", "95 % interval", "pairs"]
        told.table(names, shares, left="chosen wins by")
    told.line(
        f"\n{done.seconds:.1f} s ({done.seconds_training:.1f} s in the trainer, ",
        f"{done.peak_rss_mb:,.0f} MB)",
    )
    told.line(f"wrote {done.output}")
