"""`prefmill values` and `prefmill steps`: options to `prefmill.values` and `prefmill.stepwise`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefmill.cli.options import (
    AllowEmpty,
    Delimiter,
    Encoding,
    Inputs,
    MemoryLimit,
    Overwrite,
    Quiet,
    Rejects,
    TempDir,
    size_in_bytes,
    stdout_or,
)
from prefmill.errors import BadArgument
from prefmill.table.roles import ValueNames

if TYPE_CHECKING:
    import polars as pl

_COLUMNS = "Columns"
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Target: .parquet .jsonl .csv ...; - is JSONL on stdout."),
]
TreeId = Annotated[
    str | None,
    typer.Option("--id", help="Of a message or step.  [default: id]", rich_help_panel=_COLUMNS),
]
ParentId = Annotated[
    str | None,
    typer.Option(
        help="Of what it follows; null for a root.  [default: parent_id]", rich_help_panel=_COLUMNS
    ),
]


def values(  # one option a line: this is the manual
    inputs: Inputs,
    output: Output = None,
    gamma: Annotated[float, typer.Option(help="The discount, 0 to 1.")] = 1.0,
    policy: Annotated[str, typer.Option(help="uniform, given, softmax, or optimal.")] = "uniform",
    temperature: Annotated[float, typer.Option(help="Of softmax.")] = 1.0,
    tolerance: Annotated[float, typer.Option(help="Of states on cycles.")] = 1e-12,
    max_sweeps: Annotated[int, typer.Option(help="Over cycles with gamma 1.")] = 10_000,
    state: Annotated[
        str | None, typer.Option(help="Of the state.  [default: state]", rich_help_panel=_COLUMNS)
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Of the action.  [default: action]", rich_help_panel=_COLUMNS)
    ] = None,
    next_state: Annotated[
        str | None,
        typer.Option(
            help="Of the state after it; null at the end.  [default: next_state]",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    probability: Annotated[
        str | None,
        typer.Option(help="Of the transition.  [default: probability]", rich_help_panel=_COLUMNS),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="Of the reward.  [default: reward]", rich_help_panel=_COLUMNS)
    ] = None,
    policy_probability: Annotated[
        str | None, typer.Option(help="Of the action, for policy given.", rich_help_panel=_COLUMNS)
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(help="Of the action, for policy softmax.", rich_help_panel=_COLUMNS),
    ] = None,
    id: TreeId = None,
    parent_id: ParentId = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    memory_limit: MemoryLimit = None,
    temp_dir: TempDir = None,
    quiet: Quiet = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Work out values of states and actions: of transitions, or of a tree of messages or steps
    (with --parent-id, or a column parent_id).

    \b
    prefmill values transitions.parquet -o values.parquet --gamma 0.9
    prefmill values messages.jsonl -o values.parquet --id message_id --parent-id parent_id --reward
    score
    """
    options = locals()
    from prefmill.plans import Policy, Values
    from prefmill.rules.values import values as work_out

    kind: Policy = policy  # type: ignore[assignment]  # the plan checks it
    plan = Values(
        gamma=gamma,
        policy=kind,
        temperature=temperature,
        tolerance=tolerance,
        max_sweeps=max_sweeps,
    )
    target = _target(output, overwrite, temp_dir)
    frame = _read(inputs, target, encoding, delimiter, rejects, memory_limit, temp_dir)
    names: ValueNames = {
        role: options[role] for role in ValueNames.__annotations__ if options[role]
    }  # type: ignore[assignment]
    _write(
        work_out(frame, plan, **names),
        target,
        overwrite=overwrite,
        allow_empty=allow_empty,
        quiet=quiet,
        what="values",
    )


def steps(
    inputs: Inputs,
    output: Output = None,
    labels: Annotated[
        str, typer.Option(help="soft: a share of successes; hard: one success.")
    ] = "soft",
    threshold: Annotated[float, typer.Option(help="Of the share, for soft.")] = 0.5,
    success_min: Annotated[
        float, typer.Option(help="A leaf's success is at least this (true is 1).")
    ] = 1.0,
    text: Annotated[str, typer.Option(help="Of the text.", rich_help_panel=_COLUMNS)] = "text",
    success: Annotated[
        str, typer.Option(help="Of a leaf's success.", rich_help_panel=_COLUMNS)
    ] = "success",
    id: TreeId = None,
    parent_id: ParentId = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    memory_limit: MemoryLimit = None,
    temp_dir: TempDir = None,
    quiet: Quiet = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Label the steps of rollouts by how often they end in success: prompt, completions, labels, as
    process reward models are trained on.

    \b
    prefmill steps rollouts.jsonl -o steps.jsonl --success correct
    """
    from prefmill.rules.rollouts import Labels, stepwise

    kind: Labels = labels  # type: ignore[assignment]  # stepwise checks it
    target = _target(output, overwrite, temp_dir)
    frame = _read(inputs, target, encoding, delimiter, rejects, memory_limit, temp_dir)
    told = stepwise(
        frame,
        text=text,
        success=success,
        id=id or "id",
        parent_id=parent_id or "parent_id",
        success_min=success_min,
        labels=kind,
        threshold=threshold,
    )
    _write(told, target, overwrite=overwrite, allow_empty=allow_empty, quiet=quiet, what="rollouts")


def _target(output: str | None, overwrite: bool, temp_dir: Path | None) -> str:
    from prefmill.disk.hidden import sweep
    from prefmill.writers import write as writers

    if output is None:
        raise BadArgument(
            "no output named.", hint="-o values.parquet, or -o - for JSON Lines on stdout."
        )
    sweep(temp_dir)  # also where the target is refused
    if output != "-":
        writers.check_target(output, split=None, overwrite=overwrite)
    return output


def _read(
    inputs: list[str],
    target: str,
    encoding: str | None,
    delimiter: str | None,
    rejects: Path | None,
    memory_limit: str | None,
    temp_dir: Path | None,
) -> pl.DataFrame:
    from prefmill.pools.frames import frame_of

    memory_bytes = size_in_bytes(memory_limit)
    reading = {
        "encoding": encoding,
        "delimiter": delimiter,
        "rejects": rejects,
        "memory_bytes": memory_bytes,
    }
    without = [] if target == "-" else [target]
    return (
        frame_of(inputs, "values", temp_dir=temp_dir, tell=_note, without=without, **reading)
        .lazy()
        .collect()
    )


def _note(note: str) -> None:
    typer.echo(f"note: {note}", err=True)


def _write(
    frame: pl.DataFrame, target: str, *, overwrite: bool, allow_empty: bool, quiet: bool, what: str
) -> None:
    from prefmill.writers import write as writers

    if not frame.height and not allow_empty:
        typer.echo(
            f"prefmill: no {what} came out, and nothing was written (--allow-empty writes it).\nHint: the input has no rows that give one.",
            err=True,
        )
        raise typer.Exit(1)
    with stdout_or(target) as path:
        writers.write([frame], frame.schema, path, format="pool", overwrite=overwrite)
    if not quiet:
        typer.echo(
            f"{frame.height:,} {what}{'' if target == '-' else f'; wrote {target}'}", err=True
        )
