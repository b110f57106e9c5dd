"""`prefmill curve`: options to `prefmill.curve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.options import (
    AsJson,
    Completion,
    Delimiter,
    Encoding,
    Group,
    Inputs,
    MemoryLimit,
    Overwrite,
    Prompt,
    Quiet,
    Rejects,
    Score,
    Seed,
    TempDir,
    Threads,
    print_json,
    roles_given,
    size_in_bytes,
    stdout_or,
)
from prefmill.errors import BadArgument, BadInput


def curve(  # one option a line: this is the manual
    inputs: Inputs,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write the points there: .csv .parquet .jsonl ..."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COL", help="A curve for every value of this column, say temperature."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the curves: .png or .svg, the numbers beside it as .csv."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "--k", "-k", help="Largest n.  [default: scores of the largest prompt, at most 128]"
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Of the bootstrap over prompts; 0: no intervals.")
    ] = 1000,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Seed = None,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    group: Group = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Say what the best of n is worth on a scored pool, for n = 1 to K, beside the median, the mean
    and the KL that it costs.

    \b
    prefmill curve scored.parquet
    prefmill curve scored.parquet --by temperature --plot curve.png
    """
    options = locals()
    if threads:
        os.environ.setdefault(
            "POLARS_MAX_THREADS", str(threads)
        )  # read once, when Polars is imported
    if output == "-" and as_json:
        raise BadArgument("-o - and --json both want stdout.", hint="give -o a file.")
    from prefmill.cli import show
    from prefmill.disk.hidden import sweep
    from prefmill.runs.curve import curve as draw
    from prefmill.writers import write as writers

    sweep(temp_dir)  # also where the target is refused
    if plot is not None:
        from prefmill.plots import check_plot, plot_curve

        check_plot(plot, overwrite=overwrite)
    if output is not None and output != "-":
        writers.check_target(output, split=None, overwrite=overwrite)
    written = [] if output is None or output == "-" else [output]
    written += [] if plot is None else [str(plot), str(plot.with_suffix(".csv"))]
    found = draw(
        inputs,
        without=written,
        by=by,
        k=k,
        resamples=resamples,
        level=level,
        seed=seed or 0,
        roles=roles_given(options),
        encoding=encoding,
        delimiter=delimiter,
        rejects=rejects,
        memory_bytes=size_in_bytes(memory_limit),
        threads=threads,
        temp_dir=temp_dir,
    )
    if (
        output is not None
        and found.points.height
        and not (plot is not None and Path(output) == plot.with_suffix(".csv"))
    ):
        with stdout_or(output) as target:
            writers.write(
                [found.points], found.points.schema, target, format="pool", overwrite=overwrite
            )
    if plot is not None and found.points.height:
        plot_curve(found, plot, overwrite=overwrite)
    if as_json:
        print_json(found.as_json())
    if not quiet:
        show.curve(found)
    if not found.points.height:
        raise BadInput(
            "curve: no row has a usable score.",
            hint="prefmill check says which rows cannot be used.",
        )
