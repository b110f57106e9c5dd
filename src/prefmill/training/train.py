"""Training on what prefmill made, a thin layer over TRL: `train_reward` (pairs to a reward model),
`train_policy` (winners or pairs to a policy).

    rows ──Encoder, the one of scoring──▶ token ids ──RewardTrainer, SFTTrainer, DPOTrainer──▶
    hidden folder ──renamed──▶ output
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.disk.folders import check_folder, whole_folder
from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.forks import refuse_fork
from prefmill.models.contract import OnBadRow, check_on_bad_row
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.readers.find import check_apart
from prefmill.scoring.bad_rows import RowGuard
from prefmill.table.conversations import Conversation, conversation, messages_of, texts_of
from prefmill.table.roles import RoleNames
from prefmill.training.report import HeldOut, TrainReport, buckets_of, share_of, write_report
from prefmill.training.rows import (
    PairRows,
    Winners,
    added,
    arrow,
    hold_out,
    numbered,
    pair_ids,
    read_pairs,
    read_winners,
    winner_ids,
)
from prefmill.training.trl import (
    ENCODER_TEMPLATE,
    Trained,
    Trainee,
    TrainSettings,
    check_settings,
    fit,
    load,
    lora_of,
    refuse_rows,
    save,
    settings,
    stop_ids,
    training,
    trl,
)

Method = Literal["sft", "dpo"]

#: Tokens of a row, where neither the model nor the caller sets a smaller limit: TRL's own default.
MAX_LENGTH = 1024
#: TRL's own defaults; an adapter is trained with ten times as much ("LoRA Without Regret", 2025).
LEARNING_RATES = {"reward": 1e-4, "sft": 2e-5, "dpo": 1e-6}
_EVAL_PAIRS = 256


def train_reward(
    pairs: Any,
    output: str | Path,
    *,
    model: str | Path,
    test: Any = (),
    holdout: float | None = None,
    steps: int | None = None,
    epochs: float = 1,
    batch_size: int = 16,
    learning_rate: float | None = None,
    max_length: int | None = None,
    lora_rank: int | None = None,
    center: float = 0.01,
    seed: int = 0,
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_bad_row: Literal["error", "null"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a reward model on preference pairs, and say how good it is on pairs that it has not
    seen.

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
    where = "train_reward"
    refuse_fork(where)
    started = time.perf_counter()
    check_settings(
        where,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        lora_rank=lora_rank,
        seed=seed,
        holdout=holdout or 0,
    )
    check_folder(output, overwrite=overwrite, where=where)
    check_apart(_paths(pairs, test, model), output, where=where)
    tell = progress or silent
    tell("reading", None)
    tests = _tests(test, where)
    check_on_bad_row(where, on_bad_row)
    given = read_pairs(pairs, where=where)
    share = holdout if holdout is not None else 0.0 if tests else 0.1
    rows, dropped = given, dict(given.dropped)
    if share and given.frame.height:
        rows, tests["held-out"] = hold_out(given, share, seed, where=where)
        if not rows.frame.height:
            raise BadInput(
                f"{where}: all {given.frame.height:,} pairs are held out, for they have {len(set(given.prompts)):,} prompts in all;"
                f" got holdout {share:g}, expected some to train on.",
                hint="--holdout 0, and --test FILE with other pairs to measure on.",
            )
    with training(seed, lora=lora_rank is not None):
        trainee = load(
            "reward",
            str(model),
            revision,
            device=device,
            lora=lora_rank is not None,
            trust_remote_code=trust_remote_code,
        )
        encoder, wanted = _prepared(
            trainee,
            where,
            TrainSettings(
                steps,
                epochs,
                batch_size,
                _rate("reward", learning_rate, lora_rank),
                max_length or 0,
                lora_rank,
                seed,
                device,
            ),
        )
        ids, kept, lost = pair_ids(encoder, rows, where=where, on_bad_row=on_bad_row)
        dropped = added(dropped, lost)
        refuse_rows(len(kept), where, dropped)
        columns: dict[str, list[Any]] = {f"{side}_ids": ids[side] for side in ids}
        columns["length"] = _longer(ids)
        if "margin" in rows.frame.columns:
            columns["margin"] = rows.frame["margin"].gather(kept).to_list()
        with whole_folder(output, overwrite=overwrite, where=where) as folder:
            done = _fit_reward(trainee, wanted, columns, folder, center, tell)
            trainee.model = None  # measuring loads what was written
            trained = set(rows.take(rows.frame[kept]).prompts)
            tell("measuring", None)
            found = [
                _measure(
                    folder,
                    name,
                    each,
                    trained,
                    device,
                    trust_remote_code,
                    where,
                    on_bad_row,
                    encoder.template_date,
                )
                for name, each in tests.items()
            ]
            report = _report(
                "reward",
                model,
                output,
                given.rows_in,
                len(kept),
                dropped,
                done,
                wanted,
                started,
                center=center,
                holdout=share,
                **_dated(encoder),
                rows_held_out=tests["held-out"].frame.height
                if "held-out" in tests and share
                else 0,
                held_out=tuple(each for each in found if each is not None),
            )
            write_report(folder, report)
    return report


def train_policy(
    data: Any,
    output: str | Path,
    *,
    model: str | Path,
    method: Method = "sft",
    steps: int | None = None,
    epochs: float = 1,
    batch_size: int = 8,
    learning_rate: float | None = None,
    max_length: int | None = None,
    lora_rank: int | None = None,
    beta: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    roles: RoleNames | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_bad_row: Literal["error", "null"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
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
    prefmill.errors.BadArgument: train_policy: method is not one of ('sft', 'dpo'); got 'ppo'.
    """
    where = "train_policy"
    refuse_fork(where)
    started = time.perf_counter()
    if method not in ("sft", "dpo"):
        raise BadArgument(f"{where}: method is not one of ('sft', 'dpo'); got {method!r}.")
    check_settings(
        where,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        lora_rank=lora_rank,
        seed=seed,
        beta=beta,
    )
    check_folder(output, overwrite=overwrite, where=where)
    check_apart(_paths(data, model), output, where=where)
    check_on_bad_row(where, on_bad_row)
    tell = progress or silent
    tell("reading", None)
    with training(seed, lora=lora_rank is not None):
        trainee = load(
            "causal",
            str(model),
            revision,
            device=device,
            lora=lora_rank is not None,
            trust_remote_code=trust_remote_code,
        )
        encoder, wanted = _prepared(
            trainee,
            where,
            TrainSettings(
                steps,
                epochs,
                batch_size,
                _rate(method, learning_rate, lora_rank),
                max_length or 0,
                lora_rank,
                seed,
                device,
            ),
            starts=True,
        )
        if method == "sft":
            winners = read_winners(data, roles or {}, where=where)
            rows_in, dropped = winners.rows_in, dict(winners.dropped)
            columns, lost = _sft_columns(encoder, winners, where, on_bad_row)
        else:
            pairs = read_pairs(data, where=where)
            rows_in, dropped = pairs.rows_in, dict(pairs.dropped)
            columns, lost = _dpo_columns(encoder, pairs, where, on_bad_row)
        dropped = added(dropped, lost)
        refuse_rows(len(columns["length"]), where, dropped)
        with whole_folder(output, overwrite=overwrite, where=where) as folder:
            done = _fit_policy(trainee, wanted, columns, folder, method, beta, tell)
            report = _report(
                method,
                model,
                output,
                rows_in,
                len(columns["length"]),
                dropped,
                done,
                wanted,
                started,
                beta=beta if method == "dpo" else None,
                **_dated(encoder),
            )
            write_report(folder, report)
    return report


