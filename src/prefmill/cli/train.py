"""`prefmill train-reward`: options to `prefmill.train_reward`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.options import (
    AsJson,
    Inputs,
    OnBadRow,
    Overwrite,
    Quiet,
    print_json,
)
from prefmill.errors import BadArgument

_TRAINING = "Training"


def train_reward(  # one option a line: this is the manual
    inputs: Inputs,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the trained model."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID", help="The model to start from: an encoder or a decoder."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: a commit pins it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Pairs to measure on; may be given again."),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of prompts to measure on.  [default: 0.1; with --test 0]"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of the optimizer.  [default: --epochs]", rich_help_panel=_TRAINING
        ),
    ] = None,
    epochs: Annotated[
        float, typer.Option(help="Times through the pairs.", rich_help_panel=_TRAINING)
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs in a step.", rich_help_panel=_TRAINING)
    ] = 16,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="The highest.  [default: 1e-4; with --lora-rank 1e-3]", rich_help_panel=_TRAINING
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of a conversation.  [default: what the model takes, at most 1024]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train an adapter of this rank, merged in the end.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    center: Annotated[
        float,
        typer.Option(
            help="Weight of the term that keeps rewards around 0.", rich_help_panel=_TRAINING
        ),
    ] = 0.01,
    seed: Annotated[
        int,
        typer.Option(help="Of the head, the order and the hold-out.", rich_help_panel=_TRAINING),
    ] = 0,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_TRAINING)
    ] = "auto",
    on_bad_row: OnBadRow = "error",
    as_json: AsJson = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a reward model on pairs, with TRL, and measure it on pairs that it has not seen.
    `prefmill score --model` takes what it writes.

    \b
    prefmill train-reward pairs.parquet -o reward --model org/encoder
    prefmill train-reward pairs-train.parquet -o reward --model org/decoder --test
    pairs-test.parquet --lora-rank 16
    """
    # Waiting threads of torch spin by default: beside other work on the same cores a run then takes
    # ten times as long (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefmill.cli import show
    from prefmill.training.train import train_reward as run

    if output is None:
        raise BadArgument("train-reward: no output named.", hint="-o reward")
    if model is None:
        raise BadArgument(
            "train-reward: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id.",
        )
    try:
        with show.progress(quiet=quiet) as tell:
            report = run(
                inputs,
                output,
                model=model,
                test=test or (),
                holdout=holdout,
                steps=steps,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                max_length=max_length,
                lora_rank=lora_rank,
                center=center,
                seed=seed,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                on_bad_row=on_bad_row,
                overwrite=overwrite,
                progress=tell,
            )
    except KeyboardInterrupt:
        print("prefmill: stopped; nothing is written.", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.as_json())
    if not quiet:
        show.trained(report)
