"""`prefmill calibrate`: options to `prefmill.calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefmill.cli.app import command
from prefmill.cli.options import Inputs, Isolating, Writing, finish, option, output_of

if TYPE_CHECKING:
    from prefmill.runs.looks.calibrate import CalibrateReport
    from prefmill.runs.records.recording import Recording


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


class CalibrateOptions(_Scores, Isolating, Writing):
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
    from prefmill.runs.looks.calibrate import calibrate as run

    with _plot_record(options, output, reading) as plotted:
        with show.progress(quiet=options.quiet) as tell:
            report = options.called(
                run,
                options.inputs,
                output,
                progress=tell,
                **options.picked("score_column", "prompt", "overwrite"),
                **reading,
            )
        if options.plot is not None and report.reliability and not plotted.done:
            _draw(report, options.plot, plotted, overwrite=options.overwrite)
    finish(report, options, calibrated)


@contextmanager
def _plot_record(options: CalibrateOptions, output: str, reading: Any) -> Iterator[Recording]:
    """The record of the plot, which has its own; of none where none is wanted."""
    from prefmill.runs.records.commands import recorded_files

    files: list[Path] = []
    reading["without"] = [output]
    if options.plot is not None:
        from prefmill.plots import check_plot, files_of

        check_plot(options.plot, overwrite=True)
        files = files_of(options.plot)
    asked = options.picked("score_column", "prompt", "overwrite")
    with recorded_files("calibrate", options.inputs, files, reading, plot=True, **asked) as record:
        yield record


def _draw(report: CalibrateReport, plot: Path, record: Recording, *, overwrite: bool) -> None:
    import polars as pl

    from prefmill.plots import plot_lines

    frame = pl.DataFrame(report.reliability)
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
        publish=partial(record.publish_files, report=report.as_json()),
    )