# --- parts of both
# --------------------------------------------------------------------------------------------------------------------


def _paths(*inputs: Any) -> list[str | Path]:
    """What of these names a file."""
    flat: list[Any] = []
    for given in inputs:
        if isinstance(given, Mapping):
            flat += given.values()
        else:
            flat += given if isinstance(given, list | tuple) else [given]
    return [each for each in flat if isinstance(each, str | Path)]


def _rate(method: str, given: float | None, lora_rank: int | None) -> float:
    return given if given is not None else LEARNING_RATES[method] * (1 if lora_rank is None else 10)


def _prepared(
    trainee: Trainee, where: str, wanted: TrainSettings, *, starts: bool = False
) -> tuple[Any, TrainSettings]:
    """The encoder, and the settings with the limit of tokens that the model allows."""
    from dataclasses import replace

    from prefmill.models.loading import longest
    from prefmill.models.tokens import Encoder

    own = longest(trainee.model.config, trainee.tokenizer)
    if own is not None and wanted.max_length > own:
        raise BadArgument(
            f"{where}: max_length {wanted.max_length} is more than the model takes; got a limit of {own}."
        )
    limit = wanted.max_length or min(own or MAX_LENGTH, MAX_LENGTH)
    encoder = Encoder(
        trainee.tokenizer, limit=limit, on_too_long="null", starts=starts, needs_completion=starts
    )
    if (
        encoder.template == "pair"
    ):  # two texts with separators, which TRL's collator has no token types for: the same as one template
        trainee.tokenizer.chat_template = ENCODER_TEMPLATE
        encoder = Encoder(
            trainee.tokenizer,
            limit=limit,
            on_too_long="null",
            starts=starts,
            needs_completion=starts,
        )
    return encoder, replace(wanted, max_length=limit)


