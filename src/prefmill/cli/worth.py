"""`prefmill worth`: options to `prefmill.worth`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prefmill.cli.app import Options, command
from prefmill.cli.options import (
    EngineReading,
    Inputs,
    Pinned,
    Words,
    Writing,
    option,
    quiet_threads,
    refuse_two_on_stdout,
)
from prefmill.cli.texts import print_json, roles_given, stdout_or


class Encoding(Pinned):
    """The encoder of a proxy."""

    model: Annotated[
        str | None,
        option(metavar="DIR|HUB_ID", help="The encoder.  [default: all-MiniLM-L6-v2, extra worth]"),
    ] = None
    max_tokens: Annotated[int, option(min=8, help="What it reads of an answer, at most.")] = 128
    device: Annotated[str, option(help="auto, cpu, cuda or cuda:N.")] = "auto"


class Seeded(Options):
    """What is drawn."""

    seed: Annotated[int, option(min=0, help="Of what is drawn.")] = 0


class _Looking(Inputs):
    output: Annotated[
        Path | None,
        option(
            "--output", "-o", metavar="FILE", help="Likely mislabelled pairs, for pairs --exclude."
        ),
    ] = None
    page: Annotated[Path | None, option(metavar="FILE", help="The report as a page: .html.")] = None
    most: Annotated[int, option(min=0, help="Pairs that are read; of more, as many. 0: all.")] = (
        1000
    )
    strict: Annotated[bool, option("--strict", help="Exit code 1 where there is a warning.")] = (
        False
    )


class WorthOptions(_Looking, Words, Encoding, Seeded, EngineReading, Writing):  # type: ignore[misc]
    """The options of `prefmill worth`."""


@command
def worth(options: WorthOptions) -> None:
    """Say what pairs are worth before they cost GPU hours: what a small proxy of a reward model
    gets right, what length alone would, what more labels would buy, which sources are worst, and
    which pairs are likely mislabelled.

    A warning changes no exit code, unless --strict is given.

    \b
    prefmill worth pairs.parquet
    prefmill worth pairs.parquet -o mislabelled.parquet
    prefmill pairs pairs.parquet --exclude mislabelled.parquet -o clean.parquet
    """
    refuse_two_on_stdout(options)
    quiet_threads()
    reading: dict[str, Any] = options.reading()
    from prefmill.cli import show
    from prefmill.proxies.worth import worth as look
    from prefmill.reports.faces import page_target

    if options.page is not None:
        page_target(options.page, overwrite=options.overwrite)
    target = None if options.output is None else str(options.output)
    with stdout_or(target or "") as output, show.progress(quiet=options.quiet) as tell:
        done = look(
            options.inputs,
            output or None,
            roles=roles_given(options),
            progress=tell,
            **options.picked(
                *("most", "model", "revision", "trust_remote_code", "max_tokens", "device"),
                *("seed", "overwrite"),
            ),
            **reading,
        )
    if options.page is not None:
        done.save(options.page, overwrite=options.overwrite)
    if options.as_json:
        print_json(done.as_json())
    elif not options.quiet:
        typer.echo(str(done), err=target == "-")
    if not options.quiet and done.output and target != "-":
        print(f"wrote {done.output}", file=sys.stderr)
    if options.strict and not done.ok:
        raise typer.Exit(1)
