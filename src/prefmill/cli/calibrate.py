"""`prefmill calibrate`: options to `prefmill.calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefmill.cli.app import command
from prefmill.cli.options import EngineReading, Inputs, Writing, finish, option, output_of


class _Files(Inputs):
    output: Annotated[
        str | None, option("--output", "-o", metavar="FILE", help="The calibration: .json.")
    ] = None


class _Scores(_Files):
    score_column: Annotated[
        str, option(metavar="NAME", help="Of chosen_NAME and rejected_NAME.")
    ] = "score"
    prompt: Annotated[
        str | None, option(help="The column of prompts.  [default: prompt, where there is one]")
    ] = None
    plot: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="Draw chances against wins: .png or .svg, the numbers beside it as .csv.",
        ),
    ] = None


class CalibrateOptions(_Scores, EngineReading, Writing):
    """The options of `prefmill calibrate`."""


@command
def calibrate(options: CalibrateOptions) -> None:
    """Say how likely an answer wins whose score is so much higher, from pairs that a scorer scored,
    and write it for --calibration of score.

    \b
    prefmill score labelled.jsonl -o scored.parquet --model one
    prefmill calibrate scored.parquet -o one.json --plot reliability.png
    prefmill score pool.parquet -o out.parquet --model one --calibration one.json
    """
    reading = options.reading()
    output = output_of(options, "calibrate", "-o calibration.json")
    from prefmill.cli import show
    from prefmill.cli.tables import calibrated
    from prefmill.runs.calibrate import calibrate as run

    plot, overwrite = options.plot, options.overwrite
    if plot is not None:
        from prefmill.plots import check_plot

        check_plot(plot, overwrite=overwrite)
        reading["without"] = [str(plot.with_suffix(".csv"))]
    with show.progress(quiet=options.quiet) as tell:
        report = run(
            options.inputs,
            output,
            progress=tell,
            **options.picked("score_column", "prompt", "overwrite"),
            **reading,
        )
    if plot is not None and report.reliability:
        _draw(report.reliability, plot, overwrite=overwrite)
    finish(report, options, calibrated)


def _draw(rows: Any, plot: Path, *, overwrite: bool) -> None:
    import polars as pl

    from prefmill.plots import plot_lines

    frame = pl.DataFrame(rows)
    ends = {"chance": ["as it should be"] * 2, "predicted": [0.5, 1.0], "won": [0.5, 1.0]}
    plot_lines(
        pl.concat([frame, pl.DataFrame(ends)], how="diagonal"),
        plot,
        x="predicted",
        y="won",
        series="chance",
        low="low",
        high="high",
        x_label="chance of the answer with the better score",
        y_label="share that won",
        overwrite=overwrite,
    )
