"""`prefmill train-reward`: options to `prefmill.train_reward`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from prefmill.cli.app import Options, add_command
from prefmill.cli.options import (
    BadRows,
    Inputs,
    Pinned,
    Words,
    Writing,
    option,
    quiet_threads,
    stoppable,
)
from prefmill.cli.texts import print_json, roles_given
from prefmill.errors import BadArgument
from prefmill.shapes.words import Rows
from prefmill.training.settings import RewardSettings


class _Start(Inputs):
    output: Annotated[
        Path | None, option("--output", "-o", metavar="DIR", help="Folder of the trained model.")
    ] = None
    model: Annotated[
        str | None,
        option(metavar="DIR|HUB_ID", help="The model to start from: an encoder or a decoder."),
    ] = None


class _Test(Options):
    test: Annotated[
        list[str] | None,
        option(metavar="FILE", help="Pairs to measure on; may be given again."),
    ] = None


class TrainOptions(_Start, Pinned, _Test, BadRows, Writing):
    """The options of `prefmill train-reward`, and the fields of `RewardSettings`."""


def _settings() -> Iterator[Parameter]:
    hints = get_type_hints(RewardSettings)
    for field in fields(RewardSettings):
        said = option(metavar=field.metadata.get("metavar"), help=field.metadata["help"])
        hint: Any = Annotated[hints[field.name], said]
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)


def _parameters() -> Iterator[Parameter]:
    yield from _Start.parameters()
    yield from Pinned.parameters()
    yield from _Test.parameters()
    yield from _settings()
    yield from Words.parameters()
    yield from BadRows.parameters()
    yield from Writing.parameters()


def train_reward(options: TrainOptions) -> None:
    """Train a reward model on pairs, with TRL, and measure it on pairs that it has not seen.
    `prefmill score --model` takes what it writes.

    \b
    prefmill train-reward pairs.parquet -o reward --model org/encoder
    prefmill train-reward pairs-train.parquet -o reward --model org/decoder --test
    pairs-test.parquet --lora-rank 16
    """
    quiet_threads()
    from prefmill.cli import show, tables
    from prefmill.training.train import train_reward as run

    if options.output is None:
        raise BadArgument("train-reward: no output named.", hint="-o reward")
    if options.model is None:
        raise BadArgument(
            "train-reward: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id.",
        )
    names = [parameter.name for parameter in (*Pinned.parameters(), *_settings())]
    settings = options.picked(*names, "model", "on_bad_row", "overwrite")
    settings["test"] = options.test or ()
    if words := roles_given(options):
        settings["rows"] = Rows(**words)
    with stoppable("nothing is written"), show.progress(quiet=options.quiet) as tell:
        report = run(options.inputs, options.output, progress=tell, **settings)
    if options.as_json:
        print_json(report.as_json())
    if not options.quiet:
        tables.trained(report)


add_command("train-reward", train_reward.__doc__ or "", _parameters(), TrainOptions, train_reward)
