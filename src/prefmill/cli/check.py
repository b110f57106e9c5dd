"""`prefmill check`: options to `runs.check`."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter
from typing import Any

import typer

from prefmill.cli.app import add_command
from prefmill.cli.options import AsJson, Inputs, Isolating, OnCluster
from prefmill.cli.select import plan_of, plan_parameters
from prefmill.cli.texts import print_json, roles_given
from prefmill.plans import Pairs


class Checking(Inputs, OnCluster, Isolating):
    """What is checked, and how it is told."""

    as_json: AsJson = False


def _parameters() -> Iterator[Parameter]:
    """The options: those of pairs, whose plan is tried."""
    yield from Inputs.parameters()
    for parameter in plan_parameters(Pairs):
        # Unusable rows are what a check is for, so it never stops at one.
        if parameter.name != "on_invalid":
            yield parameter
    # The inputs came first already.
    yield from (each for each in Checking.parameters() if each.name != "inputs")


def check(options: Any) -> None:
    """Say what is in the feedback: roles, groups, scores, repeated answers, unusable rows, and how
    many pairs a plan makes of it.

    Exit code 1 if rows are unusable or malformed, if no prompt has answers with different scores,
    if the plan makes no pair, or if a file cannot be read. Notes change no exit code.

    \b
    prefmill check feedback.csv
    prefmill check feedback.csv --strategy all --no-thresholds
    """
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.runs.looks.check import check as look

    plan = plan_of(Pairs, options)
    reading |= options.picked("engine", "address", "work", "shuffle")
    findings = options.called(
        look, options.inputs, plan=plan, roles=roles_given(options), **reading
    )
    if options.as_json:
        print_json(findings.as_json())
    else:
        show.check(findings)
    raise typer.Exit(0 if findings.ok else 1)


add_command("check", check.__doc__ or "", _parameters(), Checking, check)
