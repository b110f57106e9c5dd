"""Small models and rows, and the parts of a CUDA device that a test plays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

import check_gpu  # noqa: E402

from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402

CPU = torch.device("cpu")

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "num_labels": 1,
    "pad_token_id": 0,
}


def tiny_model(dtype: Any, **more: Any) -> Any:
    """A random Llama reward model, grouped heads 4:1."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, initializer_range=0.1, **more)
    return transformers.LlamaForSequenceClassification(config).to(dtype).eval()


def made(model: Any, form: str, **more: Any) -> Engine:
    """An engine with this form of attention, whatever the device is."""
    with check_gpu.forced(form):
        return Engine(model, RewardHead(), CPU, **more)


def some_rows(seed: int, groups: int = 3, prompt: int = 40) -> TokenRows:
    """Groups of several sizes, with completions from one token on, and a row of its own."""
    rng = np.random.default_rng(seed)
    rows, numbers = [], []
    for group in range(groups):
        head = rng.integers(1, 200, rng.integers(2, prompt)).tolist()
        for _ in range(rng.integers(2, 7)):
            rows.append([*head, *rng.integers(1, 200, rng.integers(1, 9)).tolist()])
            numbers.append(group)
    return TokenRows.of([*rows, rng.integers(1, 200, 5).tolist()], [*numbers, groups])


def values(scorer: Engine, rows: TokenRows) -> np.ndarray:
    return scorer.run(scorer.plan(rows))[:, 0]


# -- G2, G3: which form runs


def before_2_12(
    query: Any,
    key: Any,
    value: Any,
    cu_seq_q: Any,
    cu_seq_k: Any,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    """`varlen_attn` as torch 2.11 has it: nobody tells it of grouped heads, which the kernel
    sees.
    """
    from torch.nn.attention.varlen import varlen_attn

    more = {"return_aux": return_aux, "scale": scale, "window_size": window_size}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, enable_gqa=True, **more)


class PlayedCuda:
    """A device that says it is CUDA, with its tensors on the CPU."""

    type = "cuda"

    def __str__(self) -> str:
        return "cuda:0"


# -- G4: long prompts stay shared


def group(prompt: int, own: list[int]) -> TokenRows:
    """One prompt and its completions, which differ from their first token on."""
    head = list(range(prompt))
    rows = [[*head, -1 - i, *range(n - 1)] for i, n in enumerate(own)]
    return TokenRows.of(rows, [0] * len(own), [prompt] * len(own))
