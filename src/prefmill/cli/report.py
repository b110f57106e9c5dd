"""`prefmill report`: options to `prefmill.report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.app import command
from prefmill.cli.options import EngineReading, Inputs, Words, Writing, option
from prefmill.cli.texts import print_json, roles_given


class _Looking(Inputs):
    output: Annotated[
        Path | None,
        option(
            "--output", "-o", metavar="FILE", help="The page: .html.  [default: in the terminal]"
        ),
    ] = None
    pairs: Annotated[int, option(min=0, help="How many pairs the page has to read.")] = 10
    near: Annotated[
        bool,
        option("--near", help="Find texts that are nearly the same too, by MinHash (slower)."),
    ] = False
    against: Annotated[
        list[str] | None,
        option(metavar="FILE", help="A benchmark whose texts are looked for; again for more."),
    ] = None
    strict: Annotated[bool, option("--strict", help="Exit code 1 where there is a warning.")] = (
        False
    )


class ReportOptions(_Looking, Words, EngineReading, Writing):  # type: ignore[misc]
    """The options of `prefmill report`."""


@command
def report(options: ReportOptions) -> None:
    """Show what preference data looks like: rows, scores, gaps, repeats, splits, pairs to read, and
    what length, lists, position or source alone would get right. Warnings say what to do.

    INPUT is feedback, pairs, labels or a pool. A warning changes no exit code, unless --strict is
    given.

    \b
    prefmill report pairs.parquet -o report.html
    prefmill report feedback.csv --source model
    prefmill report train.parquet test.parquet
    """
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.reports.report import page_target
    from prefmill.reports.report import report as look

    if options.output is not None:
        page_target(options.output, overwrite=options.overwrite)
    with show.progress(quiet=options.quiet) as tell:
        done = look(
            options.inputs,
            pairs=options.pairs,
            near=options.near,
            against=options.against or (),
            roles=roles_given(options),
            progress=tell,
            **reading,
        )
    if options.output is not None:
        done.save(options.output, overwrite=options.overwrite)
    if options.as_json:
        print_json(done.as_json())
    elif options.output is None and not options.quiet:
        typer.echo(str(done))
    if options.output is not None and not options.quiet:
        names = ", ".join(done.found) or "none"
        print(f"report: {options.output}; warnings: {names}", file=sys.stderr)
    if options.strict and not done.ok:
        raise typer.Exit(1)
