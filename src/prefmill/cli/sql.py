"""The command `prefmill sql`: options to `prefmill.runs.queries.query`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from prefmill.cli.app import Command, app
from prefmill.cli.options import (
    Delimiter,
    Encoding,
    Isolate,
    MemoryLimit,
    Overwrite,
    SpreadsheetSafe,
    TempDir,
    TempLimit,
    Threads,
    called,
)
from prefmill.cli.texts import size_in_bytes, temp_bytes_in, wrote
from prefmill.errors import BadArgument
from prefmill.shown import amount


def _print_macros(asked: bool) -> None:
    if asked:
        from prefmill.engines.macros import script

        typer.echo(script(), nl=False)
        raise typer.Exit


@app.command(cls=Command)
def sql(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="SQL: a query, several statements with ; between, a .sql file, or - for stdin.",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]FILE",
            help="Files, directories or globs as views; NAME is by default the file's stem.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the rows: .parquet .jsonl .csv .tsv .arrow; - is JSONL on stdout.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print rows as JSON, one object a line.")
    ] = False,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    temp_limit: TempLimit = None,
    overwrite: Overwrite = False,
    spreadsheet_safe: SpreadsheetSafe = False,
    isolate: Isolate = False,
    allow_external: Annotated[
        bool,
        typer.Option(
            "--allow-external",
            help="Let the query open any file or URL, write with COPY, and load extensions.",
        ),
    ] = False,
    macros: Annotated[
        bool,
        typer.Option(
            "--macros",
            help="Print the macros as one script of SQL, and end.",
            is_eager=True,
            callback=_print_macros,
        ),
    ] = False,
) -> None:
    """Ask a pool questions in SQL (DuckDB's), with best_of, pool_stats, win_rates and the other
    macros. A query opens only the files that are named, after it or in it. For a shell take
    DuckDB's own: --macros prints what it has to read.

    \b
    prefmill sql "FROM best_of('scored.parquet', k := 1) LIMIT 5"
    prefmill sql "FROM win_rates(pool, baseline := 'm1')" pool=scored.parquet
    prefmill sql "FROM preference_pairs(feedback)" feedback.csv -o pairs.parquet
    prefmill sql questions.sql pool=scored.parquet
    prefmill sql --macros > prefmill.sql   # .read prefmill.sql
    """
    from prefmill.runs.queries.query import ask, statements_of

    if output == "-":
        output, as_json = None, True
    if output and as_json:
        raise BadArgument(
            "sql: -o and --json are two places for the same rows.",
            hint="leave one out; -o rows.jsonl writes JSON to a file.",
        )
    if spreadsheet_safe and output is None:
        raise BadArgument(
            "sql: --spreadsheet-safe is of CSV; got no file.", hint="-o rows.csv, or leave it out."
        )
    text = statements_of(query)
    reading: dict[str, Any] = {
        "encoding": encoding,
        "delimiter": delimiter,
        "memory_bytes": size_in_bytes(memory_limit),
        "threads": threads,
        "temp_dir": temp_dir,
        "temp_bytes": temp_bytes_in(temp_limit),
        "allow_external": allow_external,
    }
    if output is None:
        called(isolate, ask, text, files or [], as_json=as_json, **reading)
        return
    from prefmill.runs.queries.query_file import to_file

    how = {"overwrite": overwrite, "spreadsheet_safe": spreadsheet_safe}
    report = called(isolate, to_file, text, files or [], output, **how, **reading)
    print(f"{wrote(report.notes)} {output} ({amount(report.rows, 'row')})", file=sys.stderr)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
