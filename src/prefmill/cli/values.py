"""`prefmill values`: options to a run of `Values`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import Parameter
from typing import Annotated, Any

import typer

from prefmill.cli.app import Options, add_command
from prefmill.cli.options import (
    Empty,
    Inputs,
    Isolating,
    Sheets,
    Target,
    Writing,
    expecting,
    finish,
    option,
    output_of,
)
from prefmill.cli.select import field_parameters, optional, plan_of
from prefmill.cli.texts import stdout_or
from prefmill.plans import Values
from prefmill.plans.bounds import VALUES
from prefmill.table.roles import ValueNames


class _Files(Inputs, Target):
    """The input and the target."""


class _Tree(Options):
    id: Annotated[str | None, option(help="Of a message or step.  [default: id]")] = None
    parent_id: Annotated[
        str | None, option(help="Of what it follows; null for a root.  [default: parent_id]")
    ] = None


#: The help of the columns of transitions, and of what a policy reads.
_COLUMNS = {
    "state": "Of the state.  [default: state]",
    "action": "Of the action.  [default: action]",
    "next_state": "Of the state after it; null at the end.  [default: next_state]",
    "probability": "Of the transition.  [default: probability]",
    "reward": "Of the reward.  [default: reward]",
    "policy_probability": "Of the action, for policy given.",
    "score": "Of the action, for policy softmax.",
}


class _Expecting(Options):
    expect: Annotated[list[str] | None, expecting(VALUES)] = None


class _Running(_Expecting, Isolating, Writing, Empty, Sheets):
    """How values are worked out."""


class ValuesOptions(_Files, _Tree, _Running):
    """The options of `prefmill values`, next to the fields of the plan and `_COLUMNS`."""


def _parameters() -> Iterator[Parameter]:
    yield from _Files.parameters()
    yield from field_parameters(Values)
    yield from _Tree.parameters()
    for role, text in _COLUMNS.items():
        yield optional(role, Annotated[str | None, option(help=text)])
    yield from _Running.parameters()


def values(options: ValuesOptions) -> None:
    """Work out values of states and actions, out of core: of transitions, or of a tree of messages
    or steps (with --parent-id, or a column parent_id).

    \b
    prefmill values transitions.parquet -o values.parquet --gamma 0.9
    prefmill values messages.jsonl -o values.parquet --parent-id parent --reward score
    """
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.runs.values import run

    plan = plan_of(Values, options)
    output = output_of(options, "values", "values.parquet, or -o - for JSON Lines on stdout.")
    columns = options.picked(*ValueNames.__annotations__)
    roles: Any = {role: name for role, name in columns.items() if name}
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = options.called(
            run,
            plan,
            options.inputs,
            target,
            roles=roles,
            progress=tell,
            **options.picked("overwrite", "allow_empty", "spreadsheet_safe"),
            **reading,
        )
    finish(report, options, show.valued)
    if not report.rows_out and not options.allow_empty:
        _refuse_nothing()


add_command("values", values.__doc__ or "", _parameters(), ValuesOptions, values)


def _refuse_nothing() -> None:
    message = "no values came out, and nothing was written (--allow-empty writes it)"
    hint = "the input has no rows that give one."
    print(f"prefmill: {message}.\nHint: {hint}", file=sys.stderr)
    raise typer.Exit(1)
