"""`prefmill curve`: options to `prefmill.curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefmill.cli.app import command
from prefmill.cli.options import (
    EngineReading,
    Inputs,
    OnCluster,
    Words,
    Writing,
    option,
    refuse_two_on_stdout,
)
from prefmill.cli.texts import print_json, roles_given, stdout_or
from prefmill.errors import BadInput


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


class CurveOptions(_Drawing, Words, OnCluster, EngineReading, Writing):  # type: ignore[misc]
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
    from prefmill.cli import tables
    from prefmill.disk.hidden import sweep
    from prefmill.runs.curve import curve as draw
    from prefmill.writers import write as writers

    sweep(options.temp_dir)  # also where the target is refused
    written = []
    if plot is not None:
        from prefmill.plots import check_plot, plot_curve

        check_plot(plot, overwrite=overwrite)
        written += [str(plot), str(plot.with_suffix(".csv"))]
    if output is not None and output != "-":
        writers.check_target(output, split=None, overwrite=overwrite)
        written.append(output)
    settings = options.picked("by", "check", "conclusion", "k", "resamples", "level", "seed")
    settings |= options.picked("engine", "address", "work", "shuffle")
    curves = draw(
        options.inputs, without=written, roles=roles_given(options), **settings, **reading
    )
    points = curves.points
    # The plot writes its numbers next to it: the same file is not written twice.
    drawn_too = plot is not None and output == str(plot.with_suffix(".csv"))
    if output is not None and points.height and not drawn_too:
        with stdout_or(output) as target:
            writers.write([points], points.schema, target, format="pool", overwrite=overwrite)
    if plot is not None and points.height:
        plot_curve(curves, plot, overwrite=overwrite)
    if options.as_json:
        print_json(curves.as_json())
    if not options.quiet:
        tables.curve(curves)
    if not points.height:
        raise BadInput(
            "curve: no row has a usable score.",
            hint="prefmill check says which rows cannot be used.",
        )
