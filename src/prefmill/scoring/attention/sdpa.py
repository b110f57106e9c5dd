"""`segments`: scaled_dot_product_attention segment by segment; any device and dtype."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention as _sdpa

from prefmill.scoring.attention.plan import SEGMENTS, StreamPlan, registered


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _segments(
    plan: StreamPlan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of each segment over its prefix and itself."""
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    shape = (1, query.shape[2], heads, value.shape[-1])
    out = torch.empty(shape, dtype=query.dtype, device=query.device)
    for start, end, prefix_start, prefix_end in plan.segments:
        shared = prefix_end - prefix_start
        own_query = query[:, :, start:end]
        own_key, own_value = key[:, :, start:end], value[:, :, start:end]
        if shared:
            own_key = torch.cat((key[:, :, prefix_start:prefix_end], own_key), dim=2)
            own_value = torch.cat((value[:, :, prefix_start:prefix_end], own_value), dim=2)
        rows, columns = end - start, shared + end - start
        window = sliding_window
        if window is not None and window >= columns:
            window = None
        if softcap is None and not shared and window is None:
            result = _sdpa(
                own_query, own_key, own_value, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        else:
            # Lower-right alignment: the last query sees every key. SDPA's own is_causal is
            # upper-left.
            mask = plan.visible(rows, columns, window)
            if softcap is None:
                result = _sdpa(
                    own_query, own_key, own_value, mask, scale=scaling, enable_gqa=grouped
                )
            else:
                result = _capped(own_query, own_key, own_value, mask, scaling, softcap)
        out[:, start:end] = result.transpose(1, 2)
    return out


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention with scores softcap * tanh(score / softcap); the softmax is in float32.

    No fused kernel of PyTorch has that.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(2, 3) * scale
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


segments = registered(SEGMENTS, _segments)
