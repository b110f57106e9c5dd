"""Training on what prefmill made: a reward model of pairs, a policy of winners or pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Unpack

from prefmill.disk.hidden import temporary
from prefmill.plans.pairs import Pairs
from prefmill.progress import Progress, silent
from prefmill.runs.plan import run
from prefmill.shapes.words import Rows
from prefmill.table.roles import RoleNames
from prefmill.telemetry.watch import watched
from prefmill.training.kinds import DPOTraining, RewardTraining, SFTTraining
from prefmill.training.report import TrainReport
from prefmill.training.settings import (
    PolicyOptions,
    PolicySettings,
    RewardOptions,
    RewardSettings,
    taking,
)


@taking(RewardSettings)
@watched("train reward")
def train_reward(
    pairs: Any,
    output: str | Path,
    *,
    model: str | Path,
    test: Any = (),
    rows: Rows | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_bad_row: Literal["error", "null"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[RewardOptions],
) -> TrainReport:
    """Train a reward model on preference pairs, and measure it on pairs that it has not seen.

    Args:
        pairs: files (globs, folders) that `prefmill pairs` writes, or a frame, relation or dataset:
            columns prompt, chosen, rejected (text or messages), or chosen and rejected alone with
            the prompt in front. A column margin is used in the loss.
        output: the folder to write; it appears whole or not at all. It holds weights (safetensors),
            the tokenizer with its chat template, the report (`prefmill.json`) and a model card.
            `prefmill score --model` takes it.
        model: a folder or hub id, encoder or decoder. A reward model is trained on; any other gets
            a new head.
        test: files of pairs to measure on, each reported by itself. Without any, `holdout` of the
            prompts is kept back (0.1 by default).
        rows: how records become rows (`prefmill.Rows`), where `pairs` and `test` are raw feedback:
            the pairs are those of the plan `Pairs()`.
        steps: of the optimizer; None: `epochs` over the pairs. batch_size: pairs in a step.
        learning_rate: the highest, reached after a tenth of the steps and falling to 0; None: 1e-4,
            with LoRA ten times that.
        max_length: tokens of a conversation; longer pairs are left out and counted. None: what the
            model takes, at most 1,024.
        lora_rank: train an adapter of that rank on every linear layer instead of all weights; it is
            merged into them in the end.
        center: weight of the mean squared sum of both rewards in the loss, which keeps them around
            0 (Eisenstein et al., 2023).
        seed: of head, order, adapter and hold-out. The same seed gives the same weights on the same
            machine and number of threads.
        device: auto, cpu, cuda. On a CPU everything is float32.
        on_bad_row: a pair that cannot be read (`errors.BAD_ROW`: refused by the chat template, two
            BOS tokens, ...) is an `error` that names it, or is left out and counted by reason
            (`null`). Nulls, equal sides and rows that are too long always are.

    Token rows are made by the `Encoder` that `prefmill score` uses, with `template="auto"`, before
    TRL sees them: training and scoring read the same by construction. Loss: Bradley-Terry, -log
    sigmoid(chosen - rejected - margin) (TRL's `RewardTrainer`).

    Raises `PrefmillError`s, and leaves nothing behind then: `BadArgument`, `BadInput`,
    `TargetExists`, `MissingPackage`.

    >>> train_reward("pairs.parquet", "reward", model="org/encoder", steps=0)
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: train_reward: steps must be a whole number >= 1 or None; got 0
    """
    settings = RewardSettings(**options)
    with pairs_of(rows, pairs, test) as (data, tests):
        run = RewardTraining(
            where="train_reward",
            data=data,
            output=output,
            model=model,
            test=tests,
            settings=settings,
            revision=revision,
            trust_remote_code=trust_remote_code,
            on_bad_row=on_bad_row,
            overwrite=overwrite,
            tell=progress or silent,
        )
        return run.run()


@contextmanager
def pairs_of(rows: Rows | None, data: Any, tests: Any) -> Iterator[tuple[Any, Any]]:
    """`data` and `tests` as they are, or, with `rows`, the pairs of their records in files."""
    if rows is None:
        yield data, tests
        return
    plan = Pairs(rows=rows)
    with temporary() as home:

        def made(inputs: Any, name: str) -> str:
            path = home / f"{name}.parquet"
            run(plan, inputs, path)
            return str(path)

        listed = [tests] if isinstance(tests, str | Path) else list(tests)
        names = [
            Path(str(each)).stem if isinstance(each, str | Path) else "test" for each in listed
        ]
        numbered = [f"{name}-{place}" for place, name in enumerate(names)]
        yield made(data, "pairs"), [made(*each) for each in zip(listed, numbered, strict=True)]


@taking(PolicySettings)
@watched("train policy")
def train_policy(
    data: Any,
    output: str | Path,
    *,
    model: str | Path,
    roles: RoleNames | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_bad_row: Literal["error", "null"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[PolicyOptions],
) -> TrainReport:
    """Train a policy: on winners by SFT (`method="sft"`), or on pairs by DPO (`"dpo"`).

    Args:
        data: for SFT prompts and completions (`prefmill best`), or conversations in a column
            messages, whose last message is learned; for DPO pairs (`train_reward`).
        output: the folder to write; it appears whole or not at all, and can be sampled from:
            weights, tokenizer, chat template, and a generation configuration that stops where the
            template ends an answer.
        beta: of DPO, what a divergence from the model that it starts from costs (Rafailov et al.,
            2023).
        roles: the columns of prompt and completion, where they have other names.
        learning_rate: None: 2e-5 for SFT, 1e-6 for DPO, with LoRA ten times that.
        Others: as for `train_reward`; batch_size counts rows, or pairs.

    The prompt is what a sampler asks: the chat template over the prompt with the generation prompt
    behind (a text is one user message); the loss is on the tokens behind it, the end of the answer
    among them. A tokenizer without a template gets prompt + completion + end.

    Raises what `train_reward` raises.

    >>> train_policy("best.parquet", "policy", model="org/lm", method="ppo")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: train_policy: method must be one of ['sft', 'dpo']; got 'ppo'
    """
    settings = PolicySettings(**options)
    kind = DPOTraining if settings.method == "dpo" else SFTTraining
    run = kind(
        where="train_policy",
        data=data,
        output=output,
        model=model,
        roles=roles or {},
        settings=settings,
        revision=revision,
        trust_remote_code=trust_remote_code,
        on_bad_row=on_bad_row,
        overwrite=overwrite,
        tell=progress or silent,
    )
    return run.run()
