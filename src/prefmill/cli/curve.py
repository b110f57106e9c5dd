"""`prefmill curve`: options to `prefmill.curve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from prefmill.cli.app import command
from prefmill.cli.options import (
    EngineReading,
    Inputs,
    OnCluster,
    Sheets,
    Words,
    Writing,
    option,
    refuse_two_on_stdout,
)
from prefmill.cli.texts import print_json, roles_given, stdout_or
from prefmill.errors import BadArgument, BadInput


class _Drawing(Inputs):
    output: Annotated[
        str | None,
        option("--output", "-o", help="Write the points there: .csv .parquet .jsonl ..."),
    ] = None
    by: Annotated[
        str | None,
        option(metavar="COL", help="A curve for every value of this column, say temperature."),
    ] = None
    check: Annotated[
        str | None,
        option(
            metavar="COL",
            help="Which answers are right (1 or 0): also pass@n, and what the best score picks.",
        ),
    ] = None
    conclusion: Annotated[
        str | None,
        option(
            metavar="COL", help="With --check, the answer that a completion comes to: majority."
        ),
    ] = None
    plot: Annotated[
        Path | None,
        option(
            metavar="FILE", help="Draw the curves: .png or .svg, the numbers beside it as .csv."
        ),
    ] = None
    k: Annotated[
        int | None,
        option(
            "--k", "-k", help="Largest n.  [default: scores of the largest prompt, at most 128]"
        ),
    ] = None
    resamples: Annotated[int, option(help="Of the bootstrap over prompts; 0: no intervals.")] = 1000
    level: Annotated[float, option(help="Of the intervals.")] = 0.95
    seed: Annotated[int, option(help="Of everything drawn.")] = 0


class CurveOptions(_Drawing, Words, OnCluster, EngineReading, Writing, Sheets):  # type: ignore[misc]
    """The options of `prefmill curve`."""


@command
def curve(options: CurveOptions) -> None:
    """Say what the best of n is worth on a scored pool, for n = 1 to K, beside the median, the mean
    and the KL that it costs.

    \b
    prefmill curve scored.parquet
    prefmill curve scored.parquet --by temperature --plot curve.png
    prefmill curve checked.parquet --check correct --conclusion answer
    """
    refuse_two_on_stdout(options)
    reading = options.reading()
    output, plot, overwrite = options.output, options.plot, options.overwrite
    safe = options.spreadsheet_safe
    from prefmill.cli import tables
    from prefmill.disk.hidden import sweep
    from prefmill.runs.curve import curve as draw
    from prefmill.writers import write as writers

    if safe:
        _refuse_unsafe(output, plot)
    sweep(options.temp_dir)  # also where the target is refused
    written = []
    if plot is not None:
        from prefmill.plots import check_plot, plot_curve

        check_plot(plot, overwrite=overwrite)
        written += [str(plot), str(plot.with_suffix(".csv"))]
    if output is not None and output != "-":
        writers.check_target(output, overwrite=overwrite, spreadsheet_safe=safe)
        written.append(output)
    settings = options.picked("by", "check", "conclusion", "k", "resamples", "level", "seed")
    settings |= options.picked("engine", "address", "work", "shuffle")
    curves = draw(
        options.inputs, without=written, roles=roles_given(options), **settings, **reading
    )
    points = curves.points
    # The plot writes its numbers next to it: the same file is not written twice.
    drawn_too = plot is not None and output == str(plot.with_suffix(".csv"))
    done = None
    if output is not None and points.height and not drawn_too:
        with stdout_or(output) as target:
            done = writers.write(
                [points],
                points.schema,
                target,
                format="pool",
                overwrite=overwrite,
                spreadsheet_safe=safe,
            )
    if plot is not None and points.height:
        plot_curve(curves, plot, overwrite=overwrite)
    if options.as_json:
        print_json(curves.as_json())
    if not options.quiet:
        tables.curve(curves)
        for note in done.notes if done else ():
            print(f"note: {note}", file=sys.stderr)
    if not points.height:
        raise BadInput(
            "curve: no row has a usable score.",
            hint="prefmill check says which rows cannot be used.",
        )


def _refuse_unsafe(output: str | None, plot: Path | None) -> None:
    """Raise `BadArgument` where nothing would be safe that is written."""
    if output in (None, "-"):
        raise BadArgument(
            "curve: --spreadsheet-safe is of CSV; got no file for the points.",
            hint="-o points.csv.",
        )
    if plot is not None and output == str(plot.with_suffix(".csv")):
        raise BadArgument(
            f"curve: --plot writes its numbers to {output!r} as they are.",
            hint="give -o another name.",
        )
