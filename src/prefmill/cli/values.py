"""`prefmill values` and `prefmill steps`: options to a run of `Values` and to `stepwise`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmill.cli.app import Options, add_command, command
from prefmill.cli.options import (
    Empty,
    EngineReading,
    Inputs,
    Overwrite,
    Quiet,
    Reading,
    Target,
    Writing,
    finish,
    option,
    output_of,
)
from prefmill.cli.select import field_parameters, optional, plan_of
from prefmill.cli.texts import stdout_or
from prefmill.errors import BadArgument
from prefmill.plans import Values
from prefmill.table.roles import ValueNames

if TYPE_CHECKING:
    import polars as pl


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


class _Running(EngineReading, Writing, Empty):
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
        report = run(
            plan,
            options.inputs,
            target,
            roles=roles,
            progress=tell,
            **options.picked("overwrite", "allow_empty"),
            **reading,
        )
    finish(report, options, show.valued)
    if not report.rows_out and not options.allow_empty:
        _refuse_nothing("values")


add_command("values", values.__doc__ or "", _parameters(), ValuesOptions, values)


class _ReadingWhole(Reading, Empty):
    quiet: Quiet = False
    overwrite: Overwrite = False


class StepsOptions(_Files, _Tree, _ReadingWhole):
    """The options of `prefmill steps`."""

    labels: Annotated[str, option(help="soft: a share of successes; hard: one success.")] = "soft"
    threshold: Annotated[float, option(help="Of the share, for soft.")] = 0.5
    success_min: Annotated[float, option(help="A leaf's success is at least this (true is 1).")] = (
        1.0
    )
    text: Annotated[str, option(help="Of the text.")] = "text"
    success: Annotated[str, option(help="Of a leaf's success.")] = "success"


@command
def steps(options: StepsOptions) -> None:
    """Label the steps of rollouts by how often they end in success: prompt, completions, labels, as
    process reward models are trained on.

    \b
    prefmill steps rollouts.jsonl -o steps.jsonl --success correct
    """
    from prefmill.disk.hidden import sweep
    from prefmill.rules.rollouts import stepwise
    from prefmill.writers import write as writers

    target = options.output
    if target is None:
        hint = "-o steps.jsonl, or -o - for JSON Lines on stdout."
        raise BadArgument("no output named.", hint=hint)
    sweep(options.temp_dir)  # also where the target is refused
    if target != "-":
        writers.check_target(target, overwrite=options.overwrite)
    settings = options.picked("text", "success", "success_min", "labels", "threshold")
    settings |= {"id": options.id or "id", "parent_id": options.parent_id or "parent_id"}
    rows = stepwise(_read(options, target), **settings)
    if not rows.height and not options.allow_empty:
        _refuse_nothing("rollouts")
    with stdout_or(target) as path:
        writers.write([rows], rows.schema, path, format="pool", overwrite=options.overwrite)
    if not options.quiet:
        wrote = "" if target == "-" else f"; wrote {target}"
        typer.echo(f"{rows.height:,} rollouts{wrote}", err=True)


def _read(options: StepsOptions, target: str) -> pl.DataFrame:
    from prefmill.pools.frames import frame_of

    # What an earlier run wrote into a folder that is read is no input.
    without = [target] if target != "-" else []
    reading = options.reading()
    frame = frame_of(options.inputs, "steps", tell=_note, without=without, **reading)
    return frame.lazy().collect()


def _note(note: str) -> None:
    typer.echo(f"note: {note}", err=True)


def _refuse_nothing(what: str) -> None:
    message = f"no {what} came out, and nothing was written (--allow-empty writes it)"
    hint = "the input has no rows that give one."
    print(f"prefmill: {message}.\nHint: {hint}", file=sys.stderr)
    raise typer.Exit(1)
