"""Pools of candidates and their oracle: one row at a time in float32 through plain Transformers,
its own chat template and forward.
"""

from __future__ import annotations

import atexit
import copy
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tiny_models

Row = tuple[str, str]

_home = Path(tempfile.mkdtemp(prefix="prefmill-models-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
_number = itertools.count()


def one_thread() -> None:
    """Tiny products gain nothing from threads, which on a busy machine wait for one another."""
    import torch

    torch.set_num_threads(1)


EAGER = ("gemma2", "gpt-oss")  # what scaled_dot_product_attention cannot do: soft-capping, sinks


def new_folder(name: str = "folder") -> Path:
    """An empty folder that is gone when the tests end."""
    made = _home / f"{name}-{next(_number)}"
    made.mkdir()
    return made


@functools.cache
def reward(family: str, seed: int = 0, **settings: Any) -> Path:
    """The folder of a tiny reward model."""
    return tiny_models.save_reward_model(family, new_folder(family), seed=seed, **settings)


@functools.cache
def causal(family: str, seed: int = 0) -> Path:
    """The folder of a tiny causal model."""
    return tiny_models.save_causal_model(family, new_folder(family), seed=seed)


@functools.cache
def plain(folder: Path, kind: str = "reward", *, eager: bool = False) -> tuple[Any, Any]:
    """The model and tokenizer in `folder` as any user of Transformers loads them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    how = {"attn_implementation": "eager"} if eager or folder.name.startswith(EAGER) else {}
    return auto.from_pretrained(
        folder, dtype=torch.float32, **how
    ).eval(), AutoTokenizer.from_pretrained(folder)


@functools.cache
def plain_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def ids_of(tok: Any, prompt: str, completion: str) -> list[int]:
    """The ids of one conversation by the tokenizer's own template."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return tok.apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=False
    )


def oracle(folder: Path, rows: Iterable[Row], *, eager: bool = False) -> np.ndarray:
    """The raw score of each row, alone."""
    import torch

    model, tok = plain(folder, eager=True) if eager else plain(folder)
    stateful = folder.name.startswith(
        "dynamic"
    )  # its frequencies remember the longest row: every row gets a model of its own
    out = []
    with torch.inference_mode():
        for row in rows:
            one = copy.deepcopy(model) if stateful else model
            out.append(one(input_ids=torch.tensor([ids_of(tok, *row)])).logits[0, 0].item())
    return np.array(out)


def batch(rows: Sequence[Row], *, prompts_are_groups: bool = True) -> pa.RecordBatch:
    """A record batch of `rows`; equal prompts are one group."""
    numbers: dict[str, int] = {}
    groups = [
        numbers.setdefault(prompt, len(numbers)) if prompts_are_groups else i
        for i, (prompt, _) in enumerate(rows)
    ]
    columns = {
        "prompt": [p for p, _ in rows],
        "completion": [c for _, c in rows],
        "group": pa.array(groups, pa.int64()),
    }
    return pa.record_batch(columns)


@functools.cache
def scorer(folder: Path, **options: Any) -> Any:
    """A loaded RewardModel on the CPU, one for each set of options."""
    from prefmill.scoring import RewardModel

    return RewardModel(model=folder, device="cpu", **options)


def scores(folder: Path, rows: Sequence[Row], **options: Any) -> np.ndarray:
    """The scores that we give."""
    return scorer(folder, **options)(batch(rows))


def assert_close(
    got: np.ndarray, wanted: np.ndarray, what: str = "", *, pool: np.ndarray | None = None
) -> None:
    """Within 1e-5 of the largest score of the pool: `pool`, where `wanted` is but a part of it."""
    assert got.shape == wanted.shape
    gap = np.abs(got - wanted)
    limit = 1e-5 * np.abs(wanted if pool is None else pool).max()
    i = int(np.nan_to_num(gap, nan=np.inf).argmax())
    assert (gap <= limit).all(), (
        f"{what}: row {i} of {len(got)}: got {got[i]!r}, expected {wanted[i]!r} within {limit:.1e}"
    )


# Every awkward case of a pool in little: ragged lengths, K = 1, nothing to say, the same twice, the
# beginning of another, and rows that are
# longer than any window of the models.
POOL: list[Row] = [
    ("Name a fruit.", "apple"),
    ("Name a fruit.", "apple"),
    ("Name a fruit.", "apple pie with cream and sugar, served warm"),
    ("Name a fruit.", ""),
    ("Name a fruit.", "banana"),
    ("Lonely prompt, one candidate", "yes"),
    ("", "An answer without a question"),
    ("", ""),
    ("A prompt that is rather longer than the sliding windows of the models here.", "x"),
    ("A prompt that is rather longer than the sliding windows of the models here.", " x"),
    (
        "A prompt that is rather longer than the sliding windows of the models here.",
        "\nnew line, then some more words",
    ),
    ("A prompt that is rather longer than the sliding windows of the models here.", "12"),
]
