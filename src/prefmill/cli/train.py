"""`prefmill train-reward`: options to `prefmill.train_reward`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefmill.cli.app import command
from prefmill.cli.options import (
    BadRows,
    Inputs,
    Pinned,
    Writing,
    option,
    quiet_threads,
    stoppable,
)
from prefmill.cli.texts import print_json
from prefmill.errors import BadArgument


class _Start(Inputs):
    output: Annotated[
        Path | None, option("--output", "-o", metavar="DIR", help="Folder of the trained model.")
    ] = None
    model: Annotated[
        str | None,
        option(metavar="DIR|HUB_ID", help="The model to start from: an encoder or a decoder."),
    ] = None


class _Training(Pinned):
    test: Annotated[
        list[str] | None,
        option(metavar="FILE", help="Pairs to measure on; may be given again."),
    ] = None
    holdout: Annotated[
        float | None,
        option(
            metavar="SHARE", help="Share of prompts to measure on.  [default: 0.1; with --test 0]"
        ),
    ] = None
    steps: Annotated[int | None, option(min=1, help="Of the optimizer.  [default: --epochs]")] = (
        None
    )
    epochs: Annotated[float, option(help="Times through the pairs.")] = 1
    batch_size: Annotated[int, option(min=1, help="Pairs in a step.")] = 16
    learning_rate: Annotated[
        float | None, option(help="The highest.  [default: 1e-4; with --lora-rank 1e-3]")
    ] = None
    max_length: Annotated[
        int | None,
        option(
            min=1,
            help="Tokens of a conversation.  [default: what the model takes, at most 1024]",
        ),
    ] = None
    lora_rank: Annotated[
        int | None, option(min=1, help="Train an adapter of this rank, merged in the end.")
    ] = None
    center: Annotated[float, option(help="Weight of the term that keeps rewards around 0.")] = 0.01
    seed: Annotated[int, option(help="Of the head, the order and the hold-out.")] = 0
    device: Annotated[str, option(help="auto, cpu, cuda or cuda:N.")] = "auto"


class TrainOptions(_Start, _Training, BadRows, Writing):
    """The options of `prefmill train-reward`."""


@command
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
    names = [parameter.name for parameter in _Training.parameters()]
    settings = options.picked(*names, "model", "on_bad_row", "overwrite")
    settings["test"] = options.test or ()
    with stoppable("nothing is written"), show.progress(quiet=options.quiet) as tell:
        report = run(options.inputs, options.output, progress=tell, **settings)
    if options.as_json:
        print_json(report.as_json())
    if not options.quiet:
        tables.trained(report)
