"""`prefmill curve`: options to `prefmill.curve`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefmill.cli.app import command
from prefmill.cli.options import (
    Inputs,
    Isolating,
    OnCluster,
    Sheets,
    Words,
    Writing,
    option,
    refuse_two_on_stdout,
)
from prefmill.cli.texts import print_json, roles_given, stdout_or
from prefmill.errors import BadArgument, BadInput

if TYPE_CHECKING:
    from prefmill.runs.looks.curve import Curve
    from prefmill.runs.records.recording import Recording

_SETTINGS = ("by", "check", "conclusion", "k", "resamples", "level", "seed")


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


class CurveOptions(_Drawing, Words, OnCluster, Isolating, Writing, Sheets):  # type: ignore[misc]
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
    from prefmill.cli import tables
    from prefmill.runs.looks.curve import Curve

    if options.spreadsheet_safe:
        _refuse_unsafe(options.output, options.plot)

    with _records(options) as (reading, records):
        if records and all(record.done for record in records.values()):
            done = next(iter(records.values()))
            curves = done.restored_by(Curve.of_json)
        else:
            curves = _drawn(options, reading)
        notes = _write(curves, options, records) if curves.points.height else []
    if options.as_json:
        print_json(curves.as_json())
    if not options.quiet:
        tables.curve(curves)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if not curves.points.height:
        raise BadInput(
            "curve: no row has a usable score.",
            hint="prefmill check says which rows cannot be used.",
        )


@contextmanager
def _records(options: CurveOptions) -> Iterator[tuple[dict[str, Any], dict[str, Recording]]]:
    """How inputs are read, and the records of the points and of the plot, as far as one is kept.

    The plot writes its numbers next to it: the same file is not written twice.
    """
    from prefmill.disk.hidden import sweep
    from prefmill.runs.records.commands import recorded, recorded_files

    output, plot = options.output, options.plot
    words = roles_given(options)
    reading: Any = options.reading()
    asked: dict[str, Any] = {"settings": options.picked(*_SETTINGS), "words": words}
    asked["overwrite"] = options.overwrite
    sweep(options.temp_dir)  # also where the target is refused
    written: list[str] = []
    if plot is not None:
        from prefmill.plots import check_plot, files_of

        check_plot(plot, overwrite=True)
        written += map(str, files_of(plot))
    if output in written:
        output = None
    elif output not in (None, "-"):
        written.append(str(output))
    records: dict[str, Recording] = {}
    with ExitStack() as stack:
        reading["without"] = written
        if output not in (None, "-"):
            safe = options.spreadsheet_safe
            made = recorded(
                "curve", options.inputs, output, reading, spreadsheet_safe=safe, **asked
            )
            records["points"] = stack.enter_context(made)
        if plot is not None:
            files = files_of(plot)
            made = recorded_files("curve", options.inputs, files, reading, plot=True, **asked)
            records["plot"] = stack.enter_context(made)
        yield reading, records


def _drawn(options: CurveOptions, reading: dict[str, Any]) -> Curve:
    from prefmill.runs.looks.curve import curve

    where = options.picked("engine", "address", "work", "shuffle")
    roles = roles_given(options)
    settings = options.picked(*_SETTINGS)
    made: Curve = options.called(curve, options.inputs, roles=roles, **settings, **where, **reading)
    return made


def _write(curves: Curve, options: CurveOptions, records: dict[str, Recording]) -> list[str]:
    """Write what is wanted and does not stand yet; what there is to say of it."""
    from prefmill.writers import write as writers

    points, told, overwrite = curves.points, curves.as_json(), options.overwrite
    layout: Any = {"format": "pool", "overwrite": overwrite}
    notes: list[str] = []
    if options.output == "-":
        with stdout_or("-") as target:
            writers.write([points], points.schema, target, **layout)
    if (record := records.get("points")) and not record.done:
        layout["spreadsheet_safe"] = options.spreadsheet_safe
        publish = partial(record.publish_staged, report=told)
        output = str(options.output)
        written = writers.write([points], points.schema, output, publish=publish, **layout)
        notes += written.notes
    if (record := records.get("plot")) and options.plot and not record.done:
        from prefmill.plots import plot_curve

        publish = partial(record.publish_files, report=told)
        plot_curve(curves, options.plot, publish=publish, overwrite=overwrite)
    return notes


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
