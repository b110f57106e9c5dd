"""What is between us and TRL: a model to train, its configuration, LoRA, and saving.

Torch and TRL load here only.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import AccountingError, BadInput, MissingPackage
from prefmill.progress import Progress
from prefmill.training.settings import TrainSettings

#: What an encoder reads: [CLS] prompt [SEP] completion [SEP], one segment.
ENCODER_TEMPLATE = (
    "{{ cls_token }}{% for message in messages %}"
    "{{ message['content'] }}{{ sep_token }}{% endfor %}"
)
#: Parameters from which a GPU keeps fewer activations and computes them again.
_CHECKPOINTED = 1_000_000_000

Kind = Literal["reward", "causal"]


@dataclass
class Trainee:
    """A model to train and its tokenizer, and the folder they came from."""

    model: Any
    tokenizer: Any
    folder: Path


@dataclass(frozen=True)
class Trained:
    """What a trainer did."""

    steps: int
    epochs: float
    tokens: int
    loss: float
    losses: tuple[tuple[int, float], ...]
    seconds: float


def trl() -> Any:
    """The package, or `MissingPackage`."""
    try:
        return importlib.import_module("trl")
    except ImportError as error:
        raise MissingPackage.for_extra("train", error.name or "trl", "train") from None


@contextmanager
def training(seed: int, *, lora: bool = False) -> Iterator[None]:
    """Seeds, and silence; afterwards everything is as it was.

    The caller's random numbers, warnings, bars and log levels are not ours.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    trl()
    if lora and importlib.util.find_spec("peft") is None:
        raise MissingPackage.for_extra("train: lora_rank", "peft", "lora")
    import numpy as np
    import torch
    from transformers import set_seed

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with _silence(), torch.random.fork_rng(), warnings.catch_warnings():
            # TRL 1.16 itself uses the old names of options that Transformers 5.23 renamed.
            warnings.filterwarnings(
                "ignore", r"`(is_)?gradient_checkpointing(_\w+)?` is deprecated", FutureWarning
            )
            set_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _silence() -> Iterator[None]:
    """No bars and no notes of the libraries."""
    import datasets
    from transformers.utils import logging as theirs

    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    verbosity, tqdm = theirs.get_verbosity(), os.environ.get("TQDM_DISABLE")
    bars, no_bars = theirs.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    os.environ["TQDM_DISABLE"] = "1"
    theirs.set_verbosity(logging.ERROR)
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
        if not no_bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if tqdm is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = tqdm


def load(
    kind: Kind,
    model: str,
    revision: str | None,
    *,
    device: str,
    lora: bool,
    trust_remote_code: bool = False,
) -> Trainee:
    """The model to train, in float32 (with LoRA on CUDA in bfloat16).

    It has a new head if it is to be a reward model and has none. A reward model gets a pad token of
    its own: where pad and end are one token, Transformers scores the token before it.
    """
    import torch

    from prefmill.models import loading as models
    from prefmill.models.folders import folder_of

    folder = folder_of(model, revision, where="train")
    models.config_of(folder, trust_remote_code=trust_remote_code, where="train")
    tokenizer = models.load_tokenizer(folder, trust_remote_code=trust_remote_code, where="train")
    on_gpu = models.pick_device(device).type == "cuda"
    weights = models.weights(
        folder,
        kind,
        dtype=torch.bfloat16 if on_gpu and lora else torch.float32,
        trust_remote_code=trust_remote_code,
        where="train",
        new_head=kind == "reward",
    )
    # Some tokenizers come with a short limit of their own and would cut texts silently.
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    if kind == "reward":
        # Servers put other single outputs through a sigmoid.
        weights.config.problem_type = "regression"
        # What the scores of the old head were normalised with says nothing of the new ones.
        if getattr(weights.config, "normalize_reward", False):
            weights.config.normalize_reward = False
        _own_pad_token(weights, tokenizer)
    return Trainee(weights, tokenizer, folder)


