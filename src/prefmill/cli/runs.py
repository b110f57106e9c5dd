"""The command `prefmill runs`: records of what was written, compared and cleaned."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prefmill.cli.app import Options, command
from prefmill.cli.options import AsJson, option
from prefmill.cli.texts import print_json
from prefmill.errors import BadArgument

_WORDS = ("verify", "show", "clean")


class RunsOptions(Options):
    """The options of `prefmill runs`."""

    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[verify|show|clean] [PLACE...]",
            help="Folders, for verify and show outputs.  [default: this folder]",
        ),
    ] = None
    dry_run: Annotated[
        bool, option("--dry-run", help="Of clean: tell what would go; remove nothing.")
    ] = False
    as_json: AsJson = False


@command
def runs(options: RunsOptions) -> None:
    """List what was written below a folder: each output, whether it stands as its run left it, the
    command, rows, time, and the run's key.

    verify compares outputs with their records, byte for byte, and exits 1 where they differ. show
    prints a record. clean removes what dead runs left.

    \b
    prefmill runs data/
    prefmill runs verify data/pairs.parquet
    prefmill runs clean data/ --dry-run
    """
    words = list(options.words or [])
    what = words.pop(0) if words and words[0] in _WORDS else "list"
    if options.dry_run and what != "clean":
        raise BadArgument("runs: --dry-run has no meaning without clean.", hint="leave it out.")
    if what in ("verify", "show") and not words:
        raise BadArgument(f"runs {what}: no output named.", hint=f"prefmill runs {what} OUTPUT.")
    {"list": _list, "verify": _verify, "show": _show, "clean": _clean}[what](words, options)


def _say(text: str) -> None:
    typer.echo("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def _list(places: list[str], options: RunsOptions) -> None:
    from prefmill.runs.records.kept import found_in

    told = [found.as_json() for place in places or ["."] for found in found_in(place)]
    if options.as_json:
        print_json(told)
        return
    rows = [("OUTPUT", "STATE", "COMMAND", "ROWS", "ENDED", "RUN KEY"), *map(_row, told)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if told else ():
        _say(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    rows, ended = told["rows"], told["ended"] or ""
    count = "" if rows is None else f"{rows:,}"
    key = (told["run_key"] or "")[:12]
    return told["output"], told["state"], told["command"] or "", count, ended[:19], key


def _verify(outputs: list[str], options: RunsOptions) -> None:
    from prefmill.runs.records.kept import verify

    told = {output: verify(output) for output in outputs}
    if options.as_json:
        print_json(told)
    else:
        for output, problems in told.items():
            _say(f"{output}: {'as recorded' if not problems else f'{len(problems)} differ'}")
            for problem in problems:
                _say(f"  {problem}")
    if any(told.values()):
        raise typer.Exit(1)


def _show(outputs: list[str], options: RunsOptions) -> None:
    import json

    from prefmill.runs.records.kept import record_named

    for output in outputs:
        document, _ = record_named(output)
        if options.as_json:
            print_json(document)
        else:
            typer.echo(json.dumps(document, indent=1))


def _clean(places: list[str], options: RunsOptions) -> None:
    from prefmill.runs.records.kept import clean

    gone = [path for place in places or ["."] for path in clean(place, dry_run=options.dry_run)]
    if options.as_json:
        print_json(gone)
        return
    for path in gone:
        _say(f"{'would remove' if options.dry_run else 'removed'} {path}")
