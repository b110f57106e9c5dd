"""The options of `prefmill score --scorer verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefmill.cli.app import Options
from prefmill.cli.options import option


class Checks(Options):
    """What is asked of a completion."""

    check: Annotated[
        str | None,
        option(
            help="Of verify: exact, number, math, regex, json-schema, tests or command.  "
            "[default: exact]"
        ),
    ] = None
    answer: Annotated[
        str | None,
        option(metavar="COLUMN", help="What is right.  [default: answer]"),
    ] = None
    extract: Annotated[
        str | None,
        option(
            metavar="HOW",
            help="Where the answer stands: boxed, hash (after ####), phrase (after 'answer is'), "
            "last-number, whole, tag:NAME, regex:PATTERN.  [default: auto]",
        ),
    ] = None
    ignore_case: Annotated[bool, option("--ignore-case", help="Of exact and regex.")] = False
    pattern: Annotated[
        str | None,
        option(metavar="REGEX", help="Of regex, for all rows.  [default: that of --answer]"),
    ] = None
    match: Annotated[str | None, option(help="Of regex: search or full.  [default: search]")] = None
    schema: Annotated[
        Path | None,
        option(metavar="FILE", help="Of json-schema, for all rows.  [default: that of --answer]"),
    ] = None
    on_no_answer: Annotated[
        str | None, option(help="No answer in a completion: zero or null.  [default: zero]")
    ] = None


class Programs(Options):
    """How code is tested."""

    tests: Annotated[
        str | None,
        option(
            metavar="COLUMN",
            help="Of check tests: asserts, a script, or inputs with outputs.  [default: tests]",
        ),
    ] = None
    entry_point: Annotated[
        str | None,
        option(metavar="COLUMN", help="The function that a script's `check` is called with."),
    ] = None
    code: Annotated[
        str | None,
        option(
            help="fenced (the last fence of a completion, else all of it), or continued (the "
            "prompt with the completion).  [default: fenced]"
        ),
    ] = None
    command: Annotated[
        str | None,
        option(metavar="WORDS", help="Of check command: reads a row as JSON; 0 is right."),
    ] = None
    memory_mib: Annotated[
        int | None, option(min=64, help="Most memory of a program.  [default: 1024]")
    ] = None
    sandbox: Annotated[
        str | None,
        option(
            help="strict (code runs only where every lock holds) or weak (with those that do).  "
            "[default: strict]"
        ),
    ] = None
    packages: Annotated[
        bool, option("--packages", help="Code may import the packages installed here.")
    ] = False
    processes: Annotated[
        int | None, option(min=1, help="Rows checked at a time.  [default: the processors]")
    ] = None
