"""`prefmill values` and `prefmill steps`: options to `prefmill.values` and `prefmill.stepwise`."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmill.cli.app import Options, add_command, command
from prefmill.cli.options import Empty, Inputs, Overwrite, Quiet, Reading, Target, option
from prefmill.cli.select import field_parameters, plan_of
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
        str | None,
        option(help="Of what it follows; null for a root.  [default: parent_id]"),
    ] = None


class _Columns(_Tree):
    state: Annotated[str | None, option(help="Of the state.  [default: state]")] = None
    action: Annotated[str | None, option(help="Of the action.  [default: action]")] = None
    next_state: Annotated[
        str | None,
        option(help="Of the state after it; null at the end.  [default: next_state]"),
    ] = None
    probability: Annotated[
        str | None, option(help="Of the transition.  [default: probability]")
    ] = None
    reward: Annotated[str | None, option(help="Of the reward.  [default: reward]")] = None
    policy_probability: Annotated[str | None, option(help="Of the action, for policy given.")] = (
        None
    )
    score: Annotated[str | None, option(help="Of the action, for policy softmax.")] = None


class _Running(Reading, Empty):
    quiet: Quiet = False
    overwrite: Overwrite = False


class ValuesOptions(_Files, _Columns, _Running):
    """The options of `prefmill values`, next to the fields of the plan."""


def _parameters() -> Iterator[Parameter]:
    yield from _Files.parameters()
    yield from field_parameters(Values)
    yield from _Columns.parameters()
    yield from _Running.parameters()


def values(options: ValuesOptions) -> None:
    """Work out values of states and actions: of transitions, or of a tree of messages or steps
    (with --parent-id, or a column parent_id).

    \b
    prefmill values transitions.parquet -o values.parquet --gamma 0.9
    prefmill values messages.jsonl -o values.parquet --id message_id --parent-id parent_id --reward
    score
    """
    from prefmill.rules.values import values as work_out

    plan = plan_of(Values, options)
    target = _target(options)
    columns = options.picked(*ValueNames.__annotations__)
    names: Any = {role: name for role, name in columns.items() if name}
    _write(work_out(_read(options, target), plan, **names), target, options, "values")


add_command("values", values.__doc__ or "", _parameters(), ValuesOptions, values)


class StepsOptions(_Files, _Tree, _Running):
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
    from prefmill.rules.rollouts import stepwise

    target = _target(options)
    settings = options.picked("text", "success", "success_min", "labels", "threshold")
    settings |= {"id": options.id or "id", "parent_id": options.parent_id or "parent_id"}
    rows = stepwise(_read(options, target), **settings)
    _write(rows, target, options, "rollouts")


def _target(options: ValuesOptions | StepsOptions) -> str:
    from prefmill.disk.hidden import sweep
    from prefmill.writers import write as writers

    output = options.output
    if output is None:
        raise BadArgument(
            "no output named.", hint="-o values.parquet, or -o - for JSON Lines on stdout."
        )
    # Also where the target is refused: what a killed run left behind is nobody's.
    sweep(options.temp_dir)
    if output != "-":
        writers.check_target(output, split=None, overwrite=options.overwrite)
    return output


def _read(options: ValuesOptions | StepsOptions, target: str) -> pl.DataFrame:
    from prefmill.pools.frames import frame_of

    # What an earlier run wrote into a folder that is read is no input.
    without = [target] if target != "-" else []
    reading = options.reading()
    frame = frame_of(options.inputs, "values", tell=_note, without=without, **reading)
    return frame.lazy().collect()


def _note(note: str) -> None:
    typer.echo(f"note: {note}", err=True)


def _write(
    frame: pl.DataFrame, target: str, options: ValuesOptions | StepsOptions, what: str
) -> None:
    from prefmill.writers import write as writers

    if not frame.height and not options.allow_empty:
        typer.echo(
            f"prefmill: no {what} came out, and nothing was written (--allow-empty writes it).\n"
            "Hint: the input has no rows that give one.",
            err=True,
        )
        raise typer.Exit(1)
    with stdout_or(target) as path:
        writers.write([frame], frame.schema, path, format="pool", overwrite=options.overwrite)
    if not options.quiet:
        line = f"{frame.height:,} {what}"
        if target != "-":
            line += f"; wrote {target}"
        typer.echo(line, err=True)
