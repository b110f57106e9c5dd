"""The flash kernel of CUDA, on a CPU: what `torch.nn.attention.varlen` calls, with the checks that
the CUDA source makes.

`install()` registers it under the kernel's own name, so that the unchanged `varlen_attn` runs
without a GPU. Source of the checks: `mha_varlen_fwd` in
`aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp` of PyTorch.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import library

CALLS: list[dict[str, Any]] = []  #: what each call was told, for who counts them


@functools.cache
def install() -> library.Library:
    """Register the kernel for CPU tensors, once in a process."""
    kernels = library.Library("aten", "IMPL", "CPU")
    kernels.impl("_flash_attention_forward", flash_attention_forward)
    return kernels


def flash_attention_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cum_seq_q: torch.Tensor | None,
    cum_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, ...]:
    """Output, shape (queries, heads, head_dim), and the logarithms of the sums, float32, shape
    (heads, queries).
    """
    assert cum_seq_q is not None, "dense attention is not what is meant here"
    assert cum_seq_k is not None
    check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k)
    assert not dropout_p
    assert not return_debug_mask
    assert all(value is None for value in others.values()), others
    left = -1 if window_size_left is None or window_size_left >= max_k else window_size_left
    right = -1 if window_size_right is None or window_size_right >= max_k else window_size_right
    if is_causal:
        right = 0
    CALLS.append(
        {
            "causal": right == 0,
            "left": left,
            "queries": len(query),
            "keys": len(key),
            "sequences": len(cum_seq_q) - 1,
        }
    )
    out = torch.empty_like(query)
    sums = torch.full((query.shape[1], query.shape[0]), float("nan"), dtype=torch.float32)
    groups = query.shape[1] // key.shape[1]
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    bounds = zip(
        itertools.pairwise(cum_seq_q.tolist()), itertools.pairwise(cum_seq_k.tolist()), strict=True
    )
    for (q0, q1), (k0, k1) in bounds:
        q, k, v = (x.transpose(0, 1).float() for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        scores = q @ k.repeat_interleave(groups, 0).transpose(1, 2) * factor
        # Lower-right alignment: the last query stands at the last key.
        distance = torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0) - torch.arange(k1 - k0)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if right >= 0:
            hidden |= distance < -right
        if left >= 0:
            hidden |= distance > left
        scores = scores.masked_fill(hidden, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        out[q0:q1] = (weights @ v.repeat_interleave(groups, 0)).transpose(0, 1).to(out.dtype)
        sums[:, q0:q1] = torch.logsumexp(scores, dim=-1)
    seed = torch.zeros(2, dtype=torch.uint64)
    return out, sums, seed, torch.zeros((), dtype=torch.uint64), torch.zeros(0)


def check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cum_q: torch.Tensor,
    cum_k: torch.Tensor,
    max_q: int,
    max_k: int,
) -> None:
    """What the CUDA source refuses, and what it takes on trust and would read out of bounds
    with.
    """
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    for name, other in (("key", key), ("value", value)):
        if other.dtype != query.dtype:
            raise RuntimeError(f"query and {name} must have the same dtype")
    for name, lengths in (("cu_seqlens_q", cum_q), ("cu_seqlens_k", cum_k)):
        if lengths.dtype != torch.int32:
            raise RuntimeError(f"{name} must have dtype int32")
        if not lengths.is_contiguous():
            raise RuntimeError(f"{name} must be contiguous")
    for tensor in (query, key, value):
        if tensor.stride(-1) != 1:
            raise RuntimeError("Input tensor must have contiguous last dimension")
        if tensor.dim() != 3 or tensor.shape[-1] != query.shape[-1]:
            raise RuntimeError(f"expected (tokens, heads, head_dim); got {tuple(tensor.shape)}")
    if len(cum_q) < 2:
        raise RuntimeError("batch size must be positive")
    if len(cum_q) != len(cum_k):
        raise RuntimeError("as many sequences of keys as of queries")
    if query.shape[-1] > 256 or query.shape[-1] % 8:
        raise RuntimeError("head dimension must be a multiple of 8 and at most 256")
    if query.shape[1] % key.shape[1] or key.shape != value.shape:
        raise RuntimeError("Number of heads in key/value must divide number of heads in query")
    for lengths, tensor, longest in ((cum_q, query, max_q), (cum_k, key, max_k)):
        steps = lengths.diff()
        if (
            int(lengths[0]) != 0
            or int(lengths[-1]) != len(tensor)
            or int(steps.min()) < 0
            or int(steps.max()) > longest
        ):
            raise RuntimeError(
                f"lengths {lengths.tolist()} (longest {longest}) are not those of {len(tensor)}"
                " tokens"
            )
    if int(max_q) == 1:
        raise RuntimeError(
            "the kernel takes another path, with other rounding, for one query a sequence"
        )