def _own_pad_token(model: Any, tokenizer: Any) -> None:
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def configuration(
    kind: Any, wanted: TrainSettings, folder: Path, rows: int, model: Any, **more: Any
) -> Any:
    """The configuration of one of TRL's trainers.

    No checkpoints, no reports elsewhere, rows of like length together.
    """
    from prefmill.models.loading import pick_device

    on_gpu = pick_device(wanted.device).type == "cuda"
    steps = wanted.steps or max(1, round(wanted.epochs * -(-rows // wanted.batch_size)))
    return kind(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=wanted.batch_size,
        learning_rate=wanted.learning_rate,
        warmup_steps=steps // 10,
        lr_scheduler_type="linear",
        seed=wanted.seed,
        data_seed=wanted.seed,
        max_length=wanted.max_length,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,  # the sampler reads "length"
        pad_to_multiple_of="auto" if on_gpu else None,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        dataloader_pin_memory=on_gpu,
        gradient_checkpointing=on_gpu and model.num_parameters() > _CHECKPOINTED,
        logging_steps=max(1, steps // 50),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def lora_of(wanted: TrainSettings, kind: Kind) -> Any:
    """The adapter's configuration: every linear layer, alpha twice the rank; None without a rank.

    `training` asks for the package.
    """
    if wanted.lora_rank is None:
        return None
    from peft import LoraConfig

    task = "CAUSAL_LM" if kind == "causal" else "SEQ_CLS"
    return LoraConfig(
        r=wanted.lora_rank,
        lora_alpha=2 * wanted.lora_rank,
        target_modules="all-linear",
        task_type=task,
    )


def fit(trainer: Any, rows: int, tell: Progress) -> Trained:
    """Train on all `rows`, telling how it goes.

    Raises `BadInput` where the loss is not a number any more.
    """
    from transformers import PrinterCallback, TrainerCallback

    kept = len(trainer.train_dataset)
    if kept != rows:  # what is too long has been left out, and counted, before
        raise AccountingError(f"train: TRL kept {kept} of {rows} rows.")

    losses: list[tuple[int, float]] = []

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if "loss" not in more["logs"]:
                return
            step, loss = int(state.global_step), float(more["logs"]["loss"])
            losses.append((step, loss))
            if not math.isfinite(loss):
                raise BadInput(
                    f"train: the loss is no number at step {step}; got {loss}.",
                    hint="a smaller --learning-rate.",
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, steps = state.global_step, state.max_steps
            loss = f", loss {losses[-1][1]:.3f}" if losses else ""
            tell(f"step {step:,} of {steps:,}{loss}", step / steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Told())
    started = time.perf_counter()
    done = trainer.train()
    last = [loss for step, loss in losses if step > 0.9 * done.global_step]
    last = last or [float(done.training_loss)]
    return Trained(
        steps=int(done.global_step),
        epochs=round(float(trainer.state.epoch), 4),
        tokens=int(trainer._total_train_tokens),
        loss=round(sum(last) / len(last), 6),
        losses=tuple((step, round(loss, 6)) for step, loss in losses),
        seconds=round(time.perf_counter() - started, 3),
    )


def save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Weights (an adapter merged into them) as safetensors, and the tokenizer with its template.

    Nothing else of the trainer is kept.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.eval()
    with torch.no_grad():
        parameters = model.named_parameters()
        broken = [name for name, weights in parameters if not torch.isfinite(weights).all()]
    if broken:
        raise BadInput(
            f"train: the weights {broken[:2]} are no numbers any more; expected finite ones.",
            hint="a smaller --learning-rate.",
        )
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stop_ids(tokenizer: Any, known: int | Sequence[int] | None) -> list[int]:
    """The tokens that end an answer.

    They are those `known`, the tokenizer's end, and what its chat template puts after an
    assistant's message.
    """
    stops = [known] if isinstance(known, int) else list(known or [])
    if tokenizer.eos_token_id is not None:
        stops.append(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "prefmill"}]
        tail = tokenizer.apply_chat_template(talk, tokenize=False).rpartition("prefmill")[2]
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        tokens = tokenizer(tail, add_special_tokens=False)["input_ids"]
        stops += [token for token in tokens if token in special][:1]
    return list(dict.fromkeys(stops))


def refuse_rows(rows: int, where: str, dropped: Mapping[str, int]) -> None:
    """Raise `BadInput` where nothing is left to train on."""
    if not rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        reasons = reasons or "the input has no rows"
        raise BadInput(f"{where}: nothing to train on; got 0 usable rows ({reasons}).")
