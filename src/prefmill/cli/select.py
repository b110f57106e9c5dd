"""`prefmill pairs`, `unpair`, `best`, `advantages`: a command for every kind of plan.

Its options are the fields of the plan, so a new kind of plan is a command without a line here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from inspect import Parameter
from typing import Annotated

import typer

from prefmill.cli.app import Options, add_command
from prefmill.cli.options import (
    Empty,
    EngineReading,
    Inputs,
    Target,
    Writing,
    finish,
    option,
    output_of,
)
from prefmill.cli.plans import optional, plan_of, plan_parameters
from prefmill.cli.texts import names_in, numbers_in, roles_given, stdout_or
from prefmill.errors import BadArgument
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan


class Layout(Options):
    """How rows are laid out."""

    chat: Annotated[bool, option("--chat", help="Write text as messages.")] = False
    keep: Annotated[str | None, option(metavar="COL,...", help="Columns to carry along.")] = None


class Margin(Options):
    """The margin of a pair."""

    margin_scale: Annotated[
        float | None,
        option(
            metavar="NUMBER",
            help="Add margin = (chosen - rejected) * NUMBER: RewardTrainer's loss uses it.",
        ),
    ] = None


class _How(Options):
    split: Annotated[
        str | None,
        option(metavar="NAME=SHARE,...", help="Split by prompt, for example train=0.95,test=0.05."),
    ] = None
    engine: Annotated[str, option(help="auto, polars or duckdb.")] = "auto"
    dry_run: Annotated[bool, option("--dry-run", help="Print what would run; write nothing.")] = (
        False
    )


class Running(_How, EngineReading, Writing, Empty):
    """How a plan is run."""


def _parameters(kind: type[FeedbackPlan]) -> Iterator[Parameter]:
    """All options of the command that runs plans of `kind`."""
    yield from Inputs.parameters()
    yield from Target.parameters()
    yield from plan_parameters(kind)
    if kind.layouts:
        yield optional("format", Annotated[str | None, option(help=kind.layouts)])
        yield from Layout.parameters()
    if kind.margins:
        yield from Margin.parameters()
    yield from Running.parameters()


class Selecting(Inputs, Target, Layout, Margin, Running):
    """The options of such a command; those that it does not have are at their defaults."""

    format: str | None = None


def _run(kind: type[FeedbackPlan], options: Selecting) -> None:
    """Run one plan from the options of its command, and tell what became of every row."""
    reading = {**options.reading(), **options.picked("engine", "format")}
    reading["roles"] = roles_given(options)
    from prefmill.cli import show
    from prefmill.runs.run import explain, run

    plan = plan_of(kind, options)
    if options.dry_run:
        typer.echo(explain(plan, options.inputs, **reading), nl=False)
        return
    if options.output is None:
        hint = "-o pairs.parquet, or --dry-run to see the plan."
        raise BadArgument(f"{plan.kind}: no output named.", hint=hint)
    output = output_of(options, plan.kind, "pairs.parquet")
    if output == "-" and options.split:
        raise BadArgument(
            "-o - and --split: stdout takes one stream of rows.",
            hint="give -o a file, or leave --split out.",
        )
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = run(
            plan,
            options.inputs,
            target,
            keep=names_in(options.keep),
            split=numbers_in("--split", options.split),
            progress=tell,
            **options.picked("chat", "margin_scale", "overwrite", "allow_empty"),
            **reading,
        )
    finish(report, options, lambda report: show.report(plan, report))
    if not report.pairs_out and not options.allow_empty:
        what = f"no {plan.rows_are} came out, and nothing was written (--allow-empty writes it)"
        hint = show.nothing_hint(plan, report)
        print(f"prefmill: {what}.\nHint: {hint}", file=sys.stderr)
        raise typer.Exit(1)


for _kind in FEEDBACK_KINDS.values():
    add_command(_kind.command, _kind.usage, _parameters(_kind), Selecting, partial(_run, _kind))
