"""Attention over packed streams, in three forms that compute the same: registered with Transformers by name, never patched in.

The plan of a stream travels as the keyword argument `prefmill_plan` of the model's forward. Transformers makes no mask for a name that it
does not know, hands the argument down to every attention layer, and calls the function registered under the name.

    segments   scaled_dot_product_attention segment by segment; any device and dtype; what CPUs use
    varlen     one call of torch.nn.attention.varlen for all segments; CUDA (SM80 and newer), bfloat16 and float16
    blockmask  FlexAttention under one block mask; CUDA where varlen cannot serve: float32, soft-capped scores, odd head sizes

Grouped-query attention, sliding windows and (segments, blockmask) soft-capping are honoured; an argument that could change the result and
is not known here raises `CannotShare`, and the model is then scored in padded batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as _sdpa
from transformers import AttentionInterface

from prefmill.scoring.packing import Stream

# No part of a name may be that of a stock implementation ("sdpa", "flash_attention", "flex_attention"): Transformers matches substrings.
SEGMENTS, VARLEN, BLOCKMASK = "prefmill_segments", "prefmill_varlen", "prefmill_blockmask"

# Handed to attention by some models and without effect on what it computes.
_HARMLESS = frozenset({
    "position_ids", "cache_position", "past_key_values", "past_key_value", "use_cache", "output_attentions", "output_hidden_states",
    "dropout", "deterministic", "layer_idx", "position_embeddings", "return_dict", "num_items_in_batch", "cache", "training",
})  # fmt: skip


class CannotShare(Exception):
    """This model's attention cannot follow a plan, and why."""


class StreamPlan:
    """What attention needs to know of one stream, and what it computes once for all layers. `calls` counts layers."""

    def __init__(self, stream: Stream, device: torch.device, length: int | None = None) -> None:
        self.length = length or len(stream)
        self.segments: list[tuple[int, int, int, int]] = [tuple(row) for row in stream.segments.tolist()]
        if self.length > len(stream):  # padding to a constant shape: a segment of its own that nobody looks at
            self.segments.append((len(stream), self.length, len(stream), len(stream)))
        self.device = device
        self.calls = 0
        self._kept: dict[Any, Any] = {}

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `make`, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def visible(self, rows: int, columns: int, window: int | None) -> torch.Tensor:
        """Which of `columns` keys each of the last `rows` positions sees, shape (rows, columns)."""
        if (rows, columns, window) not in self._kept:
            seen = torch.ones(rows, columns, dtype=torch.bool, device=self.device).tril(columns - rows)
            self._kept[rows, columns, window] = seen if window is None else seen.triu(columns - rows - window + 1)
        return self._kept[rows, columns, window]  # type: ignore[no-any-return]


