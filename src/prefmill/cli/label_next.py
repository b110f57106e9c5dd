"""`prefmill next`: options to `prefmill.label_next`."""

from __future__ import annotations

from typing import Annotated, Any

from prefmill.cli.app import add_command
from prefmill.cli.options import (
    EngineReading,
    Inputs,
    Target,
    Words,
    Writing,
    finish,
    option,
    output_of,
    quiet_threads,
)
from prefmill.cli.texts import roles_given, stdout_or
from prefmill.cli.worth import Encoding, Seeded


class _Files(Inputs, Target):
    """The pool and the target."""


class _Choosing(_Files):
    n: Annotated[int, option("-n", min=1, help="How many pairs.")] = 500
    labelled: Annotated[
        list[str] | None,
        option(metavar="FILE", help="Pairs that have labels already; may be given again."),
    ] = None
    most: Annotated[
        int, option(min=2, help="Answers that are looked at; of more, prompts are drawn.")
    ] = 6000


class NextOptions(_Choosing, Words, Encoding, Seeded, EngineReading, Writing):  # type: ignore[misc]
    """The options of `prefmill next`."""


def label_next(options: NextOptions) -> None:
    """Choose which pairs of a pool to label next: spread over answers, and those that labels so far
    leave open.

    Fill in the column winner (a, b or tie), and every command reads the file.

    \b
    prefmill next pool.parquet -n 500 -o to_label.jsonl
    prefmill next pool.parquet -n 500 -o more.jsonl --labelled labelled.jsonl
    """
    output = output_of(options, "next", "to_label.jsonl, or -o - for JSON Lines on stdout.")
    quiet_threads()
    reading: dict[str, Any] = options.reading()
    from prefmill.cli import show
    from prefmill.proxies.label_next import label_next as choose

    settings = ("n", "most", "model", "revision", "trust_remote_code", "max_tokens", "device")
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = choose(
            options.inputs,
            target,
            labelled=options.labelled,
            roles=roles_given(options),
            progress=tell,
            **options.picked(*settings, "seed", "overwrite"),
            **reading,
        )
    finish(report, options, show.chosen)


add_command("next", label_next.__doc__ or "", NextOptions.parameters(), NextOptions, label_next)