def _dated(encoder: Any) -> dict[str, Any]:
    """The date that the template printed, where it prints one."""
    return {} if encoder.template_date is None else {"template_date": encoder.template_date}


def _report(
    method: str,
    model: str | Path,
    output: str | Path,
    rows_in: int,
    rows_used: int,
    dropped: Mapping[str, int],
    done: Trained,
    wanted: TrainSettings,
    started: float,
    *,
    rows_held_out: int = 0,
    held_out: tuple[HeldOut, ...] = (),
    **more: object,
) -> TrainReport:
    told = {
        name: value for name, value in asdict(wanted).items() if name not in ("steps", "epochs")
    }
    return TrainReport(
        method=method,
        model=str(model),
        output=str(output),
        rows_in=rows_in,
        rows_used=rows_used,
        rows_held_out=rows_held_out,
        dropped=dict(dropped),
        steps=done.steps,
        epochs=done.epochs,
        tokens=done.tokens,
        loss=done.loss,
        losses=done.losses,
        held_out=held_out,
        settings={**told, **more},
        seconds=round(time.perf_counter() - started, 3),
        seconds_training=done.seconds,
        peak_rss_mb=peak_rss_mb(),
    )


# --- reward models
# --------------------------------------------------------------------------------------------------------------------


def _tests(test: Any, where: str) -> dict[str, PairRows]:
    """Held-out sets by name: a file's own, or `test` for what is in memory."""
    if isinstance(test, str | Path):
        test = [test]
    if isinstance(test, Mapping):
        given = dict(test)
    elif isinstance(test, Sequence):
        given = {str(each): each for each in test}
    else:
        given = {"test": test}
    found = {name: read_pairs(each, where=where) for name, each in given.items()}
    for name, each in found.items():
        if not each.frame.height:
            raise BadInput(
                f"{where}: no pairs to measure on in {name!r}; got {each.rows_in} rows, expected at least one usable."
            )
    return found


def _fit_reward(
    trainee: Trainee,
    wanted: TrainSettings,
    columns: dict[str, Any],
    folder: Path,
    center: float,
    tell: Progress,
) -> Trained:
    args = settings(
        trl().RewardConfig,
        wanted,
        folder,
        len(columns["length"]),
        trainee.model,
        center_rewards_coefficient=center or None,
    )
    trainer = trl().RewardTrainer(
        model=trainee.model,
        args=args,
        train_dataset=_dataset(columns),
        processing_class=trainee.tokenizer,
        peft_config=lora_of(wanted, "reward"),
    )
    done = fit(trainer, len(columns["length"]), tell)
    save(trainer, trainee.tokenizer, folder)
    return done


