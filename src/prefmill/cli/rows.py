"""`prefmill rows`: options to `prefmill.rows`."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter
from typing import Annotated

import typer

from prefmill.cli.app import Options, add_command
from prefmill.cli.options import (
    Empty,
    Inputs,
    Isolating,
    Sheets,
    Target,
    Writing,
    finish,
    option,
    output_of,
    role_option,
)
from prefmill.cli.texts import names_in, roles_given, stdout_or
from prefmill.errors import BadArgument
from prefmill.shapes.words import WORDS, Rows


class _Sql(Options):
    keep: Annotated[
        str | None,
        option(metavar="COL,...", help="Columns to carry along.  [default: all others]"),
    ] = None
    as_sql: Annotated[
        bool, option("--sql", help="Print the SELECT that makes the rows; write nothing.")
    ] = False


class RowsOptions(Inputs, Target, _Sql, Isolating, Writing, Empty, Sheets):
    """The options of `prefmill rows`, without the words of `[rows]`."""


USAGE = """\
Make rows of raw records: prompt, completion, score, for whatever reads rows. All commands
take the same words, so this is for a look, or for another tool.

\b
prefmill rows judged.jsonl -o rows.parquet --completion answer_a,answer_b --winner verdict
prefmill rows lists.jsonl -o rows.parquet --each responses,scores
prefmill rows lists.jsonl --each responses,scores --sql
"""


def _parameters() -> Iterator[Parameter]:
    own = {each.name: each for each in RowsOptions.parameters()}
    yield from (own.pop(name) for name in ("inputs", "output"))
    for word in WORDS:
        yield Parameter(word, Parameter.KEYWORD_ONLY, default=None, annotation=role_option(word))
    yield from own.values()


def _rows(options: RowsOptions) -> None:
    from prefmill.cli import show
    from prefmill.runs.rows import rows, select

    words = roles_given(options)
    if options.as_sql:
        if options.output:
            raise BadArgument(
                "rows: --sql writes nothing; got -o next to it.", hint="leave -o out."
            )
        text = options.called(select, options.inputs, Rows(**words), **options.reading())
        typer.echo(text)
        return
    output = output_of(options, "rows", "-o rows.parquet, or -o - for JSON Lines on stdout.")
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = options.called(
            rows,
            options.inputs,
            target,
            words=words,
            keep=names_in(options.keep) if options.keep is not None else None,
            progress=tell,
            **options.picked("overwrite", "allow_empty", "spreadsheet_safe"),
            **options.reading(),
        )
    finish(report, options, show.rows)


add_command("rows", USAGE, _parameters(), RowsOptions, _rows)
