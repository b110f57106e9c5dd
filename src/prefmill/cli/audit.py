"""`prefmill audit`: options to `prefmill.audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefmill.cli.app import command
from prefmill.cli.options import Inputs, Isolating, Telling, Words, option
from prefmill.cli.texts import names_in, print_json, roles_given


class _Looking(Inputs):
    human: Annotated[
        str | None,
        option(
            metavar="COL,...",
            help="What a human (or another judge) said, read as the score or the verdict is.",
        ),
    ] = None
    judge_name: Annotated[
        str | None,
        option(
            metavar="NAME,...",
            help="Sources that are the judge's own answers; * stands for anything."
            "  [default: those with the annotator's name]",
        ),
    ] = None
    repeat: Annotated[
        list[str] | None,
        option(metavar="FILE", help="Another run of the judge on the same answers; again for more"),
    ] = None
    by: Annotated[
        str | None,
        option(metavar="COL", help="An audit for every value of this column too, say a judge."),
    ] = None
    level: Annotated[float, option(help="Of the intervals, and of the audit as a whole.")] = 0.95
    least: Annotated[
        float, option(help="The effect that matters: 0.05 is a win rate of 55 % for 50 %.")
    ] = 0.05
    seed: Annotated[int, option(help="Of comparisons drawn, beyond two million.")] = 0
    strict: Annotated[bool, option("--strict", help="Exit code 1 where a bias is found.")] = False


class AuditOptions(_Looking, Words, Isolating, Telling):  # type: ignore[misc]
    """The options of `prefmill audit`."""


@command
def audit(options: AuditOptions) -> None:
    """Look for biases of a judge in what it said: the place of an answer, its length, its format,
    who made it, whether the judge says the same again, and how far a human agrees.

    A bias is a finding and changes no exit code, unless --strict is given.

    \b
    prefmill audit judged.parquet
    prefmill audit judged.parquet --source model --judge-name "gpt-4*" --repeat judged_again.parquet
    prefmill audit battles.jsonl --completion answer_a,answer_b --winner judge --human person
    """
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.runs.judges.audit import audit as look

    with show.progress(quiet=options.quiet) as tell:
        report = options.called(
            look,
            options.inputs,
            human=options.human,
            judge_name=names_in(options.judge_name),
            repeat=options.repeat or (),
            roles=roles_given(options),
            progress=tell,
            **options.picked("by", "level", "least", "seed"),
            **reading,
        )
    if options.as_json:
        print_json(report.as_json())
    if not options.quiet:
        show.audited(report)
    if options.strict and report.found:
        raise typer.Exit(1)