def _longer(ids: Mapping[str, list[list[int]]]) -> list[int]:
    """Tokens of the longer side of every pair."""
    return [
        max(len(chosen), len(rejected))
        for chosen, rejected in zip(ids["chosen"], ids["rejected"], strict=True)
    ]


def _dataset(columns: dict[str, Any]) -> Any:
    """Rows sorted by length: whatever runs over them in order (DPO's reference) pads little; the
    sampler shuffles them anyway.
    """
    from datasets import Dataset

    order = np.argsort(columns["length"], kind="stable")
    return Dataset.from_dict({name: [values[i] for i in order] for name, values in columns.items()})


def _measure(
    folder: Path,
    name: str,
    pairs: PairRows,
    trained: set[str],
    device: str,
    trust_remote_code: bool,
    where: str,
    on_bad_row: OnBadRow,
    template_date: str | None,
) -> HeldOut | None:
    """The written model on pairs, through the scorer of `prefmill score`; None where there are
    none.
    """
    from prefmill.scoring import RewardModel

    if not pairs.frame.height:
        return None
    scorer = RewardModel(
        model=folder,
        device=device,
        on_too_long="null",
        trust_remote_code=trust_remote_code,
        template_date=template_date,
    )
    guard = RowGuard(scorer, on_bad_row)
    keys = pairs.prompts
    groups = numbered(keys)
    order = np.argsort(groups, kind="stable")
    scores = np.zeros((2, len(order)))
    reasons = np.full((2, len(order)), None, object)
    for first in range(0, len(order), _EVAL_PAIRS):
        part = order[first : first + _EVAL_PAIRS]
        rows = pairs.frame[part]
        both = pl.concat(
            [rows.select("prompt", completion=side) for side in ("chosen", "rejected")]
        )
        of_group = np.tile(groups[part], 2)
        together = np.argsort(of_group, kind="stable")
        both = both[together]
        batch = pa.record_batch(
            {
                "prompt": arrow(both["prompt"]),
                "completion": arrow(both["completion"]),
                "group": pa.array(of_group[together]),
            }
        )
        try:
            scored = guard.run(guard.prepare(batch))
        except BadRow as error:
            raise pairs.bad(error, int(part[together[error.row] % len(part)]), where) from error
        found, why = np.empty(len(together)), np.full(len(together), None, object)
        found[together] = scored.columns["score"]
        why[together] = scored.reasons or None
        scores[:, part], reasons[:, part] = found.reshape(2, -1), why.reshape(2, -1)
    lost = [one or other for one, other in reasons.T.tolist()]
    usable = np.array([reason is None for reason in lost], bool)
    dropped = added(pairs.dropped, Counter(reason for reason in lost if reason is not None))
    if not usable.any():
        raise BadInput(f"{where}: no pair of {name!r} can be scored; got {dict(dropped)}.")
    chosen, rejected = scores[:, usable]
    rows = pairs.frame.filter(pl.Series(usable))
    sizes = [
        np.array([_size(value) for value in rows[side].to_list()])
        for side in ("chosen", "rejected")
    ]
    wins, longer = ((a > b) + (a == b) / 2 for a, b in ((chosen, rejected), sizes))
    margins = next(
        (rows[column].to_list() for column in ("difference", "margin") if column in rows.columns),
        None,
    )
    used = [keys[i] for i in np.flatnonzero(usable)]
    return HeldOut(
        name=name,
        pairs_in=pairs.rows_in,
        dropped=dropped,
        prompts=len(set(used)),
        prompts_trained=len(set(used) & trained),
        accuracy=share_of(wins, groups[usable]),
        longer=share_of(longer, groups[usable]),
        margins=buckets_of(margins, wins, groups[usable]),
        loss=round(float(np.logaddexp(0, rejected - chosen).mean()), 6),
        difference=round(float((chosen - rejected).mean()), 6),
    )


def _size(completion: Any) -> int:
    """Characters of a completion."""
    return sum(
        len(text) for message in messages_of(completion, "assistant") for text in texts_of(message)
    )


# --- policies
# -------------------------------------------------------------------------------------------------------------------------


