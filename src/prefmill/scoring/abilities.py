"""Which attention serves a model, on its device and in its dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prefmill.scoring import attention


def our_attention(model: Any, device: torch.device, *, invariant: bool) -> str:
    """The form of attention for streams; see `attention.py`."""
    if device.type != "cuda":
        return attention.SEGMENTS
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    flash = model.dtype in (torch.bfloat16, torch.float16) and head_dim <= 256 and head_dim % 8 == 0
    if flash and not capped and torch.cuda.get_device_capability(device) >= (8, 0):
        return attention.VARLEN
    # FlexAttention adds up in blocks of the stream, so that the last bits of a score depend on
    # where its row stands.
    return attention.SEGMENTS if invariant else attention.BLOCKMASK


def stock_attention(model: Any) -> str:
    """The model's own attention for single rows and padded batches; scaled_dot_product_attention
    has no soft-capping.
    """
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else str(model.config._attn_implementation)


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
