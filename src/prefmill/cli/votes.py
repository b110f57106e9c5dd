"""`prefmill votes`: options to `prefmill.votes`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prefmill.cli.app import Options, command
from prefmill.cli.options import (
    Empty,
    Inputs,
    Isolating,
    Sheets,
    Target,
    Words,
    Writing,
    expecting,
    finish,
    option,
    output_of,
)
from prefmill.cli.texts import names_in, roles_given, stdout_or
from prefmill.plans.bounds import VOTES
from prefmill.plans.expect import expect_in


class _Files(Inputs, Target):
    """The input and the target."""


class _Rating(_Files):
    method: Annotated[
        str,
        option(
            help="bradley-terry, davidson (ties of their own), plackett-luce (lists as a whole), "
            "elo, win-rate; or dawid-skene, mace (what annotators agree on).",
        ),
    ] = "bradley-terry"
    over: Annotated[
        str, option(help="What gets a score: the answers of a prompt, or each source.")
    ] = "prompt"
    prior: Annotated[
        float | None,
        option(
            help="Comparisons, half won, that each side has with one of strength 0."
            "  [default: 1 where a side won or lost everything, else 0]"
        ),
    ] = None
    k_factor: Annotated[
        float | None, option(help="Of elo: most points that a vote moves.  [default: 32]")
    ] = None
    resamples: Annotated[
        int | None, option(help="Of elo's intervals; 0: none.  [default: 100]")
    ] = None
    level: Annotated[float, option(help="Of the intervals.")] = 0.95
    seed: Annotated[int, option(help="Of the resamples.")] = 0
    keep: Annotated[
        str | None, option(metavar="COL,...", help="Columns that come along, of the first row.")
    ] = None


class _Expecting(Options):
    expect: Annotated[list[str] | None, expecting(VOTES)] = None


class VotesOptions(_Rating, Words, _Expecting, Isolating, Writing, Empty, Sheets):  # type: ignore[misc]
    """The options of `prefmill votes`."""


@command
def votes(options: VotesOptions) -> None:
    """Make a score of each answer (or source) from verdicts or ranks of several judges, with
    intervals; what comes out feeds every other command.

    \b
    prefmill votes battles.jsonl -o rated.parquet --completion answer_a,answer_b --winner verdict
    prefmill votes battles.jsonl -o board.csv --over source --source model_a,model_b
    prefmill votes verdicts.parquet -o rated.parquet --group record --annotator judge
    """
    output = output_of(options, "votes", "rated.parquet, or -o - for JSON Lines on stdout.")
    reading = options.reading()
    from prefmill.cli import show
    from prefmill.runs.judges.votes import votes as rate

    settings = ("method", "over", "prior", "k_factor", "resamples", "level", "seed")
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = options.called(
            rate,
            options.inputs,
            target,
            roles=roles_given(options),
            keep=names_in(options.keep),
            expect=expect_in(options.expect or (), VOTES) or None,
            progress=tell,
            **options.picked(*settings, "overwrite", "allow_empty", "spreadsheet_safe"),
            **reading,
        )
    finish(report, options, show.voted)
    if not report.rows_out and not options.allow_empty:
        message = "no row has a verdict that can be used, and nothing was written"
        hint = "prefmill check says which rows cannot be used."
        print(f"prefmill: {message}.\nHint: {hint}", file=sys.stderr)
        raise typer.Exit(1)
