"""Attention over packed streams, in three forms that compute the same.

They are registered with Transformers by name, never patched in. The plan of a stream travels as
the keyword argument `prefmill_plan` of the model's forward. Transformers makes no mask for a name
that it does not know, hands the argument down to every attention layer, and calls the function
registered under the name.

    segments   (sdpa.py)   any device and dtype; what CPUs use
    varlen     (flash.py)  CUDA (SM80 and newer), bfloat16 and float16
    blockmask  (flex.py)   CUDA where varlen cannot serve: float32, soft-capped scores, odd heads

What a form needs to know of a stream is made before the forward (`StreamPlan.make`), so that
`torch.compile` sees tensors only. Grouped-query attention, sliding windows and (segments,
blockmask) soft-capping are honoured. An argument that could change the result and is not known
here raises `CannotShare`, and the model is then scored in padded batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prefmill.scoring.attention.flash import (
    IN_PLACE,
    gathered_keys,
    varlen,
    varlen_kernel,
)
from prefmill.scoring.attention.flex import BLOCK, blockmask
from prefmill.scoring.attention.plan import (
    BLOCKMASK,
    SEGMENTS,
    VARLEN,
    CannotShare,
    Past,
    StreamPlan,
    to_device,
)
from prefmill.scoring.attention.sdpa import segments

__all__ = [
    "BLOCK",
    "BLOCKMASK",
    "IN_PLACE",
    "SEGMENTS",
    "VARLEN",
    "CannotShare",
    "Past",
    "StreamPlan",
    "blockmask",
    "gathered_keys",
    "our_attention",
    "segments",
    "stock_attention",
    "to_device",
    "using",
    "varlen",
    "varlen_kernel",
]


def our_attention(model: Any, device: torch.device, *, invariant: bool) -> str:
    """The form of attention for streams that serves a model, on its device and in its dtype."""
    if device.type != "cuda":
        return SEGMENTS
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    flash = model.dtype in (torch.bfloat16, torch.float16) and size <= 256 and size % 8 == 0
    if flash and not _is_capped(model) and torch.cuda.get_device_capability(device) >= (8, 0):
        return VARLEN
    # FlexAttention adds up in blocks of the stream, so that the last bits of a score depend on
    # where its row stands.
    if invariant:
        return SEGMENTS
    return BLOCKMASK


def stock_attention(model: Any) -> str:
    """The model's own attention for single rows and padded batches.

    scaled_dot_product_attention has no soft-capping.
    """
    if _is_capped(model):
        return "eager"
    return str(model.config._attn_implementation)


def _is_capped(model: Any) -> bool:
    return getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None


@contextmanager
def using(model: Any, name: str) -> Iterator[None]:
    """`model` with the attention `name`; a stream under a stock name would be silently wrong."""
    before = model.config._attn_implementation
    if before != name:
        model.set_attn_implementation(name)
    try:
        yield
    finally:
        if before != name:
            model.set_attn_implementation(before)