def _sft_columns(
    encoder: Any, winners: Winners, where: str, on_bad_row: OnBadRow
) -> tuple[dict[str, Any], dict[str, int]]:
    """Token ids and labels (-100: no loss), and rows left out: too long, or without a token to
    learn.
    """
    ids, starts, lost = winner_ids(encoder, winners, where=where, on_bad_row=on_bad_row)
    empty = sum(start >= len(row) for row, start in zip(ids, starts, strict=True))
    rows = [(row, start) for row, start in zip(ids, starts, strict=True) if start < len(row)]
    columns = {
        "input_ids": [row for row, _ in rows],
        "labels": [[-100] * start + row[start:] for row, start in rows],
        "length": [len(row) for row, _ in rows],
    }
    return columns, added(lost, {"no_tokens": empty} if empty else {})


def _dpo_columns(
    encoder: Any, pairs: PairRows, where: str, on_bad_row: OnBadRow
) -> tuple[dict[str, Any], dict[str, int]]:
    """Conversations (or texts, where there is no template) for TRL to tokenise, which it does as
    the encoder would.
    """
    if pairs.implicit:
        raise BadInput(
            f"{where}: DPO needs to know where the prompt ends; got pairs of plain texts without a prompt column.",
            hint="prefmill pairs with --format trl, or with --chat.",
        )
    ids, kept, lost = pair_ids(encoder, pairs, where=where, on_bad_row=on_bad_row)
    frame, lengths = pairs.frame[kept], _longer(ids)
    if encoder.template == "concat":
        return {
            "length": lengths,
            **{name: frame[name].to_list() for name in ("prompt", "chosen", "rejected")},
        }, lost
    columns: dict[str, Any] = {"length": [], "prompt": [], "chosen": [], "rejected": []}
    for place, (prompt, chosen, rejected) in enumerate(
        frame.select("prompt", "chosen", "rejected").iter_rows()
    ):
        one, two = conversation(prompt, chosen), conversation(prompt, rejected)
        problem = _no_dpo(one, two)
        if problem is None:
            columns["length"].append(lengths[place])
            columns["prompt"].append(one.prompt)
            columns["chosen"].append(one.completion)
            columns["rejected"].append(two.completion)
        elif on_bad_row == "error":
            raise pairs.bad(
                BadRow(where, problem, row=0, reason="bad_message"), int(kept[place]), where
            )
        else:
            lost = added(lost, {"bad_message": 1})
    return columns, lost


def _no_dpo(chosen: Conversation, rejected: Conversation) -> str | None:
    """Why TRL's DPO would train on something else than the two conversations; None: it would
    not.
    """
    if chosen.prompt != rejected.prompt:
        return "has sides that are whole conversations with different prompts; DPO needs one prompt for both."
    if chosen.continues or rejected.continues:
        return "has a prompt that ends in an assistant's message, which TRL's DPO would close; expected one that ends in a user's."
    return None


def _fit_policy(
    trainee: Trainee,
    wanted: TrainSettings,
    columns: dict[str, Any],
    folder: Path,
    method: Method,
    beta: float,
    tell: Progress,
) -> Trained:
    rows = len(columns["length"])
    if method == "sft":
        args = settings(
            trl().SFTConfig,
            wanted,
            folder,
            rows,
            trainee.model,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
    else:  # the model that DPO starts from is its reference: its log-probabilities are computed once, before the first step
        args = settings(
            trl().DPOConfig,
            wanted,
            folder,
            rows,
            trainee.model,
            beta=beta,
            precompute_ref_log_probs=True,
        )
    trainer = (trl().SFTTrainer if method == "sft" else trl().DPOTrainer)(
        model=trainee.model,
        args=args,
        train_dataset=_dataset(columns),
        processing_class=trainee.tokenizer,
        peft_config=lora_of(wanted, "causal"),
    )
    done = fit(trainer, rows, tell)
    generation = trainee.model.generation_config
    generation.eos_token_id = stop_ids(trainee.tokenizer, generation.eos_token_id)
    save(trainer, trainee.tokenizer, folder)
    return done
