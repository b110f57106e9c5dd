"""The command `prefmill sql`: options to `shell.py`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prefmill.cli.options import (
    Delimiter,
    Encoding,
    MemoryLimit,
    Overwrite,
    TempDir,
    Threads,
    size_in_bytes,
)
from prefmill.errors import BadArgument


def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY",
            help="SQL; several statements with ; between. Without it: a shell, or SQL on stdin.",
        ),
    ] = None,
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
    overwrite: Overwrite = False,
) -> None:
    """Ask a pool questions in SQL (DuckDB's), with best_of, pool_stats, win_rates and the other
    macros of sql/.

    \b
    prefmill sql "FROM best_of('scored.parquet', k := 1) LIMIT 5"
    prefmill sql "FROM win_rates(pool, baseline := 'm1')" pool=scored.parquet
    prefmill sql "FROM preference_pairs(feedback)" feedback.csv -o pairs.parquet
    prefmill sql pool=scored.parquet
    """
    from prefmill.runs import query as shell

    names = list(files or [])
    if query is not None and shell.looks_like_file(query):
        names, query = [query, *names], None
    if output == "-":
        output, as_json = None, True
    if output and as_json:
        raise BadArgument(
            "sql: -o and --json are two places for the same rows.",
            hint="leave one out; -o rows.jsonl writes JSON to a file.",
        )
    with shell.session(
        names,
        encoding=encoding,
        delimiter=delimiter,
        memory_bytes=size_in_bytes(memory_limit),
        threads=threads,
        temp_dir=temp_dir,
        outputs=[output] if output else [],
    ) as con:
        if output:
            if query is None and sys.stdin.isatty():
                raise BadArgument(
                    "sql: -o needs a query.",
                    hint='prefmill sql "FROM best_of(pool)" pool=scored.parquet -o best.parquet',
                )
            rows = shell.write(
                con, sys.stdin.read() if query is None else query, output, overwrite=overwrite
            )
            print(f"wrote {output} ({rows:,} rows)", file=sys.stderr)
        elif query is not None:
            shell.run(con, query, as_json=as_json)
        else:
            shell.interact(con, as_json=as_json)