def _checked(module: Any, plan: StreamPlan | None, mask: Any, is_causal: bool | None, others: dict[str, Any]) -> StreamPlan:
    if plan is None:
        raise CannotShare("the model does not hand its keyword arguments to attention")
    if mask is not None:
        raise CannotShare("the model makes an attention mask of its own")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise CannotShare("its attention looks both ways")
    strange = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None and value is not False)
    if strange:
        raise CannotShare(f"its attention takes {', '.join(strange)}")
    plan.calls += 1
    return plan


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segments(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, scaling: float | None = None,
    dropout: float = 0.0, prefmill_plan: StreamPlan | None = None, sliding_window: int | None = None, softcap: float | None = None,
    is_causal: bool | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention of each segment over its prefix and itself.

    query shape (1, heads, tokens, head_dim); key, value shape (1, kv_heads, tokens, head_dim). Returns (1, tokens, heads, head_dim).
    """
    plan = _checked(module, prefmill_plan, attention_mask, is_causal, others)
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    out = torch.empty((1, query.shape[2], heads, value.shape[-1]), dtype=query.dtype, device=query.device)
    for start, end, prefix_start, prefix_end in plan.segments:
        shared = prefix_end - prefix_start
        own_key, own_value = key[:, :, start:end], value[:, :, start:end]
        if shared:
            own_key = torch.cat((key[:, :, prefix_start:prefix_end], own_key), dim=2)
            own_value = torch.cat((value[:, :, prefix_start:prefix_end], own_value), dim=2)
        rows, columns = end - start, shared + end - start
        window = sliding_window if sliding_window is not None and sliding_window < columns else None
        own_query = query[:, :, start:end]
        if softcap is not None:
            visible = plan.visible(rows, columns, window)
            result = _capped(own_query, own_key, own_value, visible, scaling, softcap)
        elif shared or window is not None:
            # Lower-right alignment: the last query sees every key. SDPA's own is_causal is upper-left.
            visible = plan.visible(rows, columns, window)
            result = _sdpa(own_query, own_key, own_value, attn_mask=visible, scale=scaling, enable_gqa=grouped)
        else:
            result = _sdpa(own_query, own_key, own_value, is_causal=True, scale=scaling, enable_gqa=grouped)
        out[:, start:end] = result.transpose(1, 2)
    return out, None


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor, scaling: float | None, softcap: float
) -> torch.Tensor:
    """Attention with scores softcap * tanh(score / softcap), which no fused kernel of PyTorch has; the softmax is in float32."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def varlen(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, scaling: float | None = None,
    dropout: float = 0.0, prefmill_plan: StreamPlan | None = None, sliding_window: int | None = None, softcap: float | None = None,
    is_causal: bool | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """All segments in one flash-attention call whose queries and keys have lengths of their own; shapes as in `segments`.

    Keys and values of a prefix are gathered once for each segment that sees it: bytes moved, not work done, below 1 % of a layer.
    """
    plan = _checked(module, prefmill_plan, attention_mask, is_causal, others)
    if softcap is not None:
        raise CannotShare("flash attention has no soft-capping")
    cu_q, cu_k, max_q, max_k, gathered = plan.kept("varlen", lambda: _cumulative(plan))
    flat_query, flat_key, flat_value = (x[0].transpose(0, 1) for x in (query, key, value))
    if gathered is not None:
        flat_key, flat_value = flat_key.index_select(0, gathered), flat_value.index_select(0, gathered)
    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
    out = varlen_kernel()(
        flat_query.contiguous(), flat_key.contiguous(), flat_value.contiguous(), cu_q, cu_k, max_q, max_k,
        scale=scaling, window_size=window, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out[None], None


def varlen_kernel() -> Callable[..., torch.Tensor]:
    """`torch.nn.attention.varlen.varlen_attn`; a function of its own so that tests can put a plain reference in its place."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn  # type: ignore[return-value]


def _cumulative(plan: StreamPlan) -> tuple[torch.Tensor, torch.Tensor, int, int, torch.Tensor | None]:
    """Cumulative lengths of queries and keys, int32, shape (segments + 1,), their maxima, and the order in which keys are gathered (None:
    as they are)."""
    table = np.asarray(plan.segments, np.int64)
    own, shared = table[:, 1] - table[:, 0], table[:, 3] - table[:, 2]
    cu_q, cu_k = (np.concatenate(([0], np.cumsum(n))).astype(np.int32) for n in (own, own + shared))
    gathered = None
    if shared.any():
        pieces = [np.arange(a, b) for start, end, p, q in plan.segments for a, b in ((p, q), (start, end))]
        gathered = to_device(np.concatenate(pieces), plan.device)
    return to_device(cu_q, plan.device), to_device(cu_k, plan.device), int(own.max()), int((own + shared).max()), gathered


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on `device`; the copy to a GPU does not wait."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def blockmask(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, scaling: float | None = None,
    dropout: float = 0.0, prefmill_plan: StreamPlan | None = None, sliding_window: int | None = None, softcap: float | None = None,
    is_causal: bool | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """FlexAttention over the whole stream; shapes as in `segments`. The stream's length must be a multiple of 128 on CUDA (the engine pads
    it)."""
    plan = _checked(module, prefmill_plan, attention_mask, is_causal, others)
    mask = plan.kept(("blockmask", sliding_window), lambda: _block_mask(plan, sliding_window))
    score_mod = None
    if softcap is not None:

        def score_mod(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return softcap * torch.tanh(score / softcap)

    out = flex_kernel(query.device.type)(
        query, key, value, score_mod=score_mod, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.transpose(1, 2).contiguous(), None


_compiled: Callable[..., Any] | None = None


def flex_kernel(device: str) -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled once for all lengths on CUDA, eager elsewhere."""
    global _compiled
    from torch.nn.attention.flex_attention import flex_attention

    if device != "cuda":
        return flex_attention
    if _compiled is None:
        # Every new pair of flags is a recompile; past the limit dynamo would run it uncompiled, which needs memory for all scores.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        _compiled = torch.compile(flex_attention, dynamic=True)
    return _compiled


def _block_mask(plan: StreamPlan, window: int | None) -> Any:
    """Same group, and (the key is of the prefix, or query and key are of one segment), and causal in the positions of the row."""
    from torch.nn.attention.flex_attention import create_block_mask

    length = plan.length
    segment, family, position, head = (np.zeros(length, np.int32) for _ in range(4))
    for number, (start, end, prefix_start, prefix_end) in enumerate(plan.segments):
        shared = prefix_end - prefix_start
        segment[start:end] = number
        family[start:end] = prefix_start if shared else start  # where the family's first token stands: one number for prefix and suffixes
        position[start:end] = np.arange(shared, shared + end - start)
        head[start:end] = not shared
    seg, fam, pos, top = (to_device(x, plan.device) for x in (segment, family, position, head))

    def visible(batch: torch.Tensor, heads: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        seen = (fam[q] == fam[k]) & ((top[k] == 1) | (seg[q] == seg[k])) & (pos[q] >= pos[k])
        return seen if window is None else seen & (pos[q] - pos[k] < window)

    return create_block_mask(visible, None, None, length, length, device=str(plan.device))


for _name, _function in ((SEGMENTS, segments), (VARLEN, varlen), (BLOCKMASK, blockmask)):
    AttentionInterface.register(_name, _function)
