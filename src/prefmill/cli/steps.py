"""`prefmill steps`: labels of the steps of rollouts in a tree, or of records with ratings."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from prefmill.cli.app import Options, command
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
from prefmill.cli.texts import stdout_or
from prefmill.errors import BadArgument


class _Files(Inputs, Target):
    """The input and the target."""


class _Records(Options):
    prompt: Annotated[
        str | None, option(help="Path of the prompt; several are joined by a blank line.")
    ] = None
    steps: Annotated[str | None, option(help="Path of the steps: a list of text, or one text.")] = (
        None
    )
    rating: Annotated[str | None, option(help="Path of their ratings, side by side.")] = None
    first_error: Annotated[
        str | None, option(help="Path of the place of the first step that is wrong.")
    ] = None
    first_index: Annotated[
        int | None, option(min=0, max=1, help="Whether --first-error counts from 0 or from 1.")
    ] = None
    no_error: Annotated[
        list[str] | None,
        option(
            metavar="VALUE",
            help="What --first-error says if no step is wrong, next to -1 and N/A; null for a"
            " null. May be given again.",
        ),
    ] = None
    values: Annotated[
        str | None, option(metavar="WORD=NUMBER,...", help="What ratings mean: 1=1,0=1,-1=0.")
    ] = None
    after_error: Annotated[
        str | None,
        option(
            metavar="keep|drop|false",
            help="Steps after the first that is wrong.  [default: drop; with --rating keep]",
        ),
    ] = None
    step_separator: Annotated[
        str | None, option(metavar="TEXT", help="Between the steps of one text.")
    ] = None
    steps_from: Annotated[
        str | None,
        option(metavar="TEXT", help="How the first step begins; before it is the prompt."),
    ] = None
    chosen: Annotated[
        str | None, option(help="Path of the candidate that leads on, from 0, for each step.")
    ] = None
    written: Annotated[
        str | None, option(help="Path of the step that a person wrote where none was chosen.")
    ] = None


class _Tree(Options):
    id: Annotated[str | None, option(help="Of a step of a tree.  [default: id]")] = None
    parent_id: Annotated[
        str | None, option(help="Of what it follows; null for a root.  [default: parent_id]")
    ] = None
    text: Annotated[str | None, option(help="Of the text.  [default: text]")] = None
    success: Annotated[str | None, option(help="Of a leaf's success.  [default: success]")] = None
    success_min: Annotated[
        float | None, option(help="A leaf's success is at least this (true is 1).  [default: 1]")
    ] = None
    labels: Annotated[
        str | None, option(help="soft: a share of successes; hard: one success.  [default: soft]")
    ] = None


class StepsOptions(_Files, _Records, _Tree, EngineReading, Writing, Empty):
    """The options of `prefmill steps`."""

    threshold: Annotated[
        float | None,
        option(help="A rating of at least this is true; in a tree of the share.  [tree: 0.5]"),
    ] = None


_RECORDS = tuple(parameter.name for parameter in _Records.parameters())
_TREE = tuple(parameter.name for parameter in _Tree.parameters())


@command
def steps(options: StepsOptions) -> None:
    """Label steps for a process reward model: prompt, completions, labels (TRL's stepwise rows).

    Of records with a list of steps and their ratings, or the place of the first error; or of a tree
    of rollouts, by how often they end in success (with --parent-id, or a column parent_id).

    \b
    prefmill steps solutions.jsonl -o steps.jsonl --steps steps --rating ratings
    prefmill steps solutions.jsonl -o steps.jsonl --first-error label --first-index 0
    prefmill steps rollouts.jsonl -o steps.jsonl --parent-id parent --success correct
    """
    reading: Any = options.reading()
    from prefmill.cli import show
    from prefmill.runs.steps import Run
    from prefmill.table.step_words import StepWords

    output = output_of(options, "steps", "-o steps.jsonl, or -o - for JSON Lines on stdout.")
    words, tree = _given(options, _RECORDS), _given(options, _TREE)
    if words and tree:
        raise BadArgument(
            f"steps: {_option(next(iter(words)))} is of records, and {_option(next(iter(tree)))}"
            " of a tree of rollouts; got both.",
            hint="leave one of them out.",
        )
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        run = Run(StepWords(threshold=options.threshold, **words), tree or None, tell)
        report = run.to(target, options.inputs, options.overwrite, options.allow_empty, reading)
    finish(report, options, show.stepped)
    if not report.rows_out and not options.allow_empty:
        _refuse_nothing()


def _given(options: StepsOptions, names: Any) -> dict[str, Any]:
    picked = options.picked(*names)
    return {name: value for name, value in picked.items() if value not in (None, [])}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_nothing() -> None:
    message = "no rows came out, and nothing was written (--allow-empty writes it)"
    hint = "the input has no rows that give one."
    print(f"prefmill: {message}.\nHint: {hint}", file=sys.stderr)
    raise typer.Exit(1)
