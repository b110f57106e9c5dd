"""`prefmill diff` and `prefmill why`: options to `prefmill.diff` and `prefmill.why`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer

from prefmill.cli.app import Options, command
from prefmill.cli.options import (
    MemoryLimit,
    Overwrite,
    Telling,
    TempDir,
    TempLimit,
    Threads,
    option,
    refuse_two_on_stdout,
)
from prefmill.cli.texts import print_json, size_in_bytes, stdout_or, temp_bytes_in


class _Room(Telling):
    """What playing runs again may take."""

    memory_limit: MemoryLimit = None
    threads: Threads = None
    temp_dir: TempDir = None
    temp_limit: TempLimit = None


def _reading(options: _Room) -> dict[str, Any]:
    limit = options.temp_limit
    return {
        "memory_bytes": size_in_bytes(options.memory_limit),
        "threads": options.threads,
        "temp_dir": options.temp_dir,
        "temp_bytes": None if limit is None else temp_bytes_in(limit),
    }


class _Runs(Options):
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="An output with its record next to it.")]
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="The output that is compared with it.")]
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            help="A file for the differences, a row each: pair_id, kind, cause, details."
            " - is JSONL on stdout.",
        ),
    ] = None
    overwrite: Overwrite = False


class DiffOptions(_Runs, _Room):
    """The options of `prefmill diff`."""


@command
def diff(options: DiffOptions) -> None:
    """Compare two outputs of pairs, unpair, best or advantages: which rows appeared, vanished or
    flipped, each with its one cause: rows that came or left, scores, the plan, thresholds, the
    draw.

    The inputs of both runs are read again, and have to be what they were.

    \b
    prefmill diff monday.parquet tuesday.parquet
    prefmill diff monday.parquet tuesday.parquet -o differences.csv
    """
    from prefmill.cli import show
    from prefmill.runs.causes.diff import diff as compare

    refuse_two_on_stdout(options)
    place = nullcontext() if options.output is None else stdout_or(options.output)
    with place as target, show.progress(quiet=options.quiet) as tell:
        report = compare(
            options.a,
            options.b,
            target,
            overwrite=options.overwrite,
            progress=tell,
            **_reading(options),
        )
    _say(report, options)


class _Which(Options):
    pair_id: Annotated[str, typer.Argument(metavar="PAIR_ID", help="The id of a row of output.")]
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The output, with its record next to it.")
    ]


class WhyOptions(_Which, _Room):
    """The options of `prefmill why`."""


@command
def why(options: WhyOptions) -> None:
    """Say why a row of output is there: the file and the row of each answer, the scores that were
    read, the rule, the thresholds, the draw, and what became of the prompt's other rows.

    \b
    prefmill why 07c0564ba49a3fbf9731df2a9827b2c1 pairs.parquet
    """
    from prefmill.cli import show
    from prefmill.runs.causes.why import why as explain

    with show.progress(quiet=options.quiet) as tell:
        report = explain(
            options.pair_id,
            options.run,
            progress=tell,
            **_reading(options),
        )
    _say(report, options)


def _say(report: object, options: Telling) -> None:
    from prefmill.cli import show

    if options.as_json:
        print_json(report.as_json())  # type: ignore[attr-defined]
    if options.quiet:
        return
    for line in str(report).splitlines():
        show.line(line)
