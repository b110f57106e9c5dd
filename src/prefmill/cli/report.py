"""`prefmill report`: options to `prefmill.report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmill.cli.app import command
from prefmill.cli.options import EngineReading, Inputs, Words, Writing, option
from prefmill.cli.texts import print_json, roles_given
from prefmill.errors import BadArgument

if TYPE_CHECKING:
    from prefmill.loops.looked import StagesReport
    from prefmill.reports.report import Report


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
    alike: Annotated[
        bool,
        option("--alike", help="Find prompts that mean nearly the same, by an encoder (slower)."),
    ] = False
    encoder: Annotated[
        str | None,
        option(
            metavar="DIR|HUB_ID",
            help="That encoder.  [default: all-MiniLM-L6-v2, extra worth]",
        ),
    ] = None
    against: Annotated[
        list[str] | None,
        option(metavar="FILE", help="A benchmark whose texts are looked for; again for more."),
    ] = None
    tokenizer: Annotated[
        str | None,
        option(metavar="DIR", help="A tokenizer: which pairs does a limit of tokens make equal?"),
    ] = None
    max_length: Annotated[
        int | None,
        option(min=1, help="That limit, of a prompt with its answer.  [default: 1024]"),
    ] = None
    strict: Annotated[bool, option("--strict", help="Exit code 1 where there is a warning.")] = (
        False
    )


class ReportOptions(_Looking, Words, EngineReading, Writing):  # type: ignore[misc]
    """The options of `prefmill report`."""


def _of_data(options: ReportOptions, **more: Any) -> Report:
    from prefmill.reports.report import report as look

    asked = options.picked("pairs", "near", "alike", "encoder", "tokenizer", "max_length")
    asked["against"] = options.against or ()
    return look(options.inputs, roles=roles_given(options), **asked, **more)


def _of_loop(options: ReportOptions) -> StagesReport:
    from prefmill.loops.looked import loop_report

    about_data = ("near", "alike", "encoder", "against", "tokenizer", "max_length")
    given = [name for name, value in options.picked(*about_data).items() if value]
    if given or roles_given(options):
        words = ", ".join(f"--{name.replace('_', '-')}" for name in [*given, *roles_given(options)])
        raise BadArgument(
            f"report: {words} are about data; got the folder of a loop.",
            hint=f"name a file of it: {options.inputs[0]}/stage-0/scored.parquet.",
        )
    return loop_report(options.inputs[0])


@command
def report(options: ReportOptions) -> None:
    """Show what preference data looks like: rows, scores, gaps, repeats, splits, pairs to read, and
    what length, lists, language, position or source alone would get right. Warnings say what to do.

    INPUT is feedback, pairs, labels, a pool, or the folder of a loop. A warning changes no exit
    code, unless --strict is given.

    \b
    prefmill report pairs.parquet -o report.html
    prefmill report feedback.csv --source model
    prefmill report train.parquet test.parquet
    prefmill report pairs.parquet --tokenizer DIR --max-length 512
    prefmill report runs/recipe
    """
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.loops.folder import is_loop
    from prefmill.reports.faces import page_target

    if options.output is not None:
        page_target(options.output, overwrite=options.overwrite)
    done: Report | StagesReport
    with show.progress(quiet=options.quiet) as tell:
        if len(options.inputs) == 1 and is_loop(Path(options.inputs[0])):
            done = _of_loop(options)
        else:
            done = _of_data(options, progress=tell, **reading)
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
